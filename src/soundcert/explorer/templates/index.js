
{
  let runs = page.runs;
  const chosen = new Set();
  const reportOf = (run) => (page.live ? `/runs/${run.id}` : run.report);

  function spark(run) {
    if (!run.spark) return null;
    const width = 132, height = 34, n = run.spark.length;
    const x = (i) => (i / (n - 1) * width).toFixed(1), y = (share) => (2 + (1 - share) * (height - 4)).toFixed(1);
    const svg = draw("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", focusable: "false" });
    let d = `M0 ${y(run.spark[0])}`;
    run.spark.forEach((share, i) => { d += `H${x(i)}V${y(share)}`; });
    svg.append(draw("path", { class: "area", d: `${d}V${height}H0Z` }), draw("path", { class: "line", d }));
    return svg;
  }
  function stat(value, words, more) {
    return make("div", { class: "stat" }, make("b", {}, value), make("span", {}, words), more ? make("span", { class: "sr" }, ` (${more})`) : null);
  }
  function progress(run) {
    if (run.state === "finished" || run.state === "unreadable") return null;
    const bar = make("progress", { max: Math.max(1, run.total), value: run.done, "aria-label": `Progress of ${run.name}` });
    return make("p", { class: `going ${run.state}` }, bar, make("span", {}, run.state === "running" ? make("i", { class: "pulse", "aria-hidden": "true" }) : null, run.state_words));
  }
  function warned(run) {
    if (!run.warnings?.length) return null;
    const first = run.state === "unreadable";
    return make("details", { class: "warned", open: first }, make("summary", {}, `${run.warnings.length === 1 ? "A warning" : `${run.warnings.length} warnings`}`), make("ul", {}, ...run.warnings.map((w) => make("li", {}, isolated(w)))));
  }
  function card(run) {
    const box = make("input", { type: "checkbox", "aria-label": `Choose ${run.name} for a comparison`, checked: chosen.has(run.id), disabled: !run.readable, on: { change: (e) => { if (e.target.checked) chosen.add(run.id); else chosen.delete(run.id); tray(); } } });
    const name = isolated(run.short);
    const title = run.readable && reportOf(run) ? make("a", { href: reportOf(run) }, name) : make("span", {}, name);
    const head = make("div", { class: "head" }, make("h3", {}, title), make("p", { class: "what" }, run.readable ? [tag(run.space, run.kind), make("span", { class: "fine", title: run.unit }, ` σ ${run.sigma ?? "?"} · n ${run.n ?? "?"}`)] : tag("bad", "cannot be shown")), progress(run), warned(run));
    const stats = run.readable ? make("div", { class: "stats" },
      run.accuracy ? stat(run.accuracy, "smoothed accuracy", run.accuracy_more) : stat(`${run.counts?.[0] ?? 0}`, "certified"),
      run.radius ? stat(run.radius, `median radius${run.unit ? `, ${run.unit}` : ""}`, run.level) : null,
      run.file_level ? stat(minus(run.file_level), "proven for the file") : run.level ? stat(minus(run.level.split(" ")[0]) + " dB", run.space === "feature" ? "norm ratio" : "SNR-equivalent") : null,
      stat(`${run.done}`, run.counts[2] ? `clips, ${run.counts[2]} failed` : run.attacked ? "clips, attacked" : "clips")) : null;
    return make("li", { class: `run ${run.space ?? "bad"}`, "data-run": run.id }, box, head, stats, spark(run));
  }
  function tray() {
    for (const key of chosen) if (!runs.some((r) => r.id === key)) chosen.delete(key);
    const names = runs.filter((r) => chosen.has(r.id)).map((r) => r.short);
    $("tray").hidden = !chosen.size;
    $("chosen").replaceChildren(names.length === 1 ? "Choose one more to compare with " : "", ...names.flatMap((n, i) => [i ? " and " : "", make("b", {}, isolated(n))]));
    $("go").disabled = chosen.size < 2 || chosen.size > 6;
  }
  // The server gives the runs in the natural order of their names; sorting is stable.
  const sorts = { name: () => 0, changed: (a, b) => (b.changed ?? 0) - (a.changed ?? 0), accuracy: (a, b) => (b.accuracy_value ?? -1) - (a.accuracy_value ?? -1) };
  // Of a study with very many cells the folders are shown first, each with what its runs reach.
  const folded = new Set(page.runs.length > 60 ? page.runs.map((r) => r.group).filter(Boolean) : []);
  function reach(rows) {
    const shares = rows.filter((r) => r.accuracy).sort(sorts.accuracy);
    if (rows.length < 2 || !shares.length) return "";
    const [high, low] = [shares[0].accuracy, shares.at(-1).accuracy];
    return `, smoothed accuracy ${low === high ? low : `${low} to ${high}`}`;
  }
  function matching() {
    const words = $("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    return runs.filter((r) => words.every((w) => [r.name, r.kind, r.model, r.object, `σ ${r.sigma}`].some((t) => t?.toLowerCase().includes(w)))).sort(sorts[$("sort").value]);
  }
  function list() {
    const found = matching(), searched = $("search").value.trim() !== "";
    const groups = new Map();
    for (const run of found) groups.set(run.group, [...(groups.get(run.group) ?? []), run]);
    const many = groups.size > 1 || (groups.size === 1 && [...groups.keys()][0] !== "");
    $("runs").replaceChildren(...[...groups].map(([group, rows]) => {
      const ul = make("ul", { class: "runs" }, ...rows.map(card));
      if (!many) return ul;
      const box = make("details", { class: "group", open: searched || !folded.has(group) }, make("summary", {}, make("h2", {}, group ? isolated(group) : "In the folder itself"), make("span", { class: "fine" }, ` ${rows.length} run${rows.length === 1 ? "" : "s"}${reach(rows)}`)), ul);
      box.addEventListener("toggle", () => { if (searched) return; if (box.open) folded.delete(group); else folded.add(group); });
      return box;
    }));
    count(found);
    tray();
  }
  function count(found) {
    const going = runs.filter((r) => r.state === "running").length;
    $("count").textContent = !runs.length ? "No run is here yet: soundcert certify CONFIG --out a folder below this one makes one." : `${found.length === runs.length ? runs.length : `${found.length} of ${runs.length}`} run${runs.length === 1 ? "" : "s"}${going ? `, ${going} going on` : ""}. The small curve is certified accuracy over R/σ, from 0 to 4.`;
    $("filters").hidden = runs.length < 2;
  }
  // Only what changed is drawn again: nobody's click or place in the list is taken away.
  function renew(told) {
    const same = told.length === runs.length && told.every((r, i) => r.id === runs[i].id);
    const changed = told.filter((r, i) => JSON.stringify(r) !== JSON.stringify(runs[i]));
    runs = told;
    if (!same) { list(); return; }
    for (const run of changed) {
      const old = document.querySelector(`[data-run="${run.id}"]`);
      if (!old) continue;
      const held = document.activeElement, focus = old.contains(held) ? held.tagName : null, open = old.querySelector(".warned")?.open;
      const fresh = card(run);
      if (open && fresh.querySelector(".warned")) fresh.querySelector(".warned").open = true;
      old.replaceWith(fresh);
      if (focus) fresh.querySelector(focus)?.focus();
    }
    if (changed.length) count(matching());
  }
  $("filters").addEventListener("submit", (e) => e.preventDefault());
  $("search").addEventListener("input", list);
  $("sort").addEventListener("input", list);
  $("clear").addEventListener("click", () => { chosen.clear(); list(); });
  $("go").addEventListener("click", () => {
    const ids = runs.filter((r) => chosen.has(r.id)).map((r) => r.id);
    location.href = `${page.live ? "/compare" : "compare.html"}#${new URLSearchParams(ids.map((id) => ["run", id]))}`;
  });
  list();

  // A run that goes on is followed; nothing is asked while nobody looks.
  async function follow() {
    if (!document.hidden) {
      try {
        const told = (await ask("/api/runs", {})).runs;
        renew(told);
        document.body.classList.remove("lost");
      } catch { document.body.classList.add("lost"); }
    }
    setTimeout(follow, runs.some((r) => r.state === "running") ? 1500 : 6000);
  }
  if (page.live) setTimeout(follow, 1500);
}
