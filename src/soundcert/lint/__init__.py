"""Reads anybody's report of certified audio, and lists what is missing, implausible or ambiguous.

`lint_report(path)` reads our run directories and files, tables of radii, YAML and Markdown cards, and runs
the rules of `RULES`, each documented in docs/lint.md. Nothing is proven by an empty list: a rule knows
figures that cannot be true, and not those that are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from soundcert.errors import InputError, did_you_mean
from soundcert.lint import accuracy_rules, radius_rules, row_rules, scale_rules, word_rules
from soundcert.lint.reading import read_report
from soundcert.lint.registry import LEVELS, RULES, Finding, Level, Rule
from soundcert.lint.report import Place, Report, Result

__all__ = [
    "LEVELS",
    "RULES",
    "Finding",
    "Level",
    "Place",
    "Report",
    "Result",
    "Rule",
    "accuracy_rules",
    "lint_report",
    "radius_rules",
    "read_report",
    "row_rules",
    "run_rules",
    "scale_rules",
    "word_rules",
]

MAX_FINDINGS = 500


def run_rules(report: Report, ignore: Collection[str] = ()) -> list[Finding]:
    """Return the findings of all rules but those ignored, worst first, each once."""
    for word in ignore:
        if word not in RULES:
            raise InputError(f"no rule is called {word!r}{did_you_mean(word, RULES)}")
    found: dict[tuple[str, str, Place], Finding] = {}
    for rule in RULES.values():
        if rule.id in ignore:
            continue
        for hit in rule.hits(report):
            place = hit.place or report.place
            finding = Finding(
                rule.id,
                hit.level or rule.level,
                hit.message,
                hit.question or rule.question,
                place,
                hit.result,
            )
            key = (rule.id, hit.message, place)
            before = found.get(key)
            if before is None:
                found[key] = finding
            elif hit.result and hit.result not in before.result.split("; ") and len(before.result) < 200:
                found[key] = replace(before, result=f"{before.result}; {hit.result}")
    order = sorted(found.values(), key=lambda f: LEVELS.index(f.level))
    return order[:MAX_FINDINGS]


def lint_report(
    path: str | Path, *, given: Mapping[str, str] | None = None, ignore: Collection[str] = ()
) -> tuple[Report, list[Finding]]:
    """Read a report and return it with what was found."""
    report = read_report(path, given)
    return report, run_rules(report, ignore)
