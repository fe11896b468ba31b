
"use strict";
const $ = (id) => document.getElementById(id);
const page = JSON.parse($("data").textContent);

// Elements are made of text nodes alone: no name of a run or a clip can become markup.
function make(tag, more = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(more)) {
    if (k === "on") for (const [name, f] of Object.entries(v)) e.addEventListener(name, f);
    else if (v !== null && v !== undefined && v !== false) e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return e;
}
function draw(tag, more = {}, text) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [k, v] of Object.entries(more)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  return e;
}
const isolated = (text) => make("bdi", {}, text ?? "");
const minus = (x) => String(x).replace("-", "−");

async function ask(path, params, options = {}) {
  const query = new URLSearchParams(params);
  let answer;
  try { answer = await fetch(`${path}?${query}`, options); } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is soundcert explore still running?");
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error ?? `The server answered ${answer.status}.`);
  return told;
}
function trouble(error) {
  const box = $("trouble");
  box.hidden = !error;
  box.textContent = error ? error.message ?? error : "";
}
// One answer at a time: an older question is dropped when a newer one is asked.
function latest() {
  let asked = null;
  return () => { asked?.abort(); asked = new AbortController(); return asked.signal; };
}

const SPACES = { waveform: "waveform", post: "waveform, changed after the noise", feature: "features", latent: "activations", none: "" };
const tag = (space, words) => make("span", { class: `tag ${space}` }, words ?? SPACES[space]);
const facts = (rows) => make("dl", { class: "facts" }, ...rows.filter(Boolean).map(([k, v]) => make("div", {}, make("dt", {}, k), make("dd", {}, v instanceof Node ? v : isolated(v)))));
const flagBox = (f) => make("details", { class: `flag ${f.level}` }, make("summary", {}, make("b", {}, f.level === "warning" ? "Warning: " : "Note: "), f.title, make("span", { class: "detail" }, isolated(f.detail))), make("p", {}, f.meaning), make("p", {}, f.action));

{
  const themes = [["", "as the system"], ["light", "light"], ["dark", "dark"]];
  let theme = 0;
  $("theme").hidden = false;
  $("theme").addEventListener("click", () => {
    theme = (theme + 1) % themes.length;
    const [key, word] = themes[theme];
    if (key) document.documentElement.dataset.theme = key; else delete document.documentElement.dataset.theme;
    $("theme").textContent = `Colours: ${word}`;
  });
}
