
(() => {
  let players = null;
  const heardAudio = (i) => (players ??= JSON.parse($("audio").textContent))[i];
  const clips = page.clips, total = clips.clip.length;

  for (const e of document.querySelectorAll(".js, .copy")) e.hidden = false;

  // --- the curve ---------------------------------------------------------------------------------
  let curve = page.curves[0], cursor = 0, marks = null;

  function ticks(low, high, about) {
    const raw = (high - low) / about, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
    const out = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) out.push(Number((k * step).toPrecision(10)));
    return out;
  }

  function plot() {
    const box = $("plot"), width = Math.max(280, box.clientWidth - 18), narrow = width < 560;
    const height = narrow ? 300 : 400, left = 50, right = 18, top = 30, bottom = 54;
    const [weak, strong] = curve.domain;
    const x = (v) => left + (Math.min(1, Math.max(0, (v - weak) / (strong - weak)))) * (width - left - right);
    const y = (share) => top + (1 - share) * (height - top - bottom);
    const m = Math.max(1, curve.total);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": described() });
    for (const share of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
      svg.append(draw("line", { class: share ? "grid" : "base", x1: left, x2: width - right, y1: y(share), y2: y(share) }));
      svg.append(draw("text", { x: left - 8, y: y(share) + 4, "text-anchor": "end" }, `${Math.round(share * 100)} %`));
    }
    for (const v of ticks(Math.min(weak, strong), Math.max(weak, strong), narrow ? 4 : 9)) {
      svg.append(draw("line", { class: "base", x1: x(v), x2: x(v), y1: y(0), y2: y(0) + 5 }));
      svg.append(draw("text", { x: x(v), y: y(0) + 20, "text-anchor": "middle" }, minus(v)));
    }
    const title = draw("text", { class: "axis", x: (left + width - right) / 2, y: height - 10, "text-anchor": "middle" }, `${curve.axis} →`);
    svg.append(title);
    // Corners: up to x_i, count_i clips are certified; beyond the last, those without limit.
    const beyond = (v) => (curve.falling ? v < weak : v > weak);
    const corners = curve.steps.map(([v, count], i) => [v, count, curve.band?.[i]]).filter(([v]) => beyond(v));
    corners.push([strong, curve.unlimited, curve.band?.at(-1)]);
    const path = (value) => {
      let d = "";
      corners.forEach((c, i) => { d += `${i ? "V" : `M${x(weak).toFixed(2)} `}${y(value(c)).toFixed(2)}H${x(c[0]).toFixed(2)}`; });
      return d;
    };
    if (curve.band) {
      const up = path((c) => c[2][1]);
      let down = "";
      [...corners].reverse().forEach((c, i, all) => { down += `L${x(c[0]).toFixed(2)} ${y(c[2][0]).toFixed(2)}H${x(i + 1 < all.length ? all[i + 1][0] : weak).toFixed(2)}`; });
      svg.append(draw("path", { class: "band", d: `${up}${down}Z` }));
    }
    if (curve.ceiling) {
      const [a, b] = curve.ceiling.map(x);
      if (b - a > 2) svg.append(draw("rect", { class: "ceil-zone", x: a, y: top, width: b - a, height: y(0) - top }));
      svg.append(draw("line", { class: "ceil", x1: b, x2: b, y1: top - 6, y2: y(0) }));
      const words = narrow ? page.ceiling.split(":")[0] : page.ceiling;
      svg.append(draw("text", { class: "ceil-text", x: b - 6, y: top - 12, "text-anchor": b > width / 2 ? "end" : "start" }, words));
    }
    svg.append(draw("path", { class: "line", d: path((c) => c[1] / m) }));
    marks = { line: draw("line", { class: "mark", y1: top, y2: y(0) }), dot: draw("circle", { class: "mark-dot", r: 5 }), x, y, m };
    svg.append(marks.line, marks.dot);
    const follow = (event) => {
      const at = svg.getBoundingClientRect();
      const want = weak + ((event.clientX - at.left) * (width / at.width) - left) / (width - left - right) * (strong - weak);
      let best = 0;
      curve.grid.forEach((g, i) => { if (Math.abs(g[0] - want) < Math.abs(curve.grid[best][0] - want)) best = i; });
      read(best);
    };
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
    // The axis title of a phone runs over two lines.
    if (title.textContent.length * 6.6 > width - left - right) {
      const words = title.textContent.split(" "), half = words.findIndex((_, i) => words.slice(0, i + 1).join(" ").length > title.textContent.length / 2);
      title.textContent = "";
      title.append(draw("tspan", { x: width / 2, y: height - 18 }, words.slice(0, half).join(" ")), draw("tspan", { x: width / 2, y: height - 3 }, words.slice(half).join(" ")));
    }
    box.replaceChildren(svg);
    read(cursor);
  }
  function described() {
    const at = (i) => `${curve.grid[i][3]} at ${minus(curve.grid[i][1])}`;
    const last = curve.grid.length - 1;
    return `Certified accuracy over ${curve.axis}: ${at(0)}, ${at(Math.floor(last / 2))}, ${at(last)}. The same as a table below.`;
  }
  function read(index) {
    cursor = index;
    const [v, text, count, share, interval] = curve.grid[index];
    $("cursor").value = index;
    marks.line.setAttribute("x1", marks.x(v)); marks.line.setAttribute("x2", marks.x(v));
    marks.dot.setAttribute("cx", marks.x(v)); marks.dot.setAttribute("cy", marks.y(count / marks.m));
    const band = interval ? `; 95\u00a0% interval ${interval[0]} to ${interval[1]}` : "";
    const words = `${share} (${count} of ${curve.total} clips${band}) are certified against ${curve.say.replace("{x}", minus(text))}.`;
    $("reading").textContent = words;
    $("cursor").setAttribute("aria-valuetext", `${minus(text)}: ${share}`);
  }
  function show(index) {
    curve = page.curves[index];
    $("cursor").max = curve.grid.length - 1;
    cursor = Math.floor(curve.grid.length / 2);
    $("axis-note").textContent = curve.note;
    $("axis-note").hidden = !curve.note;
    $("ceiling-note").textContent = page.ceiling_note;
    $("ceiling-note").hidden = !curve.ceiling;
    $("band-note").textContent = curve.band
      ? "Shaded: 95 % interval for the population that the clips were drawn from, sampling of clips and false certificates included. It is pointwise: it holds at any one strength that was chosen beforehand, not for the whole curve at once."
      : curve.total ? page.no_band : "";
    const head = make("thead", {}, make("tr", {}, ...[curve.title, "clips", "share", "95 % interval, pointwise"].map((t) => make("th", { scope: "col" }, t))));
    const rows = curve.grid.map((g) => make("tr", {}, make("th", { scope: "row" }, minus(g[1])), make("td", {}, `${g[2]} of ${curve.total}`), make("td", {}, g[3]), make("td", {}, g[4] ? `${g[4][0]} to ${g[4][1]}` : "none")));
    $("curve-table").replaceChildren(make("caption", { class: "sr" }, `Certified accuracy by ${curve.axis}`), head, make("tbody", {}, ...rows));
    plot();
  }
  page.curves.forEach((c, i) => {
    const radio = make("input", { type: "radio", name: "axis", value: i, checked: i === 0, on: { change: () => show(i) } });
    $("axes").append(make("label", {}, radio, make("span", {}, c.title)));
  });
  $("cursor").addEventListener("input", (e) => read(Number(e.target.value)));
  show(0);
  let drawn = $("plot").clientWidth;
  new ResizeObserver(() => { if (Math.abs($("plot").clientWidth - drawn) > 4) { drawn = $("plot").clientWidth; plot(); } }).observe($("plot"));

  // --- the table ---------------------------------------------------------------------------------
  const SIZE = 25, main = ["snr_db", "norm_ratio_db"].find((v) => clips.views[v]);
  const state = { sort: null, down: false, at: 0, rows: [], open: null };
  const number = (text) => (text === null || text === undefined ? NaN : text.startsWith("no limit") || text === "without limit" ? Infinity : text === "-inf" ? -Infinity : Number(text));
  const columns = [
    { key: "clip", title: "Clip", text: (i) => clips.clip[i] },
    { key: "outcome", title: "Outcome", value: (i) => clips.outcome[i] },
    { key: "label", title: "Answer", cls: "name wide", text: (i) => clips.label?.[i] ?? "" },
    { key: "truth", title: "True label", cls: "name wide", text: (i) => clips.truth[i] ?? "", has: "truth" },
    { key: "radius", title: "Radius", cls: "n", text: (i) => clips.radius[i] ?? "–", value: (i) => number(clips.radius[i]), has: "radius" },
    main && { key: main, title: main === "snr_db" ? "SNR dB" : "Ratio dB", cls: "n wide", text: (i) => clips.views[main][i] ?? "–", value: (i) => number(clips.views[main][i]) },
    clips.views.file_snr_db && { key: "file_snr_db", title: "File dB", cls: "n wide", text: (i) => clips.views.file_snr_db[i] ?? "–", value: (i) => number(clips.views.file_snr_db[i]) },
  ].filter((c) => c && (!c.has || clips[c.has]));
  const order = new Intl.Collator("en", { numeric: true });

  for (const c of columns) {
    const button = make("button", { type: "button" }, c.title);
    c.head = make("th", { scope: "col", class: c.cls }, button);
    button.addEventListener("click", () => {
      state.down = state.sort === c ? !state.down : false;
      state.sort = c;
      state.at = 0;
      list();
    });
    document.querySelector("#table thead tr").append(c.head);
  }
  const heard = new Set(Object.keys(page.heard).map(Number));
  const truths = clips.truth ? [...new Set(clips.truth.filter((t) => t !== null))].sort(order.compare) : [];
  $("f-truth-box").hidden = !truths.length;
  $("f-heard-box").hidden = !heard.size;
  for (const t of truths) $("f-truth").append(make("option", { value: t }, t));

  function filter() {
    const words = $("search").value.trim().toLowerCase(), how = $("f-outcome").value, truth = $("f-truth").value, only = $("f-heard").checked;
    const out = [];
    for (let i = 0; i < total; i++) {
      if (how !== "" && clips.outcome[i] !== Number(how)) continue;
      if (truth !== "" && clips.truth[i] !== truth) continue;
      if (only && !heard.has(i)) continue;
      if (words && ![clips.clip[i], clips.label?.[i], clips.truth?.[i]].some((t) => t?.toLowerCase().includes(words))) continue;
      out.push(i);
    }
    state.rows = out;
  }
  function list() {
    const c = state.sort, rows = state.rows.slice();
    if (c) {
      const sign = state.down ? -1 : 1;
      if (c.value) {
        const values = new Map(rows.map((i) => [i, c.value(i)]));
        // Clips without a value stand last, whichever way the others are sorted.
        rows.sort((a, b) => {
          const [p, q] = [values.get(a), values.get(b)];
          if (Number.isNaN(p) || Number.isNaN(q)) return Number.isNaN(p) - Number.isNaN(q) || a - b;
          return p === q ? a - b : sign * (p < q ? -1 : 1);
        });
      } else rows.sort((a, b) => sign * order.compare(c.text(a), c.text(b)) || a - b);
    }
    for (const k of columns) {
      if (k === c) k.head.setAttribute("aria-sort", state.down ? "descending" : "ascending"); else k.head.removeAttribute("aria-sort");
      k.head.firstChild.textContent = k.title + (k === c ? (state.down ? " ↓" : " ↑") : "");
    }
    state.at = Math.max(0, Math.min(state.at, Math.floor(Math.max(0, rows.length - 1) / SIZE) * SIZE));
    const body = document.querySelector("#table tbody");
    body.replaceChildren(...rows.slice(state.at, state.at + SIZE).map(row));
    $("shown").textContent = rows.length ? `${state.at + 1} to ${Math.min(rows.length, state.at + SIZE)} of ${rows.length}${rows.length < total ? ` (${total} in all)` : ""}` : "no clip matches";
    $("prev").disabled = state.at === 0;
    $("next").disabled = state.at + SIZE >= rows.length;
  }
  function badge(i) {
    const { name, key } = page.outcomes[clips.outcome[i]];
    return [make("span", { class: `dot ${key}`, "aria-hidden": "true" }), name];
  }
  function row(i) {
    const cells = columns.map((c) => {
      if (c.key === "clip") return make("th", { scope: "row" }, make("button", { type: "button", title: clips.clip[i], on: { click: () => open(i, true) } }, isolated(clips.clip[i])));
      if (c.key === "outcome") return make("td", {}, ...badge(i), heard.has(i) ? make("span", { title: "with audio" }, " ♪") : null);
      return make("td", { class: c.cls }, isolated(c.text(i)));
    });
    return make("tr", { class: state.open === i ? "on" : null, "data-clip": i }, ...cells);
  }
  const again = () => { state.at = 0; filter(); list(); };
  for (const id of ["search", "f-outcome", "f-truth", "f-heard"]) $(id).addEventListener("input", again);
  $("filters").addEventListener("submit", (e) => e.preventDefault());
  $("prev").addEventListener("click", () => { state.at -= SIZE; list(); });
  $("next").addEventListener("click", () => { state.at += SIZE; list(); });

  // --- one clip ----------------------------------------------------------------------------------
  function open(i, byHand) {
    state.open = i;
    for (const tr of document.querySelectorAll("#table tbody tr")) tr.classList.toggle("on", Number(tr.dataset.clip) === i);
    const panel = $("panel");
    panel.setAttribute("aria-label", "Details of one clip");
    const why = page.why[i];
    panel.replaceChildren(
      make("h3", {}, isolated(clips.clip[i])),
      make("p", { class: "fine" }, ...badge(i), why ? ` · chosen: ${why}` : ""),
      make("p", { class: "claim" }, ...claim(i)),
      ...sound(i), ...facts(i), ...chains(i), ...attack(i),
      make("a", { class: "back", href: "#clips" }, "Back to the table"),
    );
    panel.scrollTop = 0;
    if (byHand) { panel.focus({ preventScroll: true }); if (matchMedia("(max-width: 1000px)").matches) panel.scrollIntoView(); }
  }
  function claim(i) {
    const how = page.outcomes[clips.outcome[i]].key;
    if (how === "failed") return ["Could not be used: ", isolated(clips.reason?.[i] ?? "no reason is recorded"), "."];
    const votes = clips.n ? `${clips.count[i]} of ${clips.n[i]} noisy copies` : "";
    if (how === "none") return ["The likeliest answer was “", isolated(clips.label[i]), `” (${votes}), which is not enough. Nothing is claimed about this clip.`];
    const wrong = how === "wrong" ? [" Its true label is “", isolated(clips.truth[i]), "”: the certificate is about a wrong answer."] : [];
    const ceiling = clips.at_ceiling[i] ? " It is at the ceiling." : "";
    const within = clips.radius[i] === "0" ? " at some radius above 0" : ` for every change below the raw radius ${clips.radius[i]}`;
    return ["The answer “", isolated(clips.label[i]), `” holds${within} (${votes}).${ceiling}`, ...wrong];
  }
  function facts(i) {
    const rows = [];
    for (const [v, values] of Object.entries(clips.views)) {
      if (values[i] === null) continue;
      const [title, unit] = clips.view_names[v];
      rows.push([title, values[i] === "no limit" ? "no limit" : `${minus(values[i])} ${unit}`.trim()]);
    }
    const plain = [["p", "proven probability of the answer"], ["n0", "selection draws, n0"], ["norm", "norm of the object, ‖v‖"], ["gain", "gain"], ["displacement", "displacement"], ["sensitivity", "sensitivity"], ["digest", "digest of the recording"]];
    for (const [key, title] of plain) if (clips[key] && clips[key][i] !== null) rows.push([title, String(clips[key][i])]);
    if (!rows.length) return [];
    return [make("h4", {}, "The radius in other units, and the evidence"), make("dl", { class: "facts" }, ...rows.map(([k, v]) => make("div", {}, make("dt", {}, k), make("dd", {}, isolated(v)))))];
  }
  function chains(i) {
    const out = [];
    for (const [space, values] of Object.entries(clips.chains ?? {})) {
      const found = values[i];
      if (found === null) continue;
      out.push(make("h4", {}, "Carried to “", isolated(space), "”"));
      if (typeof found === "string") { out.push(make("p", { class: "fine" }, isolated(found))); continue; }
      const stages = clips.routes[found[0]];
      out.push(make("ol", { class: "chain" }, ...stages.map((s, k) => make("li", {}, make("code", {}, s), make("span", {}, found[k + 1])))));
    }
    return out;
  }
  function attack(i) {
    const lines = page.attacks[i];
    return lines?.length ? [make("h4", {}, "Found by attack"), ...lines.map((l) => make("p", { class: "fine" }, isolated(l)))] : [];
  }

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  // Anchors of viridis, which colour-blind people can read, and which keeps its order in print.
  const MAP = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37]];
  const colour = (t) => { const p = t * (MAP.length - 1), k = Math.min(MAP.length - 2, Math.floor(p)); return MAP[k].map((c, j) => c + (MAP[k + 1][j] - c) * (p - k)); };
  function picture(data, version, name) {
    const outline = new Int8Array(bytes(version.outline).buffer), count = outline.length / 2, width = 360, height = 84, left = 34;
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Waveform of ${name}: ${version.title}` });
    const x = (k) => left + k / Math.max(1, count - 1) * (width - left), y = (v) => height / 2 - v / 127 * (height / 2 - 4);
    let d = "";
    for (let k = 0; k < count; k++) d += `${k ? "L" : "M"}${x(k).toFixed(1)} ${y(outline[2 * k + 1]).toFixed(1)}`;
    for (let k = count - 1; k >= 0; k--) d += `L${x(k).toFixed(1)} ${(y(outline[2 * k]) + 0.4).toFixed(1)}`;
    svg.append(draw("line", { class: "base", x1: left, x2: width, y1: y(0), y2: y(0) }), draw("path", { class: "wave", d: `${d}Z` }));
    for (const v of [1, 0, -1]) svg.append(draw("text", { x: left - 5, y: y(v * 127) + (v > 0 ? 8 : v < 0 ? 0 : 4), "text-anchor": "end" }, minus(v)));
    const power = bytes(version.picture), cols = 160, bands = power.length / cols;
    const canvas = make("canvas", { width: cols, height: bands, role: "img", "aria-label": `Spectrogram of ${name}: ${version.title}` });
    const brush = canvas.getContext("2d"), image = brush.createImageData(cols, bands);
    for (let b = 0; b < bands; b++) for (let c = 0; c < cols; c++) {
      const [r, g, bl] = colour(power[b * cols + c] / 255), at = 4 * ((bands - 1 - b) * cols + c);
      image.data[at] = r; image.data[at + 1] = g; image.data[at + 2] = bl; image.data[at + 3] = 255;
    }
    brush.putImageData(image, 0, 0);
    const top = data.rate / 2000, small = (t) => make("small", {}, t);
    const times = [0, 0.25, 0.5, 0.75, 1].map((f) => small(`${(f * data.seconds).toFixed(2)} s`));
    return make("figure", { class: "picture" }, svg,
      make("div", { class: "spec" }, make("div", { class: "ys" }, ...[1, 0.75, 0.5, 0.25, 0].map((f) => small(`${Number((f * top).toPrecision(2))}`))), canvas, make("div", { class: "xs" }, ...times)),
      make("figcaption", {}, `${version.title}. Above, the waveform (full scale 1); below, its spectrogram in kHz, from 80 dB under the original’s peak (dark) to the peak (bright).`));
  }
  function sound(i) {
    const data = page.heard[i];
    if (!data) return [];
    const figure = make("div", {}), boxes = [], urls = heardAudio(i);
    const look = (k) => {
      figure.replaceChildren(picture(data, data.versions[k], clips.clip[i]));
      boxes.forEach((b, j) => { b.classList.toggle("on", j === k); b.querySelector("button").setAttribute("aria-pressed", j === k ? "true" : "false"); });
    };
    data.versions.forEach((v, k) => {
      const audio = make("audio", { controls: true, preload: "none", src: urls[k], "aria-label": `${clips.clip[i]}: ${v.title}` });
      audio.addEventListener("play", () => {
        look(k);
        for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
      });
      boxes.push(make("li", { class: "version" }, make("div", { class: "head" }, make("b", {}, v.title), make("button", { type: "button", "aria-label": `Draw: ${v.title}`, on: { click: () => look(k) } }, "Draw")), make("p", {}, v.note), audio));
    });
    look(0);
    const cut = data.whole > data.seconds + 0.01 ? ` The first ${data.seconds.toFixed(0)} of ${data.whole.toFixed(1)} s.` : "";
    const missing = page.waveform ? "" : " The smoothing noise lies in the features and cannot be heard.";
    return [figure, make("ul", { class: "views" }, ...boxes), make("p", { class: "fine" }, `All at one loudness and 16 bits: for listening, not as evidence.${missing}${cut}`)];
  }

  filter();
  list();
  const first = [...heard][0] ?? (total ? 0 : null);
  if (first === null) $("panel").hidden = true; else open(first, false);

  // --- copy and print ----------------------------------------------------------------------------
  for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", async () => {
    const from = $(button.dataset.copy);
    try { await navigator.clipboard.writeText(from.textContent); button.textContent = "Copied"; } catch {
      getSelection().selectAllChildren(from);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  let closed = [];
  addEventListener("beforeprint", () => { closed = [...document.querySelectorAll("details:not([open])")]; for (const d of closed) d.open = true; });
  addEventListener("afterprint", () => { for (const d of closed) d.open = false; });
})();
