"""Compute samples in this process: windows of prompts, answers, scores, the record of a session."""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
