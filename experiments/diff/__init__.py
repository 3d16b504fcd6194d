"""Where do two backends diverge? (`icl doctor backends`)"""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
