"""Engines that run strategies on a model: the token loop over sessions, and requests to a server of strategies."""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
