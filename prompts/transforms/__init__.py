"""Transforms, which change a context."""
