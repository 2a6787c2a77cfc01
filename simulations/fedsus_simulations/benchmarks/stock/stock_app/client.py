"""A ClientApp that returns what it got, or trains as the heart benchmark does."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One local round; torch is imported in any case, as a client that trains does."""
    import torch  # noqa: F401

    arrays = message.content.array_records["arrays"]
    if context.run_config["work"] == "heart":
        from fedsus_simulations.benchmarks.heart import train_once

        (model,) = arrays.to_numpy_ndarrays()
        arrays = ArrayRecord([train_once(model)])
    metrics = MetricRecord({"num-examples": 10})
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
