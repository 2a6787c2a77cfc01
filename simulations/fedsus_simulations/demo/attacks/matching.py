"""Images from an update by search: those whose gradient points where the update points, whatever the network.

Zhu, Liu and Han 2019, "Deep leakage from gradients"; with the cosine and the total variation of Geiping et al. 2020,
equation 4, and their signed steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from fedsus.learning.parameters import load_into
from fedsus.tasks.fashion import CLASSES, SIDE

if TYPE_CHECKING:
    from fedsus.tasks.fashion import FashionMnist
    from fedsus.types import Vector
    from fedsus_simulations.demo.attacks.images import Images

_PACE: Final = 0.1


def matching(
    task: FashionMnist, model: Vector, update: Vector, labels: Tensor | None, steps: int, smooth: float = 1e-3
) -> Images:
    """Images whose gradient at ``model`` (d,) points against ``update`` (d,), (n, 28, 28).

    Args:
        labels: of the images (n,), as if the attacker knew them; None for one image: the class whose output the update
            raised is its label (Zhao, Mopuri and Bilen 2020).
        steps: of the search.
        smooth: weight of the total variation.
    """
    module = task.model(0)
    load_into(module, model)
    parameters = list(module.parameters())
    wanted = -torch.from_numpy(update.astype(np.float32))
    if labels is None:
        labels = torch.tensor([int(update[-CLASSES:].argmax())])
    start = torch.rand((len(labels), SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    images = start.requires_grad_()
    search = torch.optim.Adam([images], lr=_PACE)
    pace = torch.optim.lr_scheduler.CosineAnnealingLR(search, steps)
    for _ in range(steps):
        loss = task.loss(module, (255.0 * images, labels)).mean()
        found = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])
        away = 1 - torch.nn.functional.cosine_similarity(found, wanted, dim=0)
        (slope,) = torch.autograd.grad(away + smooth * _variation(images), images)
        images.grad = slope.sign()
        search.step()
        pace.step()
        with torch.no_grad():
            images.clamp_(0.0, 1.0)
    result: Images = images.detach().numpy().astype(np.float64)
    return result


def _variation(images: Tensor) -> Tensor:
    """Mean difference of neighbouring pixels."""
    return images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()
