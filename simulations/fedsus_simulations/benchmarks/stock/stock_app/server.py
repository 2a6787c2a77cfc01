"""FedAvg as Flower has it; the time after each round goes to a file."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds; ``times``: seconds since the epoch before the first and after each."""
    asked = context.run_config
    clients, marks, times = int(asked["clients"]), [], Path(str(asked["times"]))

    def mark(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        marks.append(time.time())
        times.with_suffix(".part").write_text(json.dumps(marks), encoding="ascii")
        times.with_suffix(".part").replace(times)
        return MetricRecord({"round": server_round})

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    model = ArrayRecord([np.zeros(int(asked["size"]), dtype=np.float32)])
    strategy.start(grid=grid, initial_arrays=model, num_rounds=int(asked["rounds"]), evaluate_fn=mark)
