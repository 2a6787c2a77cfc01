"""A bare PyTorch loop over the cohort: what a round costs without any framework. Run by `simulate_peers`."""

from __future__ import annotations

import torch

from fedsus_simulations.benchmarks.peer_work import asked, begin, load, loss, peak


def main() -> None:
    """All rounds: each client starts from the model, trains, and its change is added up."""
    rounds = asked()
    work = rounds.work
    inputs, targets = load(work.folder)
    model = begin(work)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    rounds.mark()
    for _ in range(work.rounds):
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        for client in torch.randperm(len(inputs))[: work.cohort].tolist():
            model.load_state_dict(weights)
            optimizer = torch.optim.SGD(model.parameters(), lr=work.learning_rate)
            for index in torch.split(torch.randperm(inputs.shape[1]), work.batch):
                optimizer.zero_grad()
                loss(model, inputs[client, index], targets[client, index]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                rounds.steps += 1
            for name, value in model.state_dict().items():
                total[name] += value - weights[name]
        weights = {name: value + total[name] / work.cohort for name, value in weights.items()}
        rounds.mark()
    model.load_state_dict(weights)
    rounds.report(model, peak=peak())


if __name__ == "__main__":
    main()
