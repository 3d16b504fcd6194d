"""Comparisons that end when they are decided: their plan, their looks, and what is still to compute.

A comparison is an arm and its reference in one task. A family is the comparisons that share one error level. A look
tests them after a number of clusters that was planned.

    stopping      what the runner, the plan of workers and reports ask
    plan          fixes comparisons and the order of clusters before the first sample
    looks         sums differences per cluster, and stores each look in a file
    rule          ends comparisons at a look
    sequential    the mathematics: boundaries, p-values that are valid at any time, Holm's method on them
    findings, forecast    sentences of the report, and the expected number of samples of a plan
"""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
