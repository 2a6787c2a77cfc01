"""TOML files to frozen configuration, at the edge only.

Every mistake ends in one `ConfigError` line: file, field, value, what is allowed.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from fedsus.costs import Costs
from fedsus.errors import ConfigError
from fedsus.plan import Cohort, Encoding, Exchange, Metrics, Name, NonNegative, Positive, Strict, TaskPart, Training
from fedsus.settings.budgets import RunBudget
from fedsus.settings.carbon import CarbonSettings
from fedsus.settings.downlink import Downlink
from fedsus.settings.energy import EnergySettings
from fedsus.settings.privacy import AdaptiveConfig as AdaptiveConfig
from fedsus.settings.privacy import PrivacyConfig as PrivacyConfig
from fedsus.settings.schedule import ScheduleSettings

T = TypeVar("T", bound=BaseModel)


_NEED_SINGLE_UPDATES = ("median", "trimmed_mean", "krum", "multi_krum", "bulyan")


class StrategyConfig(Strict):
    """``[plan.strategy]``: how the mean update changes the model."""

    name: Literal["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"] = "fedavg"
    learning_rate: Positive = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Annotated[float, Field(gt=0, le=1)] = 1e-3

    @field_validator("name", mode="before")
    @classmethod
    def _sees_a_sum(cls, value: Any) -> Any:
        """Robust aggregation is asked for often enough to say why it is not there."""
        if value in _NEED_SINGLE_UPDATES:
            reason = "needs to see single updates, which nobody may: the server learns their sum alone"
            raise ValueError(f"'{value}' {reason}; choose fedavg, fedavgm, fedadam, fedyogi or fedadagrad")
        return value


class SecureSumConfig(Strict):
    """``[plan.secure_sum]``: what a masked sum withstands; each device checks it against its owner's policy.

    Attributes:
        choice: who is asked when the roster has more members than ``cohort.size``: "drawn" by the roster's own
            randomness, of a few draws the one with most who are connected; "named": the server chooses of those
            connected, and each device joins if its owner named enough of them in policy.toml.
        colluders: A, how many clients of a cohort may work together with a lying server; when not given, what devices
            ask for by default: a quarter of the roster, a tenth from 200 members, at least 1; of a drawn cohort as many
            of these as it can hold but for a chance of 2**-128.
        dropouts: D, how many may fall out; when not given, what A leaves of a cohort below 200, at most a third; from
            200 on a tenth.
        light_deadline: seconds that a phase without training may take.
        grace: seconds that the slowest have in such a phase once enough have answered.
    """

    choice: Literal["drawn", "named"] = "drawn"
    colluders: Annotated[int, Field(ge=1, le=100_000)] | None = None
    dropouts: Annotated[int, Field(ge=0, le=100_000)] | None = None
    light_deadline: Annotated[float, Field(gt=0, le=3600)] = 30.0
    grace: Annotated[float, Field(ge=0, le=600)] = 5.0


class PlanConfig(Strict):
    """``[plan]``: guarantees and training, the same for every client."""

    rounds: Annotated[int, Field(ge=1, le=100_000)]
    spare_attempts: Annotated[int, Field(ge=0, le=200_000)] | None = None
    deadline: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    exchange: Exchange = "secure_sum"
    secure_sum: SecureSumConfig = SecureSumConfig()
    cohort: Cohort
    training: Training = Training()
    privacy: PrivacyConfig = PrivacyConfig()
    encoding: Encoding = Encoding()
    metrics: Metrics = ()
    costs: Costs | None = None
    downlink: Downlink | None = None
    strategy: StrategyConfig = StrategyConfig()

    @model_validator(mode="after")
    def _large_enough(self) -> PlanConfig:
        if self.exchange == "secure_sum" and self.cohort.size < 3:
            raise ValueError(
                f"cohort.size {self.cohort.size}: secure_sum needs at least 3 clients, since of two each could compute "
                'the other\'s update; or set exchange = "clear_sum", which shows the server each update'
            )
        if self.privacy.metrics_share is not None and not self.metrics and self.costs is None:
            raise ValueError(
                f"privacy.metrics_share = {self.privacy.metrics_share:g}: no metrics are asked for, and no costs; "
                "list them in [[plan.metrics]] and [plan.costs], or leave the share out"
            )
        return self

    @property
    def told(self) -> int:
        """How many metrics and costs a client of a private run tells, if they have a share of its budget."""
        return len(self.metrics) + (0 if self.costs is None else len(self.costs.ranges(private=True)))

    @property
    def spares(self) -> int:
        """Attempts that may fail: as given, else a tenth of the rounds, at least 2."""
        return self.spare_attempts if self.spare_attempts is not None else max(2, math.ceil(self.rounds / 10))

    def rounds_within(self, attempts: int) -> int:
        """Most rounds that leave room in ``attempts`` for their spare attempts; 0 where none do."""
        rounds = attempts if self.spare_attempts is None else max(attempts - self.spare_attempts, 0)
        while rounds > 0 and rounds + self.model_copy(update={"rounds": rounds}).spares > attempts:
            rounds -= 1
        return rounds


class PerformanceConfig(Strict):
    """``[performance]``: changes speed and nothing else; no mechanism and no admission receives it."""

    poll: Annotated[float, Field(ge=0.005, le=60)] = 0.02
    workers: Annotated[int, Field(ge=1, le=256)] = 4


class ServerConfig(Strict):
    """``[server]``: the operator's own files."""

    model: str = "model.safetensors"
    roster: str = "roster.json"
    wait_for_devices: NonNegative = 3600.0
    evaluate: str | None = None


