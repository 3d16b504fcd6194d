"""HTTP server with strategies (`icl serve`): vLLM's own server with a middleware that answers requests with a strategy.

A request walks through `serving` → `request_parsing`, `strategy_parsing` → `strategy_server` (placement, branches,
engine) → `http`. `loading` answers while the model loads, `shutdown` when the server ends.
"""
