"""Experiments: config, grid, plan, run, store, statistics and report."""
