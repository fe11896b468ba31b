
{
  const next = latest();
  const option = ([key, title]) => make("option", { value: key }, title);
  let clip = null, url = null;
  $("recipe").append(make("optgroup", { label: "Usual pipelines" }, ...page.recipes.map(option)));
  if (page.runs.length) $("recipe").append(make("optgroup", { label: "Pipelines of the runs here" }, ...page.runs.map(option)));

  async function take(file) {
    trouble(null);
    if (file.size > page.most_bytes) { trouble(`${file.name}: at most ${page.most_bytes >> 20} MiB are taken.`); return; }
    try {
      const told = await ask("/api/clips", { name: file.name }, { method: "POST", body: file });
      clip = told.clip;
    } catch (error) { trouble(error); return; }
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(file);
    audit();
  }
  async function audit() {
    if (!clip) return;
    trouble(null);
    let told;
    $("result").setAttribute("aria-busy", "true");
    try { told = await ask("/api/audit", { clip, recipe: $("recipe").value }, { signal: next() }); } catch (error) {
      if (error.name !== "AbortError") { trouble(error); $("result").replaceChildren(); }
      return;
    } finally { $("result").removeAttribute("aria-busy"); }
    show(told);
  }
  function show(p) {
    const ratio = p.views.find((v) => v.key === "snr_db" || v.key === "norm_ratio_db");
    const file = p.file.proven && p.file.snr_db !== null ? `${minus(p.file.snr_db)} dB` : p.file.radius === "without limit" ? "no limit" : "nothing";
    const tiles = [
      ["Largest possible radius", p.radius, `n = ${p.n}, α = ${p.alpha}, σ = ${p.sigma}; unit: ${p.unit}`],
      ratio ? [ratio.key === "snr_db" ? "SNR-equivalent" : "Norm ratio, not an SNR", `${minus(ratio.value)} dB`, "of a change at that radius"] : null,
      ["Proven for the file", file, p.file.proven ? `radius ${p.file.radius} (full scale)` : p.file.reason],
    ].filter(Boolean);
    $("result").replaceChildren(
      make("h2", {}, isolated(p.clip.name)),
      make("p", { class: "fine" }, `${p.clip.seconds} s, ${p.clip.rate} Hz, ${p.clip.channels} channel${p.clip.channels === 1 ? "" : "s"}${p.clip.bits ? `, ${p.clip.bits} bits` : ""}`),
      url ? make("audio", { controls: true, src: url, "aria-label": `Play ${p.clip.name}` }) : "",
      make("p", { class: "kind" }, tag(p.space, p.kind)),
      make("ol", { class: "pipe", "aria-label": "Pipeline, from the file" }, make("li", { class: "end" }, "the file’s samples"), ...p.stages.map((s, i) => make("li", { class: i === p.noise ? "noise" : null }, make("code", {}, isolated(s))))),
      make("div", { class: "tiles" }, ...tiles.map(([n, v, m]) => make("div", { class: "tile" }, make("p", { class: "t-name" }, n), make("p", { class: "t-value" }, v), make("p", { class: "t-more" }, isolated(m))))),
      make("h3", {}, "Look twice"),
      ...(p.flags.length ? p.flags.map(flagBox) : [make("p", {}, "No flag is raised.")]),
      make("div", { class: "two" }, make("div", { class: "covered" }, make("h3", {}, "What a certificate would cover"), make("p", {}, ticked(p.covers))), make("div", { class: "unclaimed" }, make("h3", {}, "What is not claimed"), make("ul", {}, ...p.not_claimed.map((l) => make("li", {}, ticked(l)))))),
      make("h3", {}, "All figures"),
      facts([["Gain policy", p.gain_policy], p.gain && ["Gain of this clip", p.gain], ["Norm of the object, ‖v‖", p.norm], ...p.views.map((v) => [v.title, `${minus(v.value)} ${v.unit}`.trim()]), p.geometry && ["Displacement · sensitivity", p.geometry.join(" · ")]]),
      ...(p.file.proven ? [make("h3", {}, "The chain of proofs to the file"), make("ol", { class: "chain" }, ...p.file.chain.map(([s, r]) => make("li", {}, make("code", {}, isolated(s)), make("span", {}, r))))] : []),
    );
  }
  $("own").addEventListener("change", (e) => { if (e.target.files[0]) take(e.target.files[0]); });
  $("sample").addEventListener("click", () => { clip = page.clips[Math.floor(Math.random() * page.clips.length)]; url = null; audit(); });
  $("recipe").addEventListener("change", audit);
  $("ask").addEventListener("submit", (e) => e.preventDefault());
  for (const name of ["dragenter", "dragover"]) addEventListener(name, (e) => { e.preventDefault(); $("zone").classList.add("over"); });
  addEventListener("dragleave", (e) => { if (!e.relatedTarget) $("zone").classList.remove("over"); });
  addEventListener("drop", (e) => {
    e.preventDefault();
    $("zone").classList.remove("over");
    if (e.dataTransfer.files[0]) take(e.dataTransfer.files[0]);
  });
}
