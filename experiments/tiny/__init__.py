"""Tiny."""
