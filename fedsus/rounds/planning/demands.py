"""What a private run demands of its training, its cohorts and its exchange, told before anybody is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.encoding.mechanisms import CANCELLED
from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from fedsus.config import RunConfig


def check(config: RunConfig, members: int | None) -> None:
    """Refuse what the unit or the placement cannot serve.

    Args:
        members: of the roster; None where there is none.

    Raises:
        ConfigError: names the field, and what would fit.
    """
    asked = config.plan.privacy
    if asked.unit == "example":
        _precision(config)
    if (asked.unit, asked.where) == ("example", "distributed"):
        _one_step(config)
    if asked.bands is not None and asked.bands > 1:
        if config.plan.encoding.uplink is not None and config.plan.encoding.uplink.share < 1:
            raise ConfigError(CANCELLED)
        _turns(config, asked.bands, members)


def check_deployed(config: RunConfig) -> None:
    """Refuse what each device refuses and a simulation without masks may do: shares of noise, and costs, in clear.

    Raises:
        ConfigError: names the field, and what would fit.
    """
    asked = config.plan
    if asked.privacy.unit != "none" and asked.privacy.where == "distributed" and asked.exchange == "clear_sum":
        raise ConfigError(in_clear(config))
    if asked.costs is not None and asked.exchange == "clear_sum":
        raise ConfigError(
            "plan.costs: in exchange = 'clear_sum' the server would see each device's figure; ask for exchange = "
            "'secure_sum', or leave [plan.costs] out"
        )


def in_clear(config: RunConfig) -> str:
    """Why a clear sum does not do for noise in shares."""
    where = "'local'" if config.plan.privacy.unit == "example" else "'central'"
    return (
        "plan.exchange = 'clear_sum': placement 'distributed' hides each update, with its small share of the noise, "
        f"in a secure sum; ask for exchange = 'secure_sum', or placement = {where}"
    )


def _precision(config: RunConfig) -> None:
    precision = config.plan.training.precision
    if precision != "float32":
        raise ConfigError(
            f"plan.training.precision = '{precision}': gradients of single examples are clipped in 'float32'"
        )


def _one_step(config: RunConfig) -> None:
    """More than one plain gradient step would not be a function of one sum of clipped gradients."""
    training, strategy = config.plan.training, config.plan.strategy.name
    for name, found, expected in (
        ("local_epochs", training.local_epochs, 1),
        ("optimizer.name", training.optimizer.name, "sgd"),
        ("optimizer.momentum", training.optimizer.momentum, 0.0),
        ("optimizer.weight_decay", training.optimizer.weight_decay, 0.0),
        ("proximal", training.proximal, 0.0),
        ("gradient_clip", training.gradient_clip, None),
    ):
        if found != expected:
            way = f"set it to {expected}" if expected is not None else "leave it out: 'clip' bounds each example"
            raise ConfigError(
                f"plan.training.{name} = {found}: the example unit distributed takes one plain gradient step a round; "
                f"{way}; momentum is the strategy's: fedavgm (now '{strategy}')"
            )


def _turns(config: RunConfig, bands: int, members: int | None) -> None:
    """With correlated noise a client takes part in every so many rounds: there must be others in between."""
    asked = config.plan
    if asked.exchange == "secure_sum" and asked.secure_sum.choice == "drawn":
        raise ConfigError(
            f"plan.privacy.bands = {bands}: clients take turns, which no draw from the whole roster respects; "
            "set plan.secure_sum.choice = 'named'"
        )
    if members is not None and members < bands * asked.cohort.size:
        fits = members // asked.cohort.size
        raise ConfigError(
            f"plan.privacy.bands = {bands}: a client takes part in every {bands}th round alone, so cohorts of "
            f"{asked.cohort.size} need {bands * asked.cohort.size} members, and there are {members}; "
            + (f"at most {fits} bands fit" if fits > 1 else "leave bands out")
        )
