"""HTTP server with strategies (`icl serve`): vLLM's own server with a middleware that answers requests with a strategy.

A request walks through `serving` → `request_parsing` → `strategy_server` (placement, branches,
engine) → `http`, which also answers while the model loads.
"""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
