"""fedsus: federated learning that the data owner controls."""

__version__ = "0.1.0"
