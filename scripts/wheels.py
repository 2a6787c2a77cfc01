"""Builds the four wheels, and the constraints file that a device installs its two of them with.

    scripts/wheels.py FOLDER

Needs the environment of ``make venv``: hatchling, and the installed distributions whose requirements it follows.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = (".", "client", "server", "simulations")
DEVICE = ("fedsus", "fedsus-client")
CONSTRAINTS = "device-constraints.txt"


def main(folder: Path) -> None:
    """Write four wheels and ``device-constraints.txt`` into ``folder``; older wheels of fedsus there are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("fedsus*.whl"):
        old.unlink()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *options, *(str(ROOT / project) for project in PROJECTS)], check=True)
    lines = device_constraints((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    (folder / CONSTRAINTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for path in sorted(folder.iterdir()):
        print(path)


def device_constraints(lock: list[str]) -> list[str]:
    """The lines of the lock that `fedsus` and `fedsus-client` need at run time, and those two at their own version."""
    needed = closure(DEVICE)
    own = [f"{name}=={distribution(name).version}" for name in DEVICE]
    lines = [line for line in lock if canonicalize_name(re.split("==", line)[0]) in needed]
    return ["# What a device installs with fedsus and fedsus-client, as locked for these wheels.", *own, *lines]


def closure(names: tuple[str, ...]) -> set[str]:
    """Canonical names of the distributions that ``names`` require at run time, themselves included, without extras."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(canonicalize_name(name), frozenset[str]()) for name in names]
    while waiting:
        name, extras = item = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            wanted = ("", *extras)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in wanted):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {str(name) for name, _ in seen}


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist"))
