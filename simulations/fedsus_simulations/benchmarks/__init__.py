"""Benchmarks: each compares fedsus with something else in one run and yields a ratio, larger is better."""
