"""Metrics: pure functions of an answer and its gold, one file each."""
