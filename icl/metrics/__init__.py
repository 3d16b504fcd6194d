"""Metrics: pure functions of an answer and its gold, one file each."""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
