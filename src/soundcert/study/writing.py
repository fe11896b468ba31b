"""A study's results as files: `results.json`, `README.md`, `tables.tex` and one SVG a data set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from soundcert.errors import ConfigError, SoundcertError
from soundcert.report.latex import escape
from soundcert.report.markdown import escaped
from soundcert.study.figures import curves_svg
from soundcert.study.tables import Table, tables
from soundcert.study.words import explanations, published

Results = Mapping[str, Any]
RESULTS = "results.json"


def write_study(results: Results, out: Path, command: str) -> list[Path]:
    """Write all forms into a folder and return the files. command: how they are made again."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}; choose another folder") from None
    files = {RESULTS: json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False) + "\n"}
    pictures: list[str] = []
    for data in dict.fromkeys(r["data"] for r in results["targets_reached"]):
        name = f"certified-accuracy-{data}.svg"
        try:
            files[name] = curves_svg(results, data)
        except SoundcertError as error:  # a missing extra costs a picture, not the tables
            files[name.replace(".svg", ".txt")] = f"{error}\n"
            continue
        pictures.append(name)
    files["README.md"] = markdown(results, pictures, command)
    files["tables.tex"] = latex(results, command)
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in files]


def markdown(results: Results, pictures: list[str], command: str) -> str:
    """Return the study's page."""
    found = tables(results)
    lines = [f"# {escaped(results['title'])}", "", f"Written by `{command}`, from the run directories.", ""]
    if joined := results["joined"]:
        lines[2] += (
            f" {len(joined)} of the {len(results['cells'])} cells are not among them: they stand here as another run of "
            "the study, or an earlier one, wrote them down (`joined` in results.json names them)."
        )
    lines += [
        f"- **{escaped(d['title'])}**: {escaped(d['note'])}" for d in results["data"].values() if d["note"]
    ]
    lines += ["", _choices(results)]
    if results["unfinished"]:
        names = ", ".join(f"`{name}`" for name in results["unfinished"])
        lines += ["", f"> **Not finished:** {names}. What depends on them is left out."]
    target = [t for t in found if t.name.startswith("targets-")]
    if target:
        lines += ["", "## Certified accuracy at target SNRs", ""]
        lines += [f"![Certified accuracy by the SNR of the perturbation]({name})" for name in pictures]
        lines += [line for t in target for line in _markdown_table(t)]
    figures = [t for t in found if t.name.endswith(("-figures", "-radii"))]
    if figures:
        lines += ["", "## Cells one by one"]
        lines += [line for t in figures for line in _markdown_table(t)]
    rows = published(results)
    if rows:
        source = results["published"]["source"]
        lines += ["", "## Beside the published figures", "", f"Published: {escaped(source)}.", ""]
        lines += ["| figure | published | here |", "|---|---|---|"]
        lines += [f"| {escaped(what)} | {escaped(theirs)} | {escaped(ours)} |" for what, theirs, ours in rows]
    told = explanations(results)
    if told:
        lines += ["", *(line for text in told for line in (text, ""))]
    rest = [t for t in found if t.name.startswith("validation-") or t.name == "cost"]
    lines += ["", "## How it was chosen, and what it cost"]
    lines += [line for t in rest for line in _markdown_table(t)]
    return "\n".join(lines).rstrip() + "\n"


def _choices(results: Results) -> str:
    """Say who chose, and how many cells testing clips were certified in beside those that are chosen."""
    said = "Epochs, σ, floors and models are chosen on validation clips; testing clips have no part in any choice."
    chosen = {choice["cell"] for choice in results["choices"]}
    competing = {choice["data"] for choice in results["choices"]}
    tested = {
        cell["name"]
        for cell in results["cells"]
        if cell["data"] in competing
        and "validation_share_at_target" in cell
        and any("testing" in split for split in cell["splits"])
    }
    if others := tested - chosen:
        said += (
            f" {len(tested)} of the cells that compete were certified on testing clips, and {len(tested & chosen)} of them "
            f"are chosen: the other {len(others)} were chosen while the grid was smaller, or are tested in any case, and "
            f"stand in {RESULTS} too."
        )
    return said


def _markdown_table(table: Table) -> list[str]:
    rule = ["---"] * table.left + ["---:"] * (len(table.head) - table.left)
    return [
        "",
        escaped(table.caption),
        "",
        "| " + " | ".join(map(escaped, table.head)) + " |",
        "|" + "|".join(rule) + "|",
        *("| " + " | ".join(map(escaped, row)) + " |" for row in table.rows),
        "",
    ]


def latex(results: Results, command: str) -> str:
    """Return the tables for an article that loads booktabs and graphicx."""
    lines = [f"% Written by {command}", "% Needs \\usepackage{booktabs,graphicx}", ""]
    for table in tables(results):
        columns = "l" * table.left + "r" * (len(table.head) - table.left)
        lines += [
            "\\begin{table}",
            "  \\centering",
            f"  \\caption{{{escape(table.caption)}}}",
            f"  \\label{{tab:{table.name}}}",
            "  \\resizebox{\\linewidth}{!}{%",
            f"  \\begin{{tabular}}{{{columns}}}",
            "    \\toprule",
            "    " + " & ".join(map(escape, table.head)) + " \\\\",
            "    \\midrule",
            *("    " + " & ".join(map(escape, row)) + " \\\\" for row in table.rows),
            "    \\bottomrule",
            "  \\end{tabular}}",
            "\\end{table}",
            "",
        ]
    return "\n".join(lines)


def check_joined(results: Results, files: Iterable[Path]) -> None:
    """Raise ConfigError where cells that were done elsewhere lack what the tables need, before anything is done."""
    try:
        markdown(results, [], "")
        latex(results, "")
        json.dumps(results, allow_nan=False).encode()
    except SoundcertError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        names = ", ".join(map(str, files))
        raise ConfigError(f"what {names} says of its cells is not complete, or was changed") from None
