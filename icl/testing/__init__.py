"""Conformance checks of every kind of component."""
