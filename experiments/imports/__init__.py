"""Logs of other evaluation harnesses as run directories."""
