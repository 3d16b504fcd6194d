"""Decoding strategies as pure functions of branch logits, their controls, and the engines that run them.

`__all__` of `__init__.pyi` lists the public names. Each is imported at its first use.
"""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
