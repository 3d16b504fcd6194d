"""Where do two backends part? (`icl doctor backends`)"""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
