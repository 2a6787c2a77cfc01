"""Whether the stack's clipped sums are those of single examples, found out on a few examples of two clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from fedsus.learning.loop import seeded
from fedsus.learning.stacking.converting import NotStackable
from fedsus.learning.stacking.probe import rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fedsus.learning.stacking.clipping import Clipping
    from fedsus.learning.stacking.probe import Probed
    from fedsus.tasks.task import Batch

_ROWS: Final = 3
_ATTEMPTS: Final = 3
_TOLERANCE: Final = 1e-4


def probe_norms(of: Probed, clipping: Clipping, model: Tensor, batches: Sequence[Batch]) -> None:
    """Compares norms and clipped sums with one backward pass an example; ``batches``: two, of real examples.

    They must agree at one of several models: gradients are not continuous where a unit switches off.

    Raises:
        NotStackable: an example's gradient depends on the examples beside it, or is not what the stack makes of it.
    """
    rows = [rows_of(batch, _ROWS) for batch in batches]
    together = tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
    generator = torch.Generator().manual_seed(0)
    for attempt in range(_ATTEMPTS):
        noise = torch.randn(len(model), generator=generator).to(model.device)
        values = model + attempt * 0.01 * model.abs().mean() * noise
        with seeded(0, model.device):
            each = [_gradient(of, values, tuple(t[i : i + 1] for t in together)) for i in range(2 * _ROWS)]
        expected = torch.stack(each).to(clipping.wide)
        norms = torch.linalg.vector_norm(expected, dim=1)
        clip = float(norms.median())  # some are clipped, some are not
        sums = (expected * (clip / norms).clamp(max=1.0)[:, None]).view(2, _ROWS, -1).sum(1)
        found = torch.zeros_like(sums)
        of.stack.start(values.expand(2, -1))
        of.stack.sink = clipping
        clipping.begin(of.stack, 2 * _ROWS)
        with seeded(1, model.device):  # another seed: a model that draws must not agree by chance
            of.task.loss(of.module, together).sum().backward()  # type: ignore[no-untyped-call]
        others = clipping.end(found, torch.ones(2, _ROWS, dtype=torch.bool, device=model.device), clip)
        if _close(norms, others.view(-1)) and _close(sums, found):
            return
    raise NotStackable("its gradient for one example depends on the examples beside it, or on chance")


def _gradient(of: Probed, values: Tensor, example: Batch) -> Tensor:
    of.flat.load(values)
    of.flat.module.train()
    of.flat.gradient.zero_()
    of.task.loss(of.flat.module, example).sum().backward()  # type: ignore[no-untyped-call]
    return of.flat.gradient.clone()


def _close(one: Tensor, other: Tensor) -> bool:
    scale = float(one.nan_to_num(0.0, 0.0, 0.0).abs().max()) + 1e-9
    return torch.allclose(one, other, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True)
