"""Lines of text that state several fields, and words of fields in text that is not read."""

from __future__ import annotations

import html
import re

from soundcert.lint.fields import FIELDS, GREEK, point_of, resolve
from soundcert.lint.numbers import parse, plain

# What a field is found by in prose, after a number or before one. Written of text in lower case, without marks.
_LINK = r"(?:\s{0,3}[=:≈~]|\s(?:(?:is|was|of|at|to|about|level|number)\s){0,3})\s{0,3}[~≈]?\.?\d"
_COUNT = r"\d[\d,._ ]{0,12}k?\s(?:[a-z-]{1,20}\s){0,2}"
_MENTIONED = {
    "sigma": r"sigma|noise level|noise std|standard deviation",
    "n0": r"n_?\{?0\}?\s?=|selection (?:samples|draws)",
    "n": rf"n\s?=|num_samples|{_COUNT}(?:samples|draws)",
    "alpha": r"alpha|failure probability|error probability|confidence (?:level|of)|with confidence|% confidence(?! int)",
    "bound": r"clopper|hoeffding|runner-up",
    "norm": r"l_?\{?2\b|l_?\{?inf|euclidean",
    "noise": r"gaussian|laplac",
    "gain_policy": r"(?:rms|peak|loudness|amplitude|level)[- ]?normali[sz]|normali[sz]ed to|unit rms",
    "abstained": r"abstain|abstention",
    "dataset": r"esc-?[15]0|speech commands|audioset|urbansound|librispeech",
    "split": r"(?:test|testing|validation|held-out) (?:set|split)|folds? \d",
    "clips": rf"{_COUNT}(?:clips|recordings|utterances|examples)",
    "rate": r"\d{1,9}\s?k?hz|sampling rate|sample rate",
    "seconds": r"\d[\d.]{0,9}[\s-]?(?:s|ms|seconds?)\s(?:long|clips?|segments?|windows?|of audio)|clip length",
    "seed": rf"seeds?{_LINK}",
    "interval": r"confidence interval|95\s?% (?:ci|interval|confidence)",
    "raw_radius": rf"radi(?:us|i){_LINK}|r\s?=\s?\.?\d",
    "signal_scale": r"snr|\d[\d.]{0,9}\s?db\b",
}
_WORDS = {name: re.compile(rf"(?<![a-z0-9_])(?:{words})") for name, words in _MENTIONED.items()}
_ANY = re.compile(rf"(?<![a-z0-9_])(?:{'|'.join(_MENTIONED.values())})")
_MARKUP = str.maketrans("", "", "$*`")
# Their values are lists of steps, with numbers of their own.
_OF_STEPS = ("pre_noise", "post_noise", "geometry")
_APART = re.compile(r"\s*(?:[,;]\s+(?:and\s+)?|;|,(?=[^\W\d])|\s(?:and|with|where|using|at)\s)\s*")
_ASSIGNED = re.compile(
    r"([^:=|]{1,40}?)\s*[:=]\s*("
    r"[≈~]?\s?[-+−]?\.?\d[\d.,_'\s]{0,20}(?:[eE][-+−]?\d{1,3})?"
    r"(?:\s?[×x*·]\s?10\^?\{?[-+−⁻⁰¹²³⁴⁵⁶⁷⁸⁹\d]{1,4}\}?|\^\{?[-+−]?\d{1,4}\}?|[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4}|/\d{1,9})?"
    r"(?:\s?(?:±|\+/-)\s?[\d.]{1,20})?"
    r"(?:\s?(?:%|per cent|[^\W\d_][^\W\d_²]{0,15}))?(?:\s?\([^()=]{1,60}\))?)"
)
_SENTENCE_END = re.compile(r"(?<=[\w)\s%][\w)%])\.\s+(?=[A-Z])")  # and no `i.i.d. Gaussian`
_IN_BRACKETS = re.compile(r"([^()=]*?)\s\(([^()]+)\)[.,;]*")


def mentions(text: str) -> set[str]:
    """Return what every report is asked for (`word_rules.asked`) and prose has words of.

    >>> sorted(mentions("We certify with n = 1000 draws at a confidence level of 99.9 %."))
    ['alpha', 'n']
    """
    bare = " ".join(html.unescape(text).translate(_MARKUP).lower().translate(GREEK).split())
    return {name for name, words in _WORDS.items() if words.search(bare)} if _ANY.search(bare) else set()


def parts_of(label: str, text: str) -> list[tuple[str, str]]:
    """Return the fields of a line that states several: the label with its own value, then the others.

    A line is parted only where all that follows is a known field and its number, each another one.

    >>> parts_of("Noise", "Gaussian, sigma = 0.25, N = 1,000.")
    [('Noise', 'Gaussian'), ('sigma', '0.25'), ('N', '1,000')]
    """
    own, whole = resolve(label), plain(text)
    if own is None or own[0] in _OF_STEPS or point_of(label) or not re.search("[=:]", whole):
        return [(label, text)]
    said = _SENTENCE_END.split(whole, maxsplit=1)[0]
    head, found = _fields_at_end(said)
    if not found and (bracket := _IN_BRACKETS.fullmatch(said)):
        before, found = _fields_at_end(bracket[2])
        head, found = bracket[1], [] if before or len(found) < 2 else found
    # What is cut off may be so in its last number; a figure has a value of its own.
    # And what is set off before the fields may be about another work: "…, while we trained before with sigma = 0.5".
    sound = (
        not re.search("[=,;]", head) and not said.endswith("…") and (head or FIELDS[own[0]].kind == "text")
    )
    if found and sound and _belong({own[0]}, [name for name, _, _ in found]):
        return [(label, head), *((part, value) for _, part, value in found)]
    return [(label, text)]


def _fields_at_end(text: str) -> tuple[str, list[tuple[str, str, str]]]:
    """Return what stands before the fields at the end of a text, and these."""
    text = text.rstrip(" .,;")
    signs = list(_APART.finditer(text))
    starts, ends = [0, *(s.end() for s in signs)], [*(s.start() for s in signs), len(text)]
    found: list[tuple[str, str, str]] = []
    while starts and (last := _assigned(text[starts.pop() : ends.pop()])) is not None:
        found.insert(0, last)
        if not starts:
            return "", found
    return text[: signs[len(starts)].start()] if found else text, found


def _assigned(piece: str) -> tuple[str, str, str] | None:
    """Return the field, label and value of `known field = number`, else None."""
    match = _ASSIGNED.fullmatch(piece.strip())
    found = resolve(match[1]) if match else None
    if match is None or found is None or (FIELDS[found[0]].kind == "text" and found[0] != "seed"):
        return None
    number = parse(match[2], FIELDS[found[0]].kind, found[1])
    if number is None or (found[0] in ("n", "n0") and (resolve(number.unit) or ("",))[0] == "clips"):
        return None
    return found[0], match[1], match[2].strip()


def _belong(own: set[str], names: list[str]) -> bool:
    """Whether fields may be those of one line: each once, and n beside others of a certificate, as it may count clips."""
    of_certificate = {"sigma", "n0", "alpha", "confidence", "noise", "bound"}
    if len(own | set(names)) != len(own) + len(names):
        return False
    return "n" not in names or bool((own | set(names)) & of_certificate)
