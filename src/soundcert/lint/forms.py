"""Findings for people, for machines, for JUnit readers and for GitHub annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from rich.console import Console, Group, RenderableType
from rich.text import Text

from soundcert.lint.numbers import clean
from soundcert.lint.registry import LEVELS, RULES, Finding
from soundcert.lint.report import Report

Linted = Sequence[tuple[Report, Sequence[Finding]]]
_STYLES = {"error": "bold red", "warning": "bold yellow", "missing": "bold cyan", "note": "dim"}
_GITHUB = {"error": "error", "warning": "warning", "missing": "warning", "note": "notice"}


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    return {level: sum(f.level == level for f in findings) for level in LEVELS}


def failing(findings: Sequence[Finding]) -> bool:
    """Whether anything but notes was found."""
    return any(f.level != "note" for f in findings)


def as_dict(linted: Linted) -> dict[str, Any]:
    """Return the findings as JSON values."""
    return {
        "format": 1,
        "reports": [
            {
                "file": report.place.file,
                "form": report.form,
                "results": [r.name for r in report.results],
                "counts": counts(findings),
                "not_understood": list(report.unread),
                "findings": [
                    {
                        "rule": f.rule,
                        "level": f.level,
                        "file": f.place.file,
                        "line": f.place.line,
                        "result": f.result,
                        "message": clean(f.message, 1000),
                        "question": f.question,
                    }
                    for f in findings
                ],
            }
            for report, findings in linted
        ],
    }


def as_text(linted: Linted) -> RenderableType:
    """Return the findings for a terminal: what cannot be true first, then what to ask."""
    parts: list[RenderableType] = []
    for report, findings in linted:
        parts.append(Text(f"{report.place.file}: {report.form}", style="bold"))
        for f in findings:
            line = Text(f"  {f.level:8}", style=_STYLES[f.level])
            where = f"line {f.place.line}, " if f.place.line else ""
            about = f"{f.result}: " if f.result else ""
            line.append(f"{about}{clean(f.message, 1000)}", style="" if f.level != "note" else "dim")
            line.append(f"  [{where}{f.rule}]", style="dim")
            parts.append(line)
            if f.level != "note":
                parts.append(Text(f"           ask: {f.question}", style="italic"))
        if report.unread:
            names = "; ".join(report.unread[:8]) + (" …" if len(report.unread) > 8 else "")
            parts.append(Text(f"  not read or not understood, so not checked: {names}", style="dim"))
        parts.append(Text(f"  {summary(findings)}"))
        parts.append(Text())
    return Group(*parts[:-1])


def summary(findings: Sequence[Finding]) -> str:
    """Return one line: how many of each."""
    if not findings:
        return "nothing found"
    words = {"error": "errors", "warning": "warnings", "missing": "fields not found", "note": "notes"}
    tally = ", ".join(f"{n} {words[level]}" for level, n in counts(findings).items() if n)
    return tally if failing(findings) else f"nothing found ({tally})"


def print_text(linted: Linted) -> None:
    console = Console(highlight=False)
    # A pipe gets one line a finding, whatever its width.
    console.print(as_text(linted), soft_wrap=not console.is_terminal)


def as_github(linted: Linted) -> str:
    """Return workflow commands, one line a finding."""
    lines = []
    for _, findings in linted:
        for f in findings:
            places = f"file={_property(f.place.file)}" + (f",line={f.place.line}" if f.place.line else "")
            about = f"{f.result}: " if f.result else ""
            text = f"{about}{clean(f.message, 1000)}. Ask: {f.question}"
            lines.append(
                f"::{_GITHUB[f.level]} {places},title={_property(f'soundcert {f.rule}')}::{_data(text)}"
            )
    return "\n".join(lines)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def as_junit(linted: Linted) -> str:
    """Return JUnit XML: a suite a report, a case a rule; every finding but a note is a failure."""
    suites = []
    for report, findings in linted:
        cases = []
        failed = 0
        for rule in RULES.values():
            mine = [f for f in findings if f.rule == rule.id and f.level != "note"]
            notes = [f for f in findings if f.rule == rule.id and f.level == "note"]
            head = f"    <testcase classname={_attribute(report.place.file)} name={quoteattr(rule.id)}"
            if not mine and not notes:
                cases.append(f"{head}/>")
                continue
            failed += bool(mine)
            body = ""
            if mine:
                lines = "\n".join(_line(f) for f in mine)
                body += (
                    f"      <failure type={quoteattr(mine[0].level)} message={_attribute(mine[0].message)}>"
                )
                body += f"{escape(_xml(lines))}</failure>\n"
            if notes:
                body += f"      <system-out>{escape(_xml(chr(10).join(map(_line, notes))))}</system-out>\n"
            cases.append(f"{head}>\n{body}    </testcase>")
        suites.append(
            f'  <testsuite name={_attribute(report.place.file)} tests="{len(RULES)}" failures="{failed}">\n'
            + "\n".join(cases)
            + "\n  </testsuite>"
        )
    return '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n' + "\n".join(suites) + "\n</testsuites>"


def _line(f: Finding) -> str:
    where = f"{f.place.file}:{f.place.line}: " if f.place.line else f"{f.place.file}: "
    about = f"{f.result}: " if f.result else ""
    return f"{where}{f.level}: {about}{clean(f.message, 1000)}. Ask: {f.question}"


def _xml(text: str) -> str:
    return "".join(c for c in text if c in "\t\n" or (ord(c) >= 0x20 and not 0xFFFE <= ord(c) <= 0xFFFF))


def _attribute(text: str) -> str:
    return quoteattr(_xml(clean(text, 500)))