class RunConfig(Strict):
    """``run.toml``: what an operator asks of a federation."""

    name: Name = "run"
    task: TaskPart
    plan: PlanConfig
    performance: PerformanceConfig = PerformanceConfig()
    server: ServerConfig = ServerConfig()
    budget: RunBudget = RunBudget()
    energy: EnergySettings = EnergySettings()
    carbon: CarbonSettings = CarbonSettings()
    schedule: ScheduleSettings = ScheduleSettings()

    @model_validator(mode="after")
    def _counted(self) -> RunConfig:
        """A cap of what nobody will count, or that not even one round fits into, is a mistake."""
        told, budget = self.plan.costs is not None, self.budget
        if budget.most_joules is not None and self.energy.meter == "off" and not told and budget.device_watts is None:
            raise ValueError(
                "budget: nothing counts joules: energy.meter is 'off', devices are asked for no [plan.costs], and "
                "budget.device_watts assumes nothing; give one of them, or leave the cap out"
            )
        priced = self.carbon.source is not None and self.energy.meter != "off"
        if budget.grams is not None and not (priced or told or budget.device_grams_per_kwh is not None):
            raise ValueError(
                "budget.grams: nothing counts grams: name a carbon intensity in [carbon], ask devices for "
                "[plan.costs], or assume budget.device_grams_per_kwh; or leave the cap out"
            )
        if not told and self.schedule.duration is not None:
            budget.check_one_round(self.plan.cohort.size, self.schedule.duration)
        return self


def load(path: Path, model: type[T]) -> T:
    """Read a TOML file into ``model``.

    Raises:
        ConfigError: missing file, broken TOML, unknown field, wrong type, or value out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return loads(text, model, str(path))


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Puts the file's name before what is wrong with its settings together, which is found only once they are used.

    Raises:
        ConfigError: one that was raised inside.
    """
    try:
        yield
    except ConfigError as error:
        if str(error).startswith(str(file)):
            raise
        raise ConfigError(f"{file}: {error}") from None


def loads(text: str, model: type[T], where: str = "configuration") -> T:
    """As `load`, from text; ``where`` names it in errors."""
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{where}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError is one; so is what Python says of a number of 5000 digits
        raise ConfigError(f"{where}: not valid TOML: {error}") from None
    return validate(data, model, where)


def validate(data: Any, model: type[T], where: str) -> T:
    """A frozen ``model`` of plain data; the first mistake as one `ConfigError` line."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, model)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake in one line: field, value, what is allowed."""
    found = error.errors(include_url=False)
    # A misspelled field is also a missing one: its name is the better hint.
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    path = [str(part) for part in first["loc"]]
    field = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        close = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f"; known here: {', '.join(known)}" if known else ""
        return f"unknown field '{field}'{hint}"
    if first["type"] == "missing":
        return f"field '{field}' is missing"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not field:
        return message
    if first["type"] == "value_error":
        return f"'{field}': {message}"
    return f"'{field}' = {_short(first['input'])}: {message}"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the nested model at ``path``; empty where it is not one."""
    current: Any = model
    for part in path:
        info = current.model_fields.get(part) if _is_model(current) else None
        if info is None:
            return []
        current = next((each for each in (info.annotation, *get_args(info.annotation)) if _is_model(each)), None)
    return list(current.model_fields) if _is_model(current) else []


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _short(value: Any) -> str:
    """The value as a user would recognise it, cut to one short line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
