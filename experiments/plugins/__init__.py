"""Plug-ins of other harnesses, which find them by entry points of this package."""
