"""Diagnostics of embedders and pools."""
