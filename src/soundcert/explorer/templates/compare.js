
{
  const LETTERS = "ABCDEF";
  const readable = page.runs.filter((r) => r.readable);
  const asked = new URLSearchParams(location.hash.slice(1));
  const known = (id) => readable.some((r) => r.id === id);
  let sides = asked.getAll("run").filter(known).slice(0, 6);
  let space = asked.get("in") === "file" ? "file" : "object";
  const next = latest();

  function chooser() {
    const boxes = sides.map((id, i) => {
      const select = make("select", { "aria-label": `Run ${LETTERS[i]}`, on: { change: (e) => { sides[i] = e.target.value; chooser(); compare(); } } }, make("option", { value: "" }, "choose a run"), ...readable.map((r) => make("option", { value: r.id, disabled: r.id !== id && sides.includes(r.id) }, r.name)));
      select.value = id;
      const drop = sides.length > 2 ? make("button", { type: "button", class: "quiet", "aria-label": `Leave out run ${LETTERS[i]}`, on: { click: () => { sides.splice(i, 1); chooser(); compare(); } } }, "×") : null;
      return make("span", { class: "side" }, make("b", { class: `letter s${i}` }, LETTERS[i]), select, drop);
    });
    const more = page.live && sides.length < Math.min(6, readable.length) ? make("button", { type: "button", class: "quiet", id: "more", on: { click: () => { sides.push(""); chooser(); document.querySelector(".side:last-of-type select")?.focus(); } } }, "Add a run") : null;
    const focused = document.activeElement?.getAttribute?.("aria-label");
    $("sides").replaceChildren(...boxes, more ?? "");
    if (focused) document.querySelector(`#sides [aria-label="${focused}"]`)?.focus();
    for (const radio of document.querySelectorAll("#spaces input")) radio.checked = radio.value === space;
  }
  for (const radio of document.querySelectorAll("#spaces input")) radio.addEventListener("change", () => { space = radio.value; compare(); });
  $("choose").addEventListener("submit", (e) => e.preventDefault());

  async function compare() {
    const ids = sides.filter(Boolean), box = $("result");
    history.replaceState(null, "", `#${new URLSearchParams([...ids.map((id) => ["run", id]), ["in", space]])}`);
    if (ids.length < 2) {
      box.replaceChildren(make("p", { class: "fine" }, readable.length < 2 ? "Two runs are needed: this folder has fewer that can be read." : "Choose two runs."));
      return;
    }
    const signal = next();
    let found;
    box.setAttribute("aria-busy", "true");
    const late = setTimeout(() => box.replaceChildren(make("p", { class: "working" }, space === "file" ? "Carrying the radii to the file’s samples, with proof…" : "Comparing…")), 150);
    try {
      found = page.live ? await ask("/api/compare", [...ids.map((id) => ["run", id]), ["in", space]], { signal }) : ready(ids);
    } catch (error) {
      clearTimeout(late);
      if (error.name === "AbortError") return;
      box.removeAttribute("aria-busy");
      box.replaceChildren(make("p", { class: "notice", role: "alert" }, error.message));
      return;
    }
    clearTimeout(late);
    box.removeAttribute("aria-busy");
    box.replaceChildren(...show(found));
    plotAll(found);
  }
  // What was computed beforehand, in one order: asked for in the other, the runs change places.
  function ready(ids) {
    if (!page.ready[`${ids.join(" ")} ${space}`] && page.ready[`${[...ids].reverse().join(" ")} ${space}`]) {
      sides = ids = ids.reverse();
      chooser();
    }
    const found = page.ready[`${ids.join(" ")} ${space}`];
    if (!found) throw new Error("This comparison was not computed beforehand. soundcert explore, or soundcert compare, makes it.");
    if (found.error) throw new Error(found.error);
    return found;
  }

  const list = (lines, cls) => (lines.length ? make("ul", { class: cls }, ...lines.map((l) => make("li", {}, ticked(l)))) : null);
  function show(c) {
    const out = [];
    const verdict = make("section", { class: `verdict ${c.comparable ? "ranked" : "refused"}`, "aria-label": "Verdict" }, make("h2", {}, c.comparable ? c.verdict : `✗ ${c.verdict}`));
    if (!c.comparable) verdict.append(list(c.reasons, "reasons"), list(c.remedies, "remedies") ?? "");
    if (!c.comparable && c.to_file && space !== "file") verdict.append(make("button", { type: "button", class: "strong", id: "to-file", on: { click: () => { space = "file"; chooser(); compare(); } } }, "Compare on the file’s samples"));
    if (c.loud.length) verdict.append(list(c.loud, "loud"));
    out.push(verdict);
    out.push(make("ul", { class: "legend sides" }, ...c.sides.map((s, i) => make("li", {}, make("b", { class: `letter s${i}` }, s.letter), make("span", {}, isolated(s.name), make("span", { class: "fine" }, ` ${s.said}${c.comparable && c.space !== "object" ? `; radii ${s.from}` : ""}`), list([...s.warnings, ...s.left_out], "fine"))))));
    out.push(make("h2", {}, c.comparable ? "Certified accuracy, one scale" : "Each by itself, on its own scale: not to be ranked"), make("div", { id: "plots", class: c.comparable ? "one" : "apart" }), make("p", { class: "fine" }, "Counted at the marked points; between them a line leads the eye."));
    for (const pair of c.pairs) out.push(...pairBox(c, pair));
    if (c.stages.length) out.push(make("h2", {}, "Where the pipelines differ"), stages(c));
    const differ = c.facts.filter((f) => !f.same), same = c.facts.filter((f) => f.same);
    if (differ.length) out.push(scroll("Properties that differ", make("table", { class: "diff" }, make("thead", {}, make("tr", {}, make("td", {}), ...c.sides.map((s, i) => make("th", { scope: "col" }, make("b", { class: `letter s${i}` }, s.letter))))), make("tbody", {}, ...differ.map((f) => make("tr", { class: f.decides ? "decides" : "differs" }, make("th", { scope: "row" }, f.decides ? "≠ " : "~ ", f.name), ...f.values.map((v) => make("td", {}, isolated(v)))))))), make("p", { class: "fine" }, "≠ decides the contract; ~ is part of what is compared."));
    if (same.length) out.push(make("p", { class: "fine" }, "Same: ", ...same.flatMap((f, i) => [i ? "; " : "", `${f.name} `, isolated(f.values[0])])));
    if (c.caveats.length) out.push(make("details", {}, make("summary", {}, "What to keep in mind"), list(c.caveats, "caveats")));
    return out.filter(Boolean);
  }
  const scroll = (name, table) => make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, table);
  function stages(c) {
    const words = { above: "above the noise", noise: "the noise", below: "below the noise" };
    const rows = c.stages.map((s) => make("tr", { class: s.same ? s.place : s.place === "above" && c.space === "object" ? `decides ${s.place}` : `differs ${s.place}` }, make("td", { class: "fine" }, words[s.place]), make("th", { scope: "row" }, make("code", {}, isolated(s.stage))), ...s.present.map((p, i) => make("td", { class: "has" }, p ? make("b", { class: `letter s${i}` }, c.sides[i].letter) : make("span", { class: "fine" }, "–")))));
    return scroll("Stages of the pipelines", make("table", { class: "diff stages" }, make("tbody", {}, ...rows)));
  }
  function pairBox(c, pair) {
    const [i, j] = [LETTERS.indexOf(pair.first), LETTERS.indexOf(pair.second)];
    const out = [make("h2", {}, make("b", { class: `letter s${i}` }, pair.first), " and ", make("b", { class: `letter s${j}` }, pair.second), " on the same clips")];
    const rows = [...(pair.accuracy ? [pair.accuracy] : []), ...pair.points];
    if (pair.points.length) {
      const tested = rows.some((r) => r.interval);
      const heads = [c.axis === "snr_db" ? "at SNR" : "at radius", pair.first, pair.second, `${pair.first} only`, `${pair.second} only`, `${pair.first} − ${pair.second}`, ...(tested ? [`${c.level} interval`, "all together", "p (Holm)"] : [])];
      out.push(scroll("Paired differences", make("table", { class: "pairs" }, make("thead", {}, make("tr", {}, ...heads.map((h) => make("th", { scope: "col" }, h)))), make("tbody", {}, ...rows.map((r) => make("tr", { class: r.shown ? "shown" : null }, make("th", { scope: "row" }, r.at), ...[r.first, r.second, r.first_only, r.second_only, r.difference, ...(tested ? [r.interval, r.band, r.p] : [])].map((v) => make("td", {}, v ?? "–"))))))), make("p", { class: "fine" }, "Differences in points of a hundred; bold where the data show one. † some of these stand at the other run’s ceiling."));
    }
    const shown = pair.points.filter((r) => r.shown);
    if (pair.accuracy) out.push(make("p", {}, `Labels alone: ${pair.accuracy.sentence}.`));
    if (pair.points.length && !shown.length) out.push(make("p", {}, "No difference of the curves is shown at any point."));
    for (const r of shown.slice(0, 3)) out.push(make("p", {}, `${r.sentence}.`));
    if (shown.length > 3) out.push(make("p", {}, `Shown too at ${shown.slice(3).map((r) => r.at).join(", ")}.`));
    for (const [letter, clips] of [[pair.first, pair.first_more], [pair.second, pair.second_more]]) if (clips.length) out.push(make("details", {}, make("summary", {}, `Clips on which ${letter} goes furthest beyond the other`), make("ul", {}, ...clips.map(([clip, truth, a, b]) => make("li", {}, isolated(clip), " (", isolated(truth), `): ${pair.first} ${minus(a)}, ${pair.second} ${minus(b)}`)))));
    return out;
  }

  const DASH = ["", "7 4", "2 3", "9 3 2 3", "12 4", "4 2"];
  function plotAll(c) {
    const box = $("plots");
    if (!box) return;
    const groups = c.comparable ? [c.sides.map((s, i) => [s, i])] : c.sides.map((s, i) => [[s, i]]);
    box.replaceChildren(...groups.map((g) => figure(g, c, box.clientWidth / (c.comparable ? 1 : Math.min(2, groups.length)))));
  }
  function figure(group, c, room) {
    const width = Math.max(280, Math.min(900, room - 30)), height = 280, left = 48, right = 22, top = 14, bottom = 46;
    const axis = group[0][0].axis, falling = axis === "snr_db";
    const xs = group.flatMap(([s]) => s.curve.map((p) => p[0]));
    const name = falling ? "SNR of the perturbation, dB: to the right, stronger attackers" : `radius (${group[0][0].unit})`;
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Certified accuracy over ${name}, of ${group.map(([s]) => s.name).join(" and ")}${c.comparable ? ". The same as a table below." : ""}` });
    if (!xs.length) return make("figure", { class: "plot" }, make("figcaption", {}, isolated(group[0][0].name), ": nothing is certified."));
    let [low, high] = [Math.min(...xs), Math.max(...xs)];
    if (low === high) { low -= 1; high += 1; }
    const [weak, strong] = falling ? [high, low] : [low, high];
    const x = (v) => left + (v - weak) / (strong - weak) * (width - left - right), y = (s) => top + (1 - s) * (height - top - bottom);
    for (const s of [0, 0.25, 0.5, 0.75, 1]) svg.append(draw("line", { class: s ? "grid" : "base", x1: left, x2: width - right, y1: y(s), y2: y(s) }), draw("text", { x: left - 7, y: y(s) + 4, "text-anchor": "end" }, `${100 * s} %`));
    const raw = (high - low) / Math.max(3, Math.floor(width / 90)), power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((k) => k >= raw * 0.999);
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) svg.append(draw("text", { x: x(k * step), y: height - bottom + 18, "text-anchor": "middle" }, minus(Number((k * step).toPrecision(6)))));
    svg.append(draw("text", { class: "axis", x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, width < 420 && falling ? "SNR, dB →" : name));
    for (const [s, i] of group) {
      const at = [...s.curve].sort((a, b) => x(a[0]) - x(b[0]));
      svg.append(draw("path", { class: `curve s${i}`, "stroke-dasharray": DASH[i], d: at.map(([v, share], k) => `${k ? "L" : "M"}${x(v).toFixed(1)} ${y(share).toFixed(1)}`).join("") }));
      for (const [v, share] of at) svg.append(i % 2 ? draw("rect", { class: `dot s${i}`, x: x(v) - 3.5, y: y(share) - 3.5, width: 7, height: 7 }) : draw("circle", { class: `dot s${i}`, cx: x(v), cy: y(share), r: 4 }));
      const end = at[Math.floor(at.length / (3 + i))] ?? at[0];
      svg.append(draw("text", { class: `letter-text s${i}`, x: x(end[0]) + 8, y: y(end[1]) + (y(end[1]) < top + 16 ? 20 : -9) }, s.letter));
    }
    const caption = c.comparable ? null : make("figcaption", {}, make("b", { class: `letter s${group[0][1]}` }, group[0][0].letter), isolated(group[0][0].name));
    return make("figure", { class: "plot" }, caption, svg);
  }
  while (sides.length < 2) sides.push("");
  if (!page.live && sides.every((s) => !s) && page.pairs?.length) sides = [...page.pairs[0]];
  chooser();
  compare();
  let held = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== held) { held = innerWidth; if ($("plots")) compare(); } });
}
