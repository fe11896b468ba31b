r"""LaTeX: the reporting paragraph and three tables, for `\input` into an article that loads booktabs.

Everything that is not ours is escaped, so that a clip named `\input{secrets}` is printed and not obeyed.
Characters that pdfTeX with its default fonts does not have are printed as [U+1F600].
"""

from __future__ import annotations

import re
import unicodedata

from soundcert.report.accuracy import (
    TABLE_AXES,
    Row,
    accuracy_rows,
    grouped,
    joined,
    labelled,
    share_name,
    some_warnings,
)
from soundcert.report.checklist import checklist
from soundcert.report.shares import percent
from soundcert.report.tables import contract_rows, figure_rows
from soundcert.report.words import plain_words
from soundcert.runs import Run
from soundcert.runs.summary import tied

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", '"': r"\char34{}", "`": r"\`{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\u00a0": "~", "\u202f": r"\,",
    "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\ldots{}", "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}", "“": r"\textquotedblleft{}", "”": r"\textquotedblright{}",
}  # fmt: skip
_MATHS = {
    "σ": r"\sigma", "α": r"\alpha", "η": r"\eta", "φ": r"\varphi", "Φ": r"\Phi", "δ": r"\delta", "Δ": r"\Delta",
    "λ": r"\lambda", "κ": r"\kappa", "ℓ": r"\ell", "‖": r"\|", "≤": r"\le", "≥": r"\ge", "≠": r"\neq",
    "≈": r"\approx", "−": "-", "×": r"\times", "÷": r"\div", "±": r"\pm", "·": r"\cdot", "→": r"\to", "½": r"\frac12",
    "√": r"\surd", "∞": r"\infty", "°": r"^\circ", "²": "^2", "³": "^3", "¹": "^1", "⁻": "^-", "₀": "_0",
    "₁": "_1", "₂": "_2",
}  # fmt: skip
#: Letters that LaTeX sets in its default encoding as they are.
_LETTERS = frozenset("ÀÁÂÃÄÅÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝàáâãäåçèéêëìíîïñòóôõöøùúûüýÿßæÆœŒ")


def escape(text: object) -> str:
    """Return text that LaTeX prints as it stands. Line breaks and tabs become spaces."""
    out = []
    before = ""
    for char in unicodedata.normalize("NFC", str(text)):
        if char in _SPECIAL:
            piece = _SPECIAL[char]
        elif char in _MATHS:
            piece = f"${_MATHS[char]}$"
        elif char in "\n\r\t":
            piece = " "
        elif char in "-,'?!" and before == char:
            piece = "{}" + char  # two of them would be joined into another sign
        elif " " <= char <= "~" or char in _LETTERS:
            piece = char
        else:
            piece = f"[U+{ord(char):04X}]"
        out.append(piece)
        before = char
    # ℓ2 is written with the index low, and n0 too; both are ours and not likely in names.
    return "".join(out).replace(r"$\ell$2", r"$\ell_2$")


def latex(run: Run) -> str:
    """Return the fragment: paragraph, contract, main figures, certified accuracy."""
    slug = re.sub(r"[^a-z0-9]+", "-", run.name.lower()).strip("-") or "run"
    parts = [
        f"% Written by soundcert {_comment(run.info.get('soundcert') or '?')} from the run {_comment(run.name)}.\n"
        "% It needs \\usepackage{booktabs}. What to report follows arXiv 2606.04210; certificates: arXiv 1902.02918.\n",
        _paragraph(run),
        _facts(f"Contract of the run {escape(run.name)}: what each certificate covers.", f"tab:{slug}-contract",
               [*contract_rows(run), ("Not claimed", " ".join(plain_words(run).not_claimed) or "not recorded")]),
        _facts(f"Main figures of the run {escape(run.name)}. Radii are rounded down, decibels of a ratio up.",
               f"tab:{slug}-figures", figure_rows(run)),
        _accuracy(run, slug),
    ]  # fmt: skip
    return "\n".join(p for p in parts if p)


def _comment(text: object) -> str:
    """Text inside a comment: nothing in it can end the line."""
    return re.sub(r"[^\w .+-]", "?", str(text), flags=re.ASCII)


def _warnings(run: Run) -> str:
    return "".join(f"\\textbf{{Warning: {escape(w)}.}}\n" for w in some_warnings(run, 100))


def _paragraph(run: Run) -> str:
    said = "\n".join(f"\\emph{{{escape(what)}:}} {escape(text)}" for what, text in checklist(run))
    return f"\\paragraph{{Randomized smoothing.}}\n{_warnings(run)}{said}\n"


def _facts(caption: str, label: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(
        f"\\raggedright {escape(name)} & \\raggedright {escape(value)} \\tabularnewline\n"
        for name, value in rows
    )
    return (
        f"\\begin{{table}}[tbp]\n\\centering\n\\caption{{{caption}}}\n\\label{{{label}}}\n"
        f"\\begin{{tabular}}{{@{{}}p{{0.27\\linewidth}}p{{0.68\\linewidth}}@{{}}}}\n\\toprule\n{body}\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def _accuracy(run: Run, slug: str) -> str:
    tables = accuracy_rows(run)
    if not tables:
        return ""
    lines = []
    for axis, rows in tables.items():
        unit = escape(run.contract.get("unit") or "own unit") if axis == "radius" else "dB"
        lines.append(
            f"\\midrule\n\\multicolumn{{4}}{{@{{}}l}}{{\\emph{{{escape(TABLE_AXES[axis])} ({unit})}}}} \\\\\n"
        )
        lines += [_line(row, some=axis == "radius") for row in rows]
    total = next(iter(tables.values()))[0].total
    how = (
        f"There are no intervals: {reason}."
        if (reason := tied(run.usable))
        else "Intervals are pointwise: each holds at one level chosen beforehand."
    )
    name = share_name(run)
    lost = "abstentions count as errors" if labelled(run) else "abstentions are not certified"
    caption = f"{name[0].upper()}{name[1:]} of the run {run.name}, of {grouped(total)} clips; {lost}. {how}"
    return (
        f"\\begin{{table}}[tbp]\n\\centering\n\\caption{{{escape(caption)}}}\n\\label{{tab:{slug}-accuracy}}\n"
        "\\begin{tabular}{@{}rrrl@{}}\n\\toprule\nLevel & Clips & Share & 95~\\% interval \\\\\n"
        f"{''.join(lines)}\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _line(row: Row, *, some: bool) -> str:
    level = "any above 0" if some and row.value == 0 else row.level
    cells = [level, grouped(row.count), joined(percent(row.count, row.total)), row.interval_text()]
    return " & ".join(escape(c) for c in cells) + " \\\\\n"
