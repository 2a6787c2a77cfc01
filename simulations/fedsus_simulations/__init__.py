"""Simulations, the demo and the benchmarks of fedsus."""

__version__ = "0.1.0"
