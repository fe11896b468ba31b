# ruff: noqa: E501 (rows of tables stand on one line)
"""Writes docs/reliability.md from what the runs of faults, fuzzing and load left in docs/results.

python scripts/reliability.py [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
SIGNALS = {"kill": "kill -9", "term": "SIGTERM", "interrupt": "Ctrl-C (SIGINT)"}
#: What was found on the way: what happened, what was done, and the test that keeps it so.
FOUND = (
    ("SIGTERM ended a run with code 130 and said nothing (the parser of the command line took it for Ctrl-C)",
     "own exit codes, and one line that tells how to go on", "tests/faults/test_signals.py"),
    ("a signal that came in the destructor of an extension was printed and lost; the run went on",
     "raised again a moment later, or at the next clip", "tests/faults/test_signals.py"),
    ("a model that hung, at its first pass or later, hung the run for ever, Ctrl-C included",
     "a watchdog (`--watchdog SECONDS`), and an end that waits for no thread", "tests/faults/test_workers.py"),
    ("a lack of memory in a worker was a traceback", "one line, with what to lower", "tests/faults/test_workers.py"),
    ("a disk that was full at the report, or under the output, was a traceback", "one line, and `--resume`",
     "tests/faults/test_disk.py"),
    ("`demo` found out that it may not write its page when all was computed", "it looks first", "tests/faults/test_disk.py"),
    ("a recording that changed after the pilot of a budget was a KeyError", "recorded as failed, with the reason",
     "tests/faults/test_files.py"),
    ("file names that are not UTF-8 ended `certify` with a traceback", "written as JSON escapes",
     "tests/faults/test_names.py"),
    ("merge keys of YAML that double filled the memory from 1 kB", "refused", "tests/faults/test_untrusted.py"),
    ("a config of 1 MB, or a number to the base 60, took the YAML parser more than 5 s", "limits on bytes and digits",
     "tests/faults/test_untrusted.py"),
    ("a record of 10 GB without a line's end was read whole", "lines have a limit", "tests/faults/test_untrusted.py"),
    ("a pipe as a run's file was waited for", "refused", "tests/faults/test_untrusted.py"),
    ("external weights of ONNX in nodes, subgraphs and functions were not looked at", "looked at wherever they stand",
     "tests/faults/test_untrusted.py"),
    ("a config could name any installed Python function, such as one that reads pickles, without trust",
     "Python callables ask for trust", "tests/cli/test_loaders.py"),
    ("a record whose `spaces` were not soundcert's ended `report` with a traceback (found by the fuzzer)",
     "left out with a warning", "tests/fuzz/corpus/run"),
    ("an RF64 file that ended within its own table of sizes was a traceback (found by the fuzzer)",
     "recorded as failed, with the reason", "tests/fuzz/corpus/audio"),
    ("a report as CSV made the words of the whole list anew for each clip: 100 000 clips took hours", "made once",
     "tests/unit/test_load.py"),
    ("a signal that came while pydantic built a validator ended as a traceback about a schema (found by scripts/faults.py)",
     "own exit codes, and one line that tells how to go on", "tests/faults/test_signals.py"),
    ("a study that was ended waited for the trainings of its workers, or left them behind", "they end with it",
     "tests/unit/test_study.py"),
    ("`verify` took any count of a sequential test for rounding once one vote was nearly a tie",
     "the very draws are counted again, and every decision must follow from them", "tests/unit/test_verify.py"),
    ("`verify` did not count the votes of the rival class again: a forged two-class radius passed (found by a reviewer)",
     "counted, and near ties turn only to the class that they are near to", "tests/unit/test_verify.py"),
    ("`verify` compared file radii and other facts only where all counts were equal", "whatever the counts",
     "tests/unit/test_verify.py"),
    ("`verify` and `attack` ended with tracebacks on values of the wrong kind in a run", "one line, exit 2",
     "tests/unit/test_verify.py"),
    ("a study told finished runs at the α of a config that had changed since, with `--write-only` or `--only` (found by a "
     "reviewer)", "what is kept is compared with the config before any work, and before it is told",
     "tests/unit/test_study.py"),
    ("an ensemble's figures were kept when its members had been trained anew, and a list's when its labels had changed (found "
     "by a reviewer)", "weights, names and labels are compared", "tests/unit/test_study.py"),
    ("of windows whose batches ended with the recording, a network that looks at its batch was not found out (found by a "
     "reviewer)", "other batches are tried", "tests/unit/test_windows.py"),
    ("an ensemble's features were those of the first clip's rate for clips of the same length at another (found by a reviewer; "
     "no stage of ours depends on it)", "prepared for each rate", "tests/unit/test_ensemble.py"),
    ("votes were kept in 16 bits: of more than 65 536 classes the wrong one was certified (found by a reviewer)", "32 bits",
     "tests/unit/test_certify.py"),
    ("a radius that overflowed a double counted as one without limit", "the largest double", "tests/unit/test_edges.py"),
    ("a clip too long for what lattice noise takes of α ended the whole run", "recorded as failed", "tests/unit/test_certify.py"),
    ("`compare` moved lattice runs to another α without what their noise takes of it", "taken off", "tests/unit/test_compare.py"),
    ("`attack --wav` wrote outside the run for clips with absolute names", "all of it lies in the run",
     "tests/cli/test_attack_cli.py"),
    ("whole ALAC recordings of noise were refused as unfinished", "read", "tests/unit/test_audio.py"),
    ("a damaged checkpoint, or records of other kinds, ended `--resume` with a traceback", "one line, exit 2",
     "tests/unit/test_train.py"),
    ("a silent clip without a gain counted as certified at every SNR, and `verify` called its run inconsistent (found by a first-time user)",
     "it has no SNR, and is certified at none", "tests/unit/test_runs.py"),
    ("an object beyond float32 was certified, though the model had heard infinity alone; a recording of 10³⁰⁰ got a gain of 0 (found by a reviewer)",
     "values above 10¹² are refused, clip by clip", "tests/unit/test_certify.py"),
    ("a training that diverged wrote weights of NaN, with which every clip abstained (found by a reviewer)",
     "it ends with one line, and such weights are refused", "tests/unit/test_train.py"),
    ("an infinity in a stage was a traceback, a billion bands filled the memory (found by a reviewer)",
     "one line, exit 2", "tests/cli/test_bad_input.py"),
    ("`verify` said of a run whose model it could not read that it does not agree (found by a first-time user)",
     "not checked, exit 2", "tests/unit/test_verify.py"),
    ("noise of a family that somebody registered got the radius of Gaussian noise, whatever it drew (found by a reviewer)",
     "a class must say that its draws are normal, and the contract says whose word that is", "tests/unit/test_edges.py"),
    ("`verify` passed forged counts of a run that said of itself that other noise was drawn (found by a reviewer)",
     "counts are judged together too, and what that can show is said", "tests/unit/test_verify.py"),
    ("`verify` did not look at the settings in `report.json`, nor at norms and levels of clips that it did not draw again (found by a reviewer)",
     "all that follows from counts and recording is compared", "tests/unit/test_verify.py"),
    ("the 20 ms level of a stereo clip was 3 dB too high, and a norm of a million samples 2·10⁻¹² too small (found by a reviewer)",
     "all channels count; summed as a tree", "tests/unit/test_edges.py"),
    ("copies of a recording counted as clips of their own in intervals (found by a reviewer)",
     "each recording counts once, whichever copy succeeded", "tests/reference/test_bounds_reference.py"),
    ("a study took testing clips as more training clips (found by a reviewer)", "refused", "tests/unit/test_study.py"),
    ("on a GPU \"fp32\" was what torch's convolutions make of it there, with 10 bits (found by a reviewer)",
     "switched off", "tests/unit/test_randomness.py"),
    ("`compare` called two models one where their digests begin with a kind (`factory:…`), and one file with another name "
     "took the speakers from it (found by a first-time user)", "kind and digest are shown; names that do not tell stand "
     "for themselves", "tests/unit/test_compare.py"),
    ("the certificates of a model that names no labels all counted as wrong (found by a first-time user)",
     "refused, with what to add", "tests/unit/test_runs.py"),
    ("`inspect` wrote a config that certified training clips (found by a first-time user)",
     "the testing clips; elsewhere a note says how many are marked as training clips", "tests/cli/test_inspect.py"),
    ("`lint` did not read several fields on one line, and so passed a radius above its ceiling (found by a first-time user)",
     "read; what is not read is named", "tests/unit/test_lint.py"),
    ("on a GPU zeros could land on noise that was drawn already, and a second part of a model stayed on the CPU (found by a "
     "reviewer; never run on one)", "one stream makes and fills the rows; all parts move", "tests/unit/test_gpu.py"),
    ("results that a slow disk had not taken yet piled up in memory, and so did all records of a run",
     "no more clips are read, and names alone are kept", "tests/unit/test_load.py"),
)  # fmt: skip


def results(name: str) -> dict[str, Any]:
    file = ROOT / "docs" / "results" / f"{name}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


def page() -> str:
    out = ["# Reliability", "", "What was broken on purpose, how often, and what happened. Written by "
           "`python scripts/reliability.py`.", "", "## Stopped at random moments", ""]  # fmt: skip
    out += ["Each run is stopped up to six times and then left to end: complete, no clip twice, byte for byte the run that",
            "nothing happened to but for times, or the script fails. `python scripts/faults.py {kill,term,interrupt}`; a few",
            "times in CI.", "", "| signal | runs | stopped under way | clips lost | clips twice | other bytes |",
            "|---|--:|--:|--:|--:|--:|"]  # fmt: skip
    for key, found in results("faults").items():
        out.append(f"| {SIGNALS[key]} | {found['runs']} | {found['stopped']} | {found['lost']} | {found['twice']} | "
                   f"{found['different']} |")  # fmt: skip
    out += ["", "## Faults in CI", "", "| fault | how it is made | what happens |", "|---|---|---|",
            "| full disk | tmpfs of 16 kB; limits on the size of files at four places; /dev/full | exit 2, one line; nothing lost, `--resume` |",
            "| read-only folder | a bind mount without writing (root may write anywhere else) | exit 2, one line, for each verb that writes |",
            "| recordings that vanish, change, are cut, become folders or pipes | during the run | recorded as failed, or certified under the digest of what was decoded |",
            "| lack of memory | MemoryError, torch's allocator, a limit on addresses | exit 2, one line; `--resume` |",
            "| hangs | in a pass, in the first pass, in reading a file | the watchdog ends the run: exit 2; on Ray another worker takes over |",
            "| clock | every look at the wall clock gives another year | nothing changes |",
            "| two runs on one directory | begun at the same moment | one of them makes the run, the other exits with 2 |",
            "| Ctrl-C, SIGTERM, SIGHUP | under way, and while a model hangs | exit 130, 143, 129; one line tells how to go on |", ""]  # fmt: skip
    out += ["## Fuzzing", "", "`python scripts/fuzz.py TARGET --seconds N` (atheris), from the corpus in tests/fuzz/corpus; hypothesis",
            "mutates the corpus in CI, over 500 inputs. The limits are 5 s and 1 GB an input.", "",
            "| target | seconds | inputs | edges | crashes left |", "|---|--:|--:|--:|--:|"]  # fmt: skip
    for target, found in sorted(results("fuzz").items()):
        if found["ended_well"]:
            out.append(f"| {target} | {found['seconds']} | {found['inputs']} | {found['edges']} | 0 |")
    out += ["", "## Load", ""]
    for key, found in results("load").items():
        what = (
            "records appended and flushed as a run does"
            if key == "append"
            else "clips certified by a trivial model"
        )
        out += [f"{found['clips']} {what}, {found['bytes'] / 1e6:.0f} MB of records "
                f"(`python scripts/load_test.py --clips {found['clips']}{' --append' if key == 'append' else ''} --folder /dev/shm`).",
                "", "| step | seconds of a core | largest memory, MB |", "|---|--:|--:|"]  # fmt: skip
        out += [f"| {n} | {s['cpu_seconds']} | {s['megabytes']} |" for n, s in found["steps"].items()]
        out.append("")
        for n, s in found["steps"].items():
            if held := s.get("megabytes_while_writing"):
                out += [f"While `{n}` wrote, its memory was {held[0]} MB at the first record and {held[1]} MB at the last; the "
                        "rest is the list of clips before, and the summary after.", ""]  # fmt: skip
    out += ["Each step is a process of its own; importing the program is in its memory and mostly in its time.", "",
            "## Found on the way", "", "| what happened | now | test |", "|---|---|---|"]  # fmt: skip
    out += [f"| {happened} | {now} | {test} |" for happened, now, test in FOUND]
    return "\n".join(out) + "\n"


def main() -> int:
    text = page()
    if "--check" in sys.argv:
        if not PAGE.exists() or PAGE.read_text("utf-8") != text:
            print("docs/reliability.md is not what scripts/reliability.py writes", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
