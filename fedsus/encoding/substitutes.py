"""What is sent for an update that could not be made, where noise is added after training."""

from __future__ import annotations

import numpy as np

from fedsus.plan import ExamplePrivacy, Plan
from fedsus.types import LocalUpdate


def noised_by_mechanism(plan: Plan) -> bool:
    """Whether an update is noised after training, so that one of zeros can be sent for any other."""
    return plan.private and not isinstance(plan.privacy, ExamplePrivacy)


def no_update(plan: Plan) -> LocalUpdate:
    """Zeros, no metrics, and no costs."""
    return LocalUpdate(np.zeros(plan.dimension, dtype=np.float32), 0.0, np.zeros(len(plan.metrics)), 0, None)
