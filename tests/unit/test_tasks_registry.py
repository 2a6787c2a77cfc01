"""Names of tasks, and what is said of wrong ones."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from pydantic import BaseModel

from fedsus.errors import ConfigError
from fedsus.plan import Strict
from fedsus.tasks.heart import HeartDisease
from fedsus.tasks.registry import build, resolve

if TYPE_CHECKING:
    from pathlib import Path


def test_built_in_names_and_references_resolve_to_the_class() -> None:
    assert resolve("heart") is HeartDisease
    assert resolve("fedsus.tasks.heart:HeartDisease") is HeartDisease
    assert resolve("fashion-mnist").__name__ == "FashionMnist"


@pytest.mark.parametrize("module", ["fedsus.tasks.registry", "fedsus.tasks.table", "fedsus.model_file"])
def test_importing_does_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("hart", "task 'hart': unknown; did you mean 'heart'?"),
        ("zzz", "task 'zzz': unknown; built in: heart, fashion-mnist, watch, shakespeare, adult; or 'module:Class'"),
        ("", "task '': unknown"),
        ("a:b:c", "task 'a:b:c': unknown"),
        ("os.system('x'):y", "unknown"),
        ("no_such_module:Task", "module 'no_such_module' cannot be imported: No module named 'no_such_module'"),
        ("fedsus.tasks.heart:Nothing", "module 'fedsus.tasks.heart' has no 'Nothing'"),
        ("fedsus.tasks.heart:shipped", "not a class"),
        ("fedsus.tasks.task:DataSource", "not a task: it has no method 'model'"),
    ],
)
def test_a_wrong_reference_is_one_line(reference: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(reference)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_fails_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_task.py").write_text("raise RuntimeError('first\\nsecond')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"module 'broken_task' cannot be imported: first$"):
        resolve("broken_task:Task")


class _Open(BaseModel):
    """Settings that accept anything."""


class _Closed(Strict):
    """Settings as they should be."""


class _Shape:
    Settings: ClassVar[Any] = _Closed
    bounds: ClassVar[Any] = {"loss": (0.0, 1.0)}

    def __init__(self, settings: object) -> None:
        self.settings = settings

    def model(self, seed: int) -> None: ...
    def load(self, source: object) -> None: ...
    def loss(self, model: object, batch: object) -> None: ...
    def measure(self, model: object, batch: object) -> None: ...


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"Settings": dict}, "'Settings' must be a pydantic model"),
        ({"Settings": _Open}, "'Settings' must be frozen and forbid unknown fields"),
        ({"measure": None}, "no method 'measure'"),
    ],
)
def test_a_class_that_is_no_task_is_refused(
    members: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("shapes")
    module.Shape = type("Shape", (_Shape,), members)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shapes", module)
    with pytest.raises(ConfigError, match=message):
        resolve("shapes:Shape")


@pytest.mark.parametrize("bounds", [None, {}, {"loss": (1.0, 0.0)}, {"loss": (0.0, float("inf"))}])
def test_wrong_bounds_are_refused(bounds: Any) -> None:
    with pytest.raises(ConfigError, match="bounds"):
        build(type("Shape", (_Shape,), {"bounds": bounds}), {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 1000}, "'hidden' = 1000: should be less than or equal to 256"),
        ({"hidden": -1}, "'hidden' = -1: should be greater than or equal to 0"),
        ({"hidden": "8"}, "'hidden' = '8': should be a valid integer"),
        ({"hiden": 8}, "unknown field 'hiden'; did you mean 'hidden'?"),
    ],
)
def test_a_wrong_setting_names_field_value_and_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(HeartDisease, settings)
    assert str(caught.value) == f"settings of task 'HeartDisease': {message}"
