"""The Hugging Face backend: any `AutoModelForImageTextToText` checkpoint with its processor, as sessions of rows."""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
