"""Embedders: images and texts as vectors."""
