"""Conformance checks of every kind of component, for the toolkit's own components and for yours, and test servers.

Each check raises AssertionError with a sentence. `icl check KIND NAME` runs the same functions. `VisionServer` is an
OpenAI-compatible server without weights, and `FaultyServer` puts a known fault in front of one (docs/probe.md).
"""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
