"""The table of local optimizers: a name in the plan -> torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from torch import optim

from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from fedsus.plan import Optimizer

TABLE: Final[Mapping[str, type[optim.Optimizer]]] = {
    "sgd": optim.SGD,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad,
    "nadam": optim.NAdam,
    "radam": optim.RAdam,
}
_WITH_MOMENTUM: Final = ("sgd", "rmsprop")


def make(chosen: Optimizer, parameters: Iterable[Tensor], learning_rate: float) -> optim.Optimizer:
    """A fresh torch optimizer; all of the table treat coordinates independently.

    ``weight_decay`` is decoupled for adamw and an L2 term for the others. The Adam family keeps torch's betas.

    Raises:
        ConfigError: the optimizer has no momentum, or no Nesterov momentum, and one was given.
    """
    options: dict[str, Any] = {"lr": learning_rate, "weight_decay": chosen.weight_decay, "foreach": False}
    if chosen.momentum and chosen.name not in _WITH_MOMENTUM:
        raise ConfigError(
            f"optimizer.momentum = {chosen.momentum}: '{chosen.name}' has none; "
            f"set it to 0 or use {' or '.join(_WITH_MOMENTUM)}"
        )
    if chosen.nesterov and not (chosen.name == "sgd" and chosen.momentum):
        raise ConfigError("optimizer.nesterov = true: needs name = 'sgd' and momentum above 0")
    if chosen.name in _WITH_MOMENTUM:
        options["momentum"] = chosen.momentum
    if chosen.nesterov:
        options["nesterov"] = True
    return TABLE[chosen.name](parameters, **options)


def preload(values: Tensor) -> None:
    """Pays now for what torch imports when its first optimizer is made (seconds), not in the first round."""
    optim.SGD([values], lr=1.0)
