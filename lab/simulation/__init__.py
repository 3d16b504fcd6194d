"""Simulated runs with known truth: how often the statistics of reports err, and what stopping early saves."""
