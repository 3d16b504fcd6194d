"""The `icl` command: one file a command, found without importing it."""
