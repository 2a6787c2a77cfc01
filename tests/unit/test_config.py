"""run.toml: each mistake is one line that names file, field, value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsus.config import RunConfig, load, loads
from fedsus.errors import ConfigError

GOOD = """\
name = "heart"
[task]
name = "heart"
[plan]
rounds = 20
[plan.cohort]
size = 4
minimum = 3
"""


def test_a_short_file_has_safe_defaults() -> None:
    config = loads(GOOD, RunConfig)
    assert config.plan.spares == 2
    assert config.plan.privacy.unit == "none"
    assert config.plan.strategy.name == "fedavg"
    assert config.plan.exchange == "secure_sum"
    assert config.server.roster == "roster.json"
    assert loads(GOOD.replace("20", "101"), RunConfig).plan.spares == 11


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rounds = 20", "rouns = 20", ("unknown field 'plan.rouns'", "did you mean 'rounds'?")),
        ("rounds = 20", "", ("field 'plan.rounds' is missing",)),
        ("rounds = 20", 'rounds = "20"', ("'plan.rounds' = '20'", "valid integer")),
        ("rounds = 20", "rounds = 0", ("'plan.rounds' = 0", "greater than or equal to 1")),
        ("rounds = 20", "rounds = 1000000", ("'plan.rounds' = 1000000", "less than or equal to 100000")),
        ("rounds = 20", "rounds = 20\ndeadline = inf", ("'plan.deadline' = inf", "finite")),
        ("rounds = 20", "rounds = 20.5", ("'plan.rounds' = 20.5", "valid integer")),
        ("rounds = 20", "rounds = true", ("'plan.rounds' = True", "valid integer")),
        ("size = 4", "size = 2", ("'plan.cohort'", "minimum 3 is larger than size 2")),
        ("rounds = 20", 'rounds = 20\nexchange = "secret"', ("'plan.exchange' = 'secret'", "'clear_sum'")),
        ("size = 4\nminimum = 3", "size = 2\nminimum = 2", ("cohort.size 2: secure_sum needs at least 3", "clear_sum")),
        ("[plan.cohort]", "[plan.secure_sum]\ncolluders = 0\n[plan.cohort]", ("'plan.secure_sum.colluders' = 0",)),
        ("[plan.cohort]", "[plan.secure_sum]\ndropout = 0.3\n[plan.cohort]", ("did you mean 'dropouts'?",)),
        ("[plan.cohort]", '[plan.strategy]\nname = "median"\n[plan.cohort]', ("'median' needs to see single updates",)),
        ("[plan.cohort]", '[plan.strategy]\nname = "sgd"\n[plan.cohort]', ("'plan.strategy.name' = 'sgd'", "'fedavg'")),
        ("[plan.cohort]", '[plan.privacy]\nunit = "example"\n[plan.cohort]', ("unit 'example' needs 'epsilon'",)),
        ("[plan.cohort]", "[plan.privacy]\nepsilon = 3.0\n[plan.cohort]", ("need unit = 'example'",)),
        ("[plan.cohort]", "[plan.encoding]\nbits = 64\n[plan.cohort]", ("'plan.encoding.bits' = 64", "equal to 32")),
        ('name = "heart"\n[plan]', 'name = "a/b"\n[plan]', ("'task.name' = 'a/b'", "pattern")),
        ("[task]", "[tsk]\n[task]", ("unknown field 'tsk'", "did you mean 'task'?")),
        ("[task]", "[task", ("not valid TOML",)),
        ("[task]", "deep = " + "[" * 5000 + "]" * 5000 + "\n[task]", ("not valid TOML", "nested too deeply")),
        ("[task]", "long = " + "1" * 5000 + "\n[task]", ("not valid TOML", "4300 digits")),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    assert old in GOOD
    file = tmp_path / "run.toml"
    file.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file, RunConfig)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{file}: ")
    for word in words:
        assert word in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run.toml: no such file"):
        load(tmp_path / "run.toml", RunConfig)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="run.toml: cannot be read"):
        load(tmp_path / "run.toml", RunConfig)


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, RunConfig)
