"""The formats of logs: one module per harness."""
