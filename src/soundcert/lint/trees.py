"""Reads YAML and JSON: a tree of labels and values, and the fields in it.

YAML is only composed, never constructed: no object is made from a tag, an alias is walked at most as often
as `MAX_NODES` allows, and each number keeps the digits that it was printed with.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

from soundcert.errors import InputError
from soundcert.lint.building import Builder
from soundcert.lint.fields import point_of, resolve
from soundcert.lint.numbers import Number, clean, parse, plain
from soundcert.lint.report import Place, Point
from soundcert.lint.tables import rows_of_texts

MAX_NODES = 100_000
MAX_DEPTH = 40
MAX_YAML = 131_072
_RESULTS = ("results", "result", "experiments", "rows", "runs", "tables", "reports", "datasets")
# Blocks of digests and machines, whose keys are not fields.
# Radii carried to other spaces have stages and radii of their own, under the names of the certificate's.
# The radii that `decide` asks about are no certificates.
_ASIDE = (
    "identity",
    "digest",
    "digests",
    "environment",
    "evidence",
    "subject",
    "train",
    "training",
    "spaces",
    "chain",
    "decide",
)


@dataclass(frozen=True)
class Leaf:
    text: str
    line: int | None = None


@dataclass(frozen=True)
class Branch:
    """A mapping: label, line and node of each entry, equal labels included."""

    entries: tuple[tuple[str, int | None, Any], ...]


@dataclass(frozen=True)
class Series:
    items: tuple[Any, ...]


# --- trees -----------------------------------------------------------------------------------------


def tree_of_yaml(text: str, file: str, offset: int = 0) -> Any:
    """Compose YAML into a tree. InputError where it is not YAML, or would grow without bound."""
    if len(text) > MAX_YAML:
        raise InputError(f"{file} is larger than a YAML card can be ({MAX_YAML} characters)")
    left = [MAX_NODES]

    def walk(node: yaml.Node, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > MAX_DEPTH:
            raise InputError(f"{file} holds more than a card can: {MAX_NODES} values, {MAX_DEPTH} levels")
        line = node.start_mark.line + 1 + offset
        if isinstance(node, yaml.MappingNode):
            return Branch(
                tuple(
                    (
                        str(k.value) if isinstance(k, yaml.ScalarNode) else "",
                        k.start_mark.line + 1 + offset,
                        walk(v, depth + 1),
                    )
                    for k, v in node.value
                )
            )
        if isinstance(node, yaml.SequenceNode):
            return Series(tuple(walk(v, depth + 1) for v in node.value))
        empty = node.tag == "tag:yaml.org,2002:null"
        return Leaf("" if empty else clean(str(node.value)), line)

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        return Leaf("") if root is None else walk(root, 0)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{file} is not valid YAML: {clean(str(error))}") from None
    except RecursionError:
        raise InputError(f"{file} is nested too deeply") from None


def tree_of_json(text: str, file: str) -> Any:
    """Read JSON into a tree; NaN and Infinity, which JSON does not have, are kept for the rules to find."""
    left = [MAX_NODES * 10]

    def walk(value: Any, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > MAX_DEPTH:
            raise InputError(f"{file} holds more than a report can: {MAX_NODES * 10} values")
        if isinstance(value, _Pairs):
            return Branch(tuple((clean(k), None, walk(v, depth + 1)) for k, v in value))
        if isinstance(value, list):
            return Series(tuple(walk(v, depth + 1) for v in value))
        return Leaf("" if value is None else clean(str(value)))

    try:
        values = json.loads(
            text, object_pairs_hook=_Pairs, parse_float=str, parse_int=str, parse_constant=str
        )
        return walk(values, 0)
    except RecursionError:
        raise InputError(f"{file} is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON: {clean(str(error))}") from None


class _Pairs(list[Any]):
    """The entries of a JSON object, equal keys included."""


def read_tree(tree: Any, out: Builder) -> None:
    """Take the fields of a tree. InputError where it holds no mapping."""
    if isinstance(tree, Series) and tree.items and all(isinstance(i, Branch) for i in tree.items):
        tree = Branch((("results", None, tree),))
    if not isinstance(tree, Branch):
        raise InputError(f"{out.file} holds no fields: write a mapping, one `name: value` a line")
    take(tree, out, "")


def take(branch: Branch, out: Builder, result: str = "") -> None:
    """Take the fields of a mapping."""
    for label, line, node in branch.entries:
        key = label.lower().strip()
        if key in _ASIDE and not isinstance(node, Leaf):
            continue
        if key == "metrics" and isinstance(node, Series):
            _take_metrics(node, out, result)
            continue
        if key in _RESULTS and not isinstance(node, Leaf):
            _take_results(node, out)
            continue
        found = resolve(label)
        if isinstance(node, Leaf):
            out.add(label, node.text, node.line or line, result)
        elif isinstance(node, Branch):
            _take_branch(label, line, node, found[0] if found else "", out, result)
        elif found and found[0] == "radii":
            _take_radii(node, out, line, result)
        elif all(isinstance(i, Leaf) for i in node.items):
            leaves = [i.text for i in node.items]
            name = found[0] if found else ""
            text = f"[{', '.join(leaves)}]" if name == "interval" else ", ".join(leaves)
            out.add(label, text or ("none" if name == "post_noise" else ""), line, result)
        else:
            out.unread(label)
            for item in node.items:
                if isinstance(item, Branch):
                    take(item, out, result)


def _take_branch(label: str, line: int | None, node: Branch, name: str, out: Builder, result: str) -> None:
    keys = {k.lower() for k, _, _ in node.entries}
    points = [(_radius(k), row, v) for k, row, v in node.entries if isinstance(v, Leaf)]
    if name in ("curve", "certified_accuracy") and points and all(r is not None for r, _, _ in points):
        for radius, row, leaf in points:
            accuracy = parse(leaf.text, "share")
            if accuracy is not None and radius is not None:
                out.point(Point(radius, accuracy, Place(out.file, leaf.line or row or line)), result)
    elif name and "value" in keys and keys <= {"value", "unit", "units", "note", "source", "over"}:
        parts = {k.lower(): v.text for k, _, v in node.entries if isinstance(v, Leaf)}
        unit = parts.get("unit") or parts.get("units") or ""
        out.put(name, label, f"{parts.get('value', '')} {unit}".strip(), line, result, hint=unit)
    elif name == "dataset" and (said := _said(node, "name") or _said(node, "source")):
        out.put(name, label, said, line, result)
        take(node, out, result)
    elif not any(isinstance(v, Leaf) and _radius(k) is not None for k, _, v in node.entries):
        take(node, out, result)
    else:
        out.unread(label)


def _said(node: Branch, key: str) -> str:
    return next((v.text for k, _, v in node.entries if k.lower() == key and isinstance(v, Leaf)), "")


def _take_metrics(node: Series, out: Builder, result: str) -> None:
    """Take a model card's metrics: what the first says of its setting is said of all."""
    for number, item in enumerate(i for i in node.items if isinstance(i, Branch)):
        args = next((v for k, _, v in item.entries if k == "args" and isinstance(v, Branch)), Branch(()))
        kind, value = _said(item, "type"), _said(item, "value")
        line = next((row for k, row, _ in item.entries if k == "value"), None)
        radius = parse(_said(args, "radius"))
        accuracy = parse(value, "share")
        if kind == "certified_accuracy" and radius and accuracy:
            out.point(Point(radius, accuracy, Place(out.file, line)), result)
        elif kind and kind != "certified_accuracy":
            out.add(kind, value, line, result)
        if number == 0:
            rest = [e for e in args.entries if e[0] not in ("radius", "snr_db", "file_snr_db")]
            take(Branch(tuple(rest)), out, result)


