"""Embedders: pictures and texts as vectors, one file each."""
