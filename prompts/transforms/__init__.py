"""Transforms: a changed context, one file each."""
