"""Benchmarks: one module a part, each with `rows()`; `make bench` prints them all."""

Row = tuple[str, str, str]
"""What was measured, the figure, and its goal."""
