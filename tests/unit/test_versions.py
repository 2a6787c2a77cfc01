"""Four distributions in one version, and each declares what it imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import import_module
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = {"fedsus": ".", "fedsus_client": "client", "fedsus_server": "server", "fedsus_simulations": "simulations"}
ABOVE = {"fedsus": 0, "fedsus_client": 1, "fedsus_server": 1, "fedsus_simulations": 3}


def project(package: str) -> dict[str, Any]:
    table = tomllib.loads((ROOT / PROJECTS[package] / "pyproject.toml").read_text())["project"]
    assert isinstance(table, dict)
    return table


def requirements(package: str) -> list[Requirement]:
    return [Requirement(text) for text in project(package)["dependencies"]]


def lock() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def test_all_four_have_one_version() -> None:
    versions = {project(package)["version"] for package in PROJECTS}
    versions |= {import_module(package).__version__ for package in PROJECTS}
    assert len(versions) == 1


def test_the_changelog_begins_with_that_version() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == project("fedsus")["version"]


@pytest.mark.parametrize("package", PROJECTS)
def test_dependencies_between_the_four_are_exact(package: str) -> None:
    own = [str(r.specifier) for r in requirements(package) if r.name.startswith("fedsus")]
    assert own == [f"=={project(package)['version']}"] * ABOVE[package]


@pytest.mark.parametrize("package", PROJECTS)
def test_every_other_dependency_has_a_range_that_the_lock_meets(package: str) -> None:
    locked = lock()
    for requirement in requirements(package):
        if requirement.name.startswith("fedsus"):
            continue
        assert {s.operator for s in requirement.specifier} >= {">=", "<"}, f"{requirement}: give both ends"
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), (
            f"{requirement}: not as locked"
        )


def test_the_peers_of_the_benchmarks_are_optional_and_locked() -> None:
    """What `make venv` leaves out is still pinned: Flower's simulation engine, with the Ray that it asks for."""
    (peer,) = map(Requirement, project("fedsus_simulations")["optional-dependencies"]["peers"])
    (client,) = (r for r in requirements("fedsus_client") if r.name == peer.name)
    assert (peer.name, peer.extras, peer.specifier) == ("flwr", {"simulation"}, client.specifier)
    asked = [Requirement(text) for text in distribution("flwr").requires or ()]
    extra = [r for r in asked if r.marker is not None and not r.marker.evaluate({"extra": ""})]
    rays = [r for r in extra if r.marker is not None and r.marker.evaluate({"extra": "simulation"})]
    assert [r.name for r in rays] == ["ray"]
    assert all(r.specifier.contains(lock()[r.name]) for r in rays)
    assert "simulations[peers]" in (ROOT / "scripts" / "lock.sh").read_text()
    assert "[peers]" not in "".join(re.findall(r"^INSTALL :=.*", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_lock_names_no_build_and_no_place() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "\ntorch==2.13.0\n" in text
    for line in text.splitlines():
        assert re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line


@pytest.mark.parametrize("package", PROJECTS)
def test_what_is_imported_is_declared_and_what_is_declared_is_imported(package: str) -> None:
    brought_by = packages_distributions() | {own: [own] for own in PROJECTS}
    declared = {canonicalize_name(r.name) for r in requirements(package)}
    below = [own for own in PROJECTS if canonicalize_name(own) in declared]
    inherited = {canonicalize_name(r.name) for own in below for r in requirements(own)}
    extras = project(package).get("optional-dependencies", {})
    offered = [text for name in ("energy", "parquet", "plots", "ray") for text in extras.get(name, [])]
    optional = {canonicalize_name(Requirement(text).name) for text in offered}
    modules = third_party(ROOT / PROJECTS[package] / package)
    imported = {canonicalize_name(name) for module in modules for name in brought_by.get(module, [module])}
    imported.discard(canonicalize_name(package))
    assert imported - declared - inherited - optional == set(), "imported, not declared"
    assert {name for name in declared if not name.startswith("fedsus")} - imported == set(), "declared, not imported"


def third_party(folder: Path) -> set[str]:
    """Top-level names that the package's files import, its own and the standard library's left out.

    A benchmark's ``peer_*.py`` is run by the peer's own interpreter, and imports what is there.
    """
    names = set()
    for path in (path for path in folder.rglob("*.py") if not path.name.startswith("peer_")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {folder.name}


def test_the_docs_list_each_dependency_with_its_range() -> None:
    rows = re.findall(
        r"^\| (.+?) \| (.+?) \| (?:.+?) \|", (ROOT / "docs" / "dependencies.md").read_text(), re.MULTILINE
    )
    documented = {}
    for names, ranges in rows:
        for name in names.split(", "):
            documented[canonicalize_name(name)] = {frozenset(part.split(",")) for part in ranges.split("; ")}
    for package in PROJECTS:
        for requirement in requirements(package):
            if not requirement.name.startswith("fedsus"):
                name = canonicalize_name(requirement.name)
                assert frozenset(str(s) for s in requirement.specifier) in documented[name], name
