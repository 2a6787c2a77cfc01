"""FedAvg over Flower's SecAgg+; the time after each round goes to a file."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedsus_simulations.benchmarks.stock_secure import Work, serve

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds."""
    asked = context.run_config
    names = ("clients", "size", "rounds", "shares", "threshold")
    serve(grid, context, Work(**{name: int(asked[name]) for name in names}), Path(str(asked["times"])))
