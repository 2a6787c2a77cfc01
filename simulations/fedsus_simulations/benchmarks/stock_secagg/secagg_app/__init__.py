"""Stock Flower's SecAgg+ on the benchmarks' work: no line of it is used in a deployment of fedsus."""
