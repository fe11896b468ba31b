
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
const flagBox = (f) => make("details", { class: `flag ${f.level}` }, make("summary", {}, make("b", {}, f.level === "warning" ? "Warning: " : "Note: "), f.title, make("span", { class: "detail" }, isolated(f.detail))), make("p", {}, ticked(f.meaning)), make("p", {}, ticked(f.action)));
