"""Embedders: images and texts as vectors, one file each."""
