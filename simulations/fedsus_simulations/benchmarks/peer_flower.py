"""Flower's simulation engine on the work of `peer_work`: a SuperNode a client, on all cores by Ray.

Of the trivial model each client adds one to every parameter, which is less than the step that the other sides make. Run
by `simulate_peers`.
"""

from __future__ import annotations

import sys
from typing import cast

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import Tensor

from fedsus_simulations.benchmarks.peer_work import Rounds, Work, asked, begin, load, loss, network, read_files


def part(work: Work, client: int) -> tuple[Tensor, Tensor]:
    """One client's examples."""
    if not work.files:
        inputs, targets = load(work.folder)
        return inputs[client], targets[client]
    own = slice(client * work.samples, (client + 1) * work.samples)
    inputs, targets = read_files(work.files)
    return inputs[own], targets[own]


def client_app(work: Work) -> ClientApp:
    """Clients that train on their own part; each says how many steps it made."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"]
        if work.model == "trivial":
            arrays, made = ArrayRecord([array + 1 for array in arrays.to_numpy_ndarrays()]), 1
        else:
            torch.set_num_threads(1)  # as many workers run as there are cores
            client = int(context.node_config["partition-id"])
            inputs, targets = part(work, client)
            model = network(work.model)
            model.load_state_dict(arrays.to_torch_state_dict())
            optimizer = torch.optim.SGD(model.parameters(), lr=work.learning_rate)
            made = 0
            for index in torch.split(torch.randperm(len(inputs)), work.batch):
                optimizer.zero_grad()
                loss(model, inputs[index], targets[index]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                made += 1
            arrays = ArrayRecord(model.state_dict())
        metrics = MetricRecord({"num-examples": 1, "steps": made})
        return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def server_app(rounds: Rounds) -> ServerApp:
    """FedAvg over all clients; marks the rounds."""
    work, app = rounds.work, ServerApp()

    @app.main()
    def serve(grid: Grid, context: Context) -> None:
        del context
        model = begin(work)
        weights = ArrayRecord(model.state_dict())
        if work.model == "trivial":
            weights = ArrayRecord(weights.to_numpy_ndarrays())

        def mark(number: int, arrays: ArrayRecord) -> None:
            del number, arrays
            rounds.mark()

        done = FedAvg(
            fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=work.cohort, min_available_nodes=work.cohort
        ).start(grid=grid, initial_arrays=weights, num_rounds=work.rounds, evaluate_fn=mark)
        # A round's metric is the mean of its clients', each of which counts alike.
        means = [cast("float", row["steps"]) for row in done.train_metrics_clientapp.values()]
        rounds.steps = round(work.cohort * sum(means))
        if work.model != "trivial":
            model.load_state_dict(done.arrays.to_torch_state_dict())
        rounds.report(model, "flwr", "ray")

    return app


def main(temporary: str) -> None:
    """All rounds in this process and its workers; Ray's sockets go to ``temporary``, a short path."""
    rounds = asked()
    run_simulation(
        server_app=server_app(rounds),
        client_app=client_app(rounds.work),
        num_supernodes=rounds.work.cohort,
        backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"_temp_dir": temporary}},
    )


if __name__ == "__main__":
    main(sys.argv[2])
