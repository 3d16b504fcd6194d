"""Orderers, transforms, composers and the context budget: from a context to a prompt.

`__all__` of `__init__.pyi` lists the public names. `pieces` writes the named parts of demonstrations and query.
"""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
