"""Registers aggregations when it is imported."""

from lmms_eval.api.registry import AGGREGATIONS

AGGREGATIONS["mean"] = lambda values: sum(values) / len(values)
