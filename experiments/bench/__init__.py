"""Benchmarks: one module a part, each with `rows()`; `make bench` prints them all."""
