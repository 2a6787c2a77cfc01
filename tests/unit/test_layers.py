"""The import contracts hold, and the check that holds them can fail."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "fedsus": "fedsus",
    "fedsus_client": "client",
    "fedsus_server": "server",
    "fedsus_simulations": "simulations",
}


def lint(folder: Path, config: Path, *path: str) -> subprocess.CompletedProcess[str]:
    """Runs import-linter in ``folder`` with ``path`` before everything that is installed."""
    program = (
        f"import sys; sys.path[:0] = {list(path)!r}; from importlinter.cli import lint_imports_command as run; "
        f"run(['--config', {str(config)!r}, '--no-cache', '--no-logo'])"
    )
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)


def test_the_contracts_are_kept() -> None:
    done = lint(ROOT, ROOT / "pyproject.toml", *(str(ROOT / name) for name in ("", "client", "server", "simulations")))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


VIOLATIONS = {
    "layers": ("fedsus.privacy", "import fedsus.rounds"),
    "layers, siblings": ("fedsus.strategies", "import fedsus.owner"),
    "distributions": ("fedsus.rounds", "import fedsus_server"),
    "no-transport": ("fedsus.rounds", "import flwr"),
    "server-half": ("fedsus_server", "def f():\n    import torch"),
    "server-half, through another": ("fedsus.rounds.server_half.exchange", "import fedsus.tasks"),
    "device-half": ("fedsus_client", "import fedsus.journal"),
    "bare-folders": ("fedsus_client", "import server"),
    "a module in no layer": ("fedsus.utilities", ""),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_found(name: str, tmp_path: Path) -> None:
    """A copy of the tree's skeleton, with one import too many."""
    modules = skeleton()
    if name == "bare-folders":
        modules |= {"server"}
    module, line = VIOLATIONS[name]
    write(tmp_path, modules | {module}, {module: line})
    done = lint(tmp_path, ROOT / "pyproject.toml", str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert module in done.stdout or "utilities" in done.stdout


def test_the_skeleton_alone_is_fine(tmp_path: Path) -> None:
    write(tmp_path, skeleton(), {})
    done = lint(tmp_path, ROOT / "pyproject.toml", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def skeleton() -> set[str]:
    """The packages and every module that a contract names, all of them empty."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "layers")
    named = {f"fedsus.{name.strip(' ()')}" for layer in layers for name in layer.split("|")}
    for contract in contracts:
        named |= {*contract.get("source_modules", []), *contract.get("forbidden_modules", [])}
    return {name for name in named | set(FOLDERS) if name.partition(".")[0] in FOLDERS}


def write(folder: Path, modules: set[str], bodies: dict[str, str]) -> None:
    """Each module as a package folder with an ``__init__.py``."""
    for module in modules:
        (folder / module.replace(".", "/")).mkdir(parents=True, exist_ok=True)
    for module in modules:
        (folder / module.replace(".", "/") / "__init__.py").write_text(bodies.get(module, ""))
