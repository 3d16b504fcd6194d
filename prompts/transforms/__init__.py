"""Transforms, which change a context. One file each."""
