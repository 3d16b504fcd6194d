"""Experiment files: keys, YAML, overrides of the command line, the loader, and the JSON schema."""
