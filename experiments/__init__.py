"""Experiments: config, grid, plan, run, store, statistics and report.

`__all__` of `__init__.pyi` lists the public names.
"""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
