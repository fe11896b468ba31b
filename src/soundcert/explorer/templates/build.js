
{
  let found = page.first, at = found.home;
  const state = { recipe: "log-mel", extra: "none", clip: page.clips[0], sigma: found.sigma };
  const next = latest();
  const sigmas = page.live ? Array.from({ length: 61 }, (_, i) => Number((10 ** (-3 + 3.6 * i / 60)).toPrecision(2))) : page.sigmas;
  const option = ([key, title]) => make("option", { value: key }, title);

  $("recipe").append(make("optgroup", { label: "Usual pipelines" }, ...page.recipes.map(option)));
  if (page.runs.length) $("recipe").append(make("optgroup", { label: "Pipelines of the runs here" }, ...page.runs.map(option)));
  $("extra").append(...page.extras.map(option));
  $("clip").append(...page.clips.map((name) => option([name, name])));
  $("drop").hidden = !page.live;
  $("sigma").max = sigmas.length - 1;

  function nearest(sigma) {
    let best = 0;
    sigmas.forEach((s, i) => { if (Math.abs(Math.log(s / sigma)) < Math.abs(Math.log(sigmas[best] / sigma))) best = i; });
    return best;
  }
  function sayState() {
    $("recipe").value = state.recipe; $("extra").value = state.extra; $("clip").value = state.clip;
    $("sigma").value = nearest(Number(state.sigma));
    $("sigma-says").textContent = state.sigma;
    $("budget").textContent = `n = ${found.n.toLocaleString("en").replaceAll(",", " ")} draws and α = ${found.alpha}`;
  }
  async function load(keep) {
    sayState();
    trouble(null);
    const before = found.places.length;
    let told;
    try {
      told = page.live ? await ask("/api/build", state, { signal: next() }) : page.ready[[state.recipe, state.extra, state.clip, state.sigma].join(" ")];
      if (!told) throw new Error("This was not computed beforehand: soundcert explore computes it.");
    } catch (error) {
      if (error.name !== "AbortError") trouble(error);
      return;
    }
    found = told;
    at = keep && found.places.length === before ? at : found.home;
    line();
    show();
  }
  for (const id of ["recipe", "extra", "clip"]) $(id).addEventListener("change", (e) => {
    state[id] = e.target.value;
    if (id === "recipe") {
      state.extra = "none";
      const own = [...page.recipes, ...page.runs].find(([key]) => key === state.recipe)[2];
      if (own && (page.live || sigmas.includes(Number(own)))) state.sigma = own;
    }
    load(id === "clip");
  });
  $("sigma").addEventListener("input", (e) => { state.sigma = String(sigmas[e.target.value]); load(true); });
  $("knobs").addEventListener("submit", (e) => e.preventDefault());
  $("own").addEventListener("change", async (e) => {
    const file = e.target.files[0];
    if (!file) return;
    try {
      const told = await ask("/api/clips", { name: file.name }, { method: "POST", body: file });
      $("clip").append(option([told.clip, told.name]));
      state.clip = told.clip;
      load(true);
    } catch (error) { trouble(error); }
    e.target.value = "";
  });

  // --- the pipeline, with the noise at one of its places -----------------------------------------
  let noise = null;
  const words = (p) => (p.ok ? `${p.kind}, certified: ${p.object}` : `does not work here: ${p.reason}`);
  function move(to, byKey) {
    const place = Math.max(0, Math.min(found.places.length - 1, to));
    if (place === at) return;
    at = place;
    settle();
    show();
    if (byKey) noise.focus();
  }
  function stageText(text) {
    const cut = text.indexOf("(");
    return cut < 0 ? [make("b", {}, isolated(text))] : [make("b", {}, isolated(text.slice(0, cut))), make("small", {}, isolated(text.slice(cut + 1, -1)))];
  }
  function line() {
    const rows = [make("li", { class: "end" }, make("span", {}, "the file’s samples"))];
    found.stages.forEach((s, i) => rows.push(make("li", { class: "stage", "data-at": i }, make("span", {}, ...stageText(s)))));
    rows.push(make("li", { class: "end" }, make("span", {}, "the classifier")));
    noise = make("div", { id: "noise", role: "slider", tabindex: "0", "aria-orientation": "vertical", "aria-label": "Place of the noise in the pipeline", "aria-valuemin": "0", "aria-valuemax": found.places.length - 1, on: { keydown: key, pointerdown: grab } }, make("span", { class: "grip", "aria-hidden": "true" }, "⠿"), make("span", {}, make("b", {}, "noise"), make("small", {}, ` σ = ${found.sigma}`)));
    const up = make("button", { type: "button", class: "quiet", id: "up", "aria-label": "Noise one stage up", on: { click: () => move(at - 1) } }, "↑");
    const down = make("button", { type: "button", class: "quiet", id: "down", "aria-label": "Noise one stage down", on: { click: () => move(at + 1) } }, "↓");
    rows.push(make("li", { class: "noise", id: "noise-row" }, noise, make("span", { class: "arrows" }, up, down)));
    $("line").replaceChildren(...rows);
    settle();
  }
  function settle() {
    const row = $("noise-row"), list = $("line"), before = row.getBoundingClientRect().top;
    // Stages are moved and the noise stays: what has the pointer or the focus is never taken out of the page.
    const others = [...list.children].filter((li) => li !== row);
    for (const li of others.slice(0, at + 1)) if (row.compareDocumentPosition(li) & Node.DOCUMENT_POSITION_FOLLOWING) list.insertBefore(li, row);
    for (const li of others.slice(at + 1)) list.append(li);
    others.forEach((li, i) => li.classList.toggle("above", i <= at));
    const p = found.places[at];
    others.forEach((li) => li.classList.remove("after"));
    if (p.ok && p.space === "post") others.slice(at + 1, -1).forEach((li) => { if (p.changes.includes(Number(li.dataset.at))) li.classList.add("after"); });
    noise.setAttribute("aria-valuenow", at);
    noise.setAttribute("aria-valuetext", `${at ? `below ${found.stages[at - 1]}` : "on the file’s samples"}: ${words(p)}`);
    $("up").disabled = at === 0;
    $("down").disabled = at === found.places.length - 1;
    const moved = before - row.getBoundingClientRect().top;
    if (moved && before && !matchMedia("(prefers-reduced-motion: reduce)").matches) row.animate([{ translate: `0 ${moved}px` }, { translate: "0 0" }], { duration: 140, easing: "ease-out" });
  }
  function key(e) {
    const to = { ArrowUp: at - 1, ArrowLeft: at - 1, ArrowDown: at + 1, ArrowRight: at + 1, Home: 0, End: found.places.length - 1 }[e.key];
    if (to === undefined) return;
    e.preventDefault();
    move(to, true);
  }
  function grab(e) {
    if (e.button) return;
    noise.setPointerCapture(e.pointerId);
    noise.classList.add("held");
    const follow = (m) => {
      const centres = [...document.querySelectorAll("#line .stage")].map((li) => [Number(li.dataset.at), li.getBoundingClientRect()]);
      // The noise stands below every stage whose middle is above the pointer.
      move(centres.filter(([, box]) => m.clientY > box.top + box.height / 2).length);
    };
    const drop = () => {
      noise.classList.remove("held");
      noise.removeEventListener("pointermove", follow);
    };
    noise.addEventListener("pointermove", follow);
    for (const name of ["pointerup", "pointercancel"]) noise.addEventListener(name, drop, { once: true });
  }

  // --- what is certified there -------------------------------------------------------------------
  const features = (p) => p.space === "feature" || p.space === "latent";
  function loud(p) {
    if (p.noise_db === null) return ["–", "the clip is silent"];
    const db = Number(p.noise_db), size = `${Math.abs(db).toFixed(1)} dB`;
    return [size, features(p) ? `${db >= 0 ? "below" : "above"} the features, by their norm` : `${db >= 0 ? "quieter" : "louder"} than the clip`];
  }
  function show() {
    const p = found.places[at], box = $("what");
    for (const bar of document.querySelectorAll("#strip [data-at]")) bar.classList.toggle("on", Number(bar.dataset.at) === at);
    if (!p.ok) {
      $("brief").replaceChildren("cannot be certified here");
      box.replaceChildren(make("p", { class: "notice" }, "With the noise here the pipeline cannot be certified: ", isolated(p.reason)));
      strip();
      return;
    }
    $("brief").replaceChildren(tag(p.space, p.kind), ` ${p.file.proven && p.file.snr_db !== null ? `${minus(p.file.snr_db)} dB` : p.file.radius === "without limit" ? "no limit" : "nothing"} proven for the file`);
    const ratio = p.views.find((v) => v.key === "snr_db" || v.key === "norm_ratio_db");
    const isSnr = ratio?.key === "snr_db";
    const tiles = [
      ["Raw radius, at most", p.radius, `ℓ2, in ${p.values.toLocaleString("en").replaceAll(",", " ")} values; unit: ${p.unit}`],
      ratio ? [isSnr ? "SNR-equivalent" : "Norm ratio, not an SNR", `${minus(ratio.value)} dB`, isSnr ? "of a change at that radius" : "depends on gain, unit and floor of the features"] : null,
      ["Proven for the file", p.file.proven ? p.file.snr_db === null ? (p.file.radius === "without limit" ? "no limit" : "nothing") : `${minus(p.file.snr_db)} dB` : "nothing", p.file.proven ? `radius ${p.file.radius} (full scale)` : p.file.reason],
      ["The noise itself", loud(p)[0], `${loud(p)[1]}; σ = ${found.sigma} each value`],
      p.geometry ? ["Displacement · sensitivity", p.geometry.map(minus).join(" · "), p.geometry.join() === "1,1" ? "nothing changes the noisy object" : "how far the input moves, and how much noise is left, × the noise"] : ["Displacement · sensitivity", "–", "a stage below changes the shape: distances cannot be compared"],
    ].filter(Boolean);
    box.replaceChildren(
      make("p", { class: "kind", id: "kind" }, tag(p.space, p.kind)),
      make("p", { class: "object" }, "Certified: ", make("b", {}, isolated(p.object)), make("span", { class: "fine" }, ` (${p.location})`)),
      p.instead ? make("p", { class: "fine", id: "instead" }, p.instead) : "",
      make("div", { class: "tiles" }, ...tiles.map(([n, v, m]) => make("div", { class: "tile" }, make("p", { class: "t-name" }, n), make("p", { class: "t-value" }, v), make("p", { class: "t-more" }, isolated(m))))),
      make("div", { class: "two" },
        make("div", { class: "covered" }, make("h3", {}, "What a certificate here covers"), make("p", {}, ticked(p.covers)), make("p", { class: "fine" }, "Gain policy: ", ticked(p.gain_policy), p.gain ? ` (this clip: ${p.gain})` : "", ".")),
        make("div", { class: "unclaimed" }, make("h3", {}, "What is not claimed"), make("ul", {}, ...p.not_claimed.map((l) => make("li", {}, ticked(l)))))),
      ...(p.flags.length ? [make("h3", {}, "Look twice"), ...p.flags.map(flagBox)] : []),
      make("details", {}, make("summary", {}, "All units, and the chain of proofs"), facts(p.views.map((v) => [v.title, `${minus(v.value)} ${v.unit}`.trim()])), p.file.proven ? make("ol", { class: "chain" }, ...p.file.chain.map(([s, r]) => make("li", {}, make("code", {}, isolated(s)), make("span", {}, r)))) : make("p", { class: "fine" }, isolated(p.file.reason))),
    );
    strip();
  }
  function strip() {
    const box = $("strip"), n = found.places.length, width = Math.max(280, box.clientWidth - 18), row = 34, left = Math.min(210, width * 0.42), right = width > 700 ? 330 : 80;
    const levels = found.places.map((p) => (p.ok && p.file.proven && p.file.level !== null ? p.file.level : null));
    const finite = levels.filter((v) => v !== null), top = Math.max(10, ...finite), low = Math.min(0, ...finite);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${n * row + 8}`, role: "img", "aria-label": `SNR proven for the file, by the place of the noise: ${found.places.map((p, i) => `${i ? `below ${found.stages[i - 1].split("(")[0]}` : "on the file"} ${levels[i] === null ? "nothing" : `${p.file.snr_db} dB`}`).join("; ")}` });
    const x = (v) => left + (v - low) / (top - low) * (width - left - right);
    found.places.forEach((p, i) => {
      const y = i * row + 4, g = draw("g", { "data-at": i, class: i === at ? "on" : "" });
      g.append(draw("rect", { class: "back", x: 0, y, width, height: row - 4, rx: 6 }));
      g.append(draw("text", { class: "name", x: 10, y: y + 20 }, i ? `below ${found.stages[i - 1].split("(")[0]}` : "on the file"));
      if (levels[i] !== null) g.append(draw("rect", { class: `bar-${p.space}`, x: Math.min(x(0), x(levels[i])), y: y + 7, width: Math.max(2, Math.abs(x(levels[i]) - x(0))), height: row - 18, rx: 3 }));
      g.append(draw("text", { x: levels[i] === null ? left : Math.max(x(0), x(levels[i])) + 8, y: y + 20 }, `${levels[i] === null ? (p.ok && p.file.radius === "without limit" ? "no limit" : "nothing proven") : `${minus(p.file.snr_db)} dB`}`));
      if (p.ok && width > 700) g.append(draw("text", { class: "name", x: width - 10, y: y + 20, "text-anchor": "end" }, `noise ${loud(p).join(" ").replace(", by their norm", "")}`));
      g.addEventListener("click", () => move(i));
      svg.append(g);
    });
    box.replaceChildren(svg);
  }
  sayState();
  line();
  show();
  addEventListener("resize", strip);
}
