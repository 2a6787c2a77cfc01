"""The aggregation server of fedsus."""

__version__ = "0.1.0"
