"""Model backends: real ones, and fakes with known right answers."""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
