"""Check the licences of everything that soundcert needs, extras included, against a list of those that suit.

python scripts/licences.py [--list]

Read from the metadata of the installed packages, followed through what they need themselves. Exit code 1 names each
package whose licence is unknown or not on the list. Packages that are not installed here are left out, and counted.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

EXTRAS = ("onnx", "openvino", "tflite", "hf", "ray", "figures", "parquet")
#: Licences that allow use and distribution beside Apache-2.0; MPL-2.0 and LGPL of what is only linked at run time.
ALLOWED = re.compile(
    r"apache|\bmit\b|\bbsd\b|bsd-|0bsd|\bisc\b|python software foundation|psf|mpl|mozilla public|lgpl|"
    r"lesser general|zlib|unlicense|"
    r"historical permission|hpnd|mit-cmu|cc0|public domain|boost|ncsa|freetype",
    re.IGNORECASE,
)
REFUSED = re.compile(r"(?<!lesser )general public|(?<!l)gpl|agpl|proprietary|non-?commercial", re.IGNORECASE)
#: Packages whose metadata says nothing, or quotes a whole text, read by hand in the files that they bring.
READ = {
    "nvidia": "proprietary, of torch's CUDA builds; not part of the CPU set-up",
}


def licence(package: Distribution) -> str:
    """Return what the metadata says: the expression, else the classifiers, else the first line of the text."""
    meta = package.metadata
    if meta.get("License-Expression"):
        return str(meta["License-Expression"])
    named = [
        c.rpartition("::")[2].strip() for c in meta.get_all("Classifier", []) if c.startswith("License ::")
    ]
    named = [n for n in named if n != "OSI Approved"]
    if named:
        return "; ".join(named)
    return (str(meta.get("License") or "").strip().splitlines() or ["unknown"])[0][:80]


def needed(package: Distribution, extras: tuple[str, ...]) -> list[str]:
    """Return the names that a package requires here, with these extras."""
    from packaging.requirements import Requirement

    out = []
    for text in package.requires or ():
        requirement = Requirement(text)
        environments = [{"extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(requirement.marker.evaluate(e) for e in environments):
            out.append(requirement.name)
    return out


def main() -> int:
    waiting = [(name, ()) for name in needed(distribution("soundcert"), EXTRAS)]
    seen: dict[str, str] = {}
    absent = set()
    while waiting:
        name, extras = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in seen or key in absent:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            absent.add(key)
            continue
        seen[key] = licence(package)
        waiting += [(other, ()) for other in needed(package, extras)]
    bad = [
        name
        for name, said in seen.items()
        if (not ALLOWED.search(said) or REFUSED.search(said))
        and not any(name.startswith(known) for known in READ)
    ]
    if "--list" in sys.argv:
        for name, said in sorted(seen.items()):
            print(f"{name:32} {said}")
    print(f"licences: {len(seen)} packages, {len(bad)} to be looked at, {len(absent)} not installed here")
    for name in sorted(bad):
        print(f"  {name}: {seen[name]!r} is not on the list in scripts/licences.py", file=sys.stderr)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
