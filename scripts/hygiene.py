"""Small checks over the tracked files; prints each finding as ``file:line: what`` and exits with 1.

Trailing white space, missing last newline, conflict markers, files over 500 kB, tracked build products, paths of one
machine, hosts of package indexes, private keys.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

LARGEST = 500_000
PRODUCTS = re.compile(r"(^|/)(__pycache__|\.venv|[^/]*\.egg-info|dist|build|site|runs)(/|$)")
EXACT = (".csv", ".gz", ".bin", ".safetensors", ".parquet", ".svg", ".png", ".jsonl")
PATTERNS = {
    "trailing white space": re.compile(r"[ \t]+$"),
    "conflict marker": re.compile(r"^(<{7}|>{7})( |$)"),
    "path of one machine": re.compile(r"(?<![\w.$}/])/(work|home|root|Users)/\w"),
    "host of a package index": re.compile(r"(?i)\b(pypi|pythonhosted|download\.pytorch|registry\.npmjs)\.org"),
    "private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s*$"),
}


def main() -> int:
    """Check what git tracks, or would with ``git add``; returns the exit code."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], capture_output=True, check=True
    )
    paths = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    findings = [finding for path in paths if path.is_file() for finding in check(path)]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


def check(path: Path) -> Iterator[str]:
    """Findings in one file."""
    if PRODUCTS.search(path.as_posix()):
        yield f"{path}: a build product is tracked"
    if path.stat().st_size > LARGEST:
        yield f"{path}: larger than {LARGEST // 1000} kB"
    if path.suffix in EXACT or path == Path(__file__).relative_to(Path.cwd()):
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        yield f"{path}: neither UTF-8 nor a known binary type"
        return
    if text and not text.endswith("\n"):
        yield f"{path}: no newline at the end"
    for number, line in enumerate(text.splitlines(), start=1):
        for what, pattern in PATTERNS.items():
            if pattern.search(line):
                yield f"{path}:{number}: {what}"


if __name__ == "__main__":
    sys.exit(main())
