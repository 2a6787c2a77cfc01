"""apple/pfl-research on the work of `peer_work`, by its own simulation backend. Run by `simulate_peers`.

Its `PyTorchModel` asks a network for its loss and its metrics; no metric is computed here, as on no side.
"""

from __future__ import annotations

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from fedsus_simulations.benchmarks.peer_work import Rounds, asked, begin, load, loss

_NEVER = 10**9


class Net(nn.Module):
    """A network with the two methods that pfl asks for; it counts its steps."""

    def __init__(self, inner: nn.Module, rounds: Rounds) -> None:
        super().__init__()
        self.inner, self.rounds = inner, rounds

    def loss(self, inputs: Tensor, targets: Tensor, is_eval: bool = False) -> Tensor:
        """Of a batch; asked once a step."""
        self.rounds.steps += not is_eval
        return loss(self.inner, inputs, targets)

    def metrics(self, inputs: Tensor, targets: Tensor, is_eval: bool = True) -> dict[str, object]:
        """None."""
        del inputs, targets, is_eval
        return {}


class Clock(TrainingProcessCallback):  # type: ignore[misc]
    """Marks the rounds."""

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        """Before the first round."""
        del model
        self.rounds.mark()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """After each round."""
        del aggregate_metrics, model, central_iteration
        self.rounds.mark()
        return False, Metrics()


def main() -> None:
    """All rounds."""
    rounds = asked()
    work = rounds.work
    inputs, targets = load(work.folder)
    net = Net(begin(work), rounds)
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=work.rounds,
            evaluation_frequency=_NEVER,
            train_cohort_size=work.cohort,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(
            training_data=FederatedDataset(
                make_dataset_fn=lambda user: Dataset((inputs[user], targets[user])),
                user_sampler=get_user_sampler("random", range(len(inputs))),
            ),
            val_data=None,
            postprocessors=[],
        ),
        model=PyTorchModel(
            net, local_optimizer_create=torch.optim.SGD, central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0)
        ),
        model_train_params=NNTrainHyperParams(
            local_batch_size=work.batch, local_num_epochs=1, local_learning_rate=work.learning_rate
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=100),
        callbacks=[Clock(rounds)],
    )
    rounds.report(net.inner, "pfl")


if __name__ == "__main__":
    main()
