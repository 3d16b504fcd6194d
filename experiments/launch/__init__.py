"""Launchers, one file each, and the workers that share a grid."""
