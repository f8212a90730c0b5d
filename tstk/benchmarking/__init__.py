"""Benchmarks: run methods on data sets with several seeds, rank them, and write the results."""
