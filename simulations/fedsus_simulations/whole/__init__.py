"""Whole devices and protocol clients in memory, for tests, the demo and benchmarks: what the fleet must equal."""
