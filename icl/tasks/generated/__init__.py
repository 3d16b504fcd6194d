"""Generated tasks: images and questions drawn from a seed, byte-identical on every machine."""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
