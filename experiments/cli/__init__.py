"""The `icl` command: one module per command, listed without importing it."""
