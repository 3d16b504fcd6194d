"""Steering methods: task vectors and their relatives, one file each. `base` says how a new one is written."""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
