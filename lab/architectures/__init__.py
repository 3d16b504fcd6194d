"""Checks of architectures on tiny random checkpoints, and the table in the documentation."""
