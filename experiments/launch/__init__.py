"""Launchers: where the work of a grid is done, one file each, and what they share."""
