"""Composers, which write a context as a prompt. One file each."""
