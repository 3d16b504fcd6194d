"""Composers: a context written as a prompt, one file each."""
