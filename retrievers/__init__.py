"""Retrievers: they choose the demonstrations of a query. One file per retriever or family of small ones.

`__all__` of `__init__.pyi` lists the public names.
"""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