def _radius(label: str) -> Number | None:
    return point_of(label) or (
        parse(label) if re.fullmatch(r"[\d.]+(?:[eE][+-]?\d+)?", label.strip()) else None
    )


def _take_results(node: Any, out: Builder) -> None:
    if isinstance(node, Branch):
        pairs = [(k, v) for k, _, v in node.entries]
    else:
        alone = len(node.items) == 1
        pairs = [
            ("" if alone else _name_of(v) or f"result {i}", v) for i, v in enumerate(node.items, start=1)
        ]
    for name, value in pairs:
        if isinstance(value, Branch):
            take(value, out, clean(plain(name), 80))


def _name_of(value: Any) -> str:
    if not isinstance(value, Branch):
        return ""
    parts = {k.lower(): v.text for k, _, v in value.entries if isinstance(v, Leaf)}
    if parts.get("name"):
        return parts["name"]
    return ", ".join(p for k in ("dataset", "contract", "sigma") if (p := parts.get(k)))


def _take_radii(node: Series, out: Builder, line: int | None, result: str) -> None:
    leaves = [i for i in node.items if isinstance(i, Leaf)]
    lines = [leaf.line or line or 0 for leaf in leaves]
    out.rows(rows_of_texts([leaf.text for leaf in leaves], lines, Place(out.file, line)), result)
