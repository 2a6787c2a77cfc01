"""A ClientApp that adds one to the model, behind Flower's SecAgg+."""

from fedsus_simulations.benchmarks.stock_secure import client_app

app = client_app(torch=True)
