// What every page begins with, reports and explorer.
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
// What stands between backticks is code; html.ticked does the same in what is written without scripts.
const ticked = (text) => make("bdi", {}, String(text ?? "").split(/`([^`]*)`/).map((part, i) => (i % 2 ? make("code", {}, part) : part)));
const minus = (x) => String(x).replace("-", "−");

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
