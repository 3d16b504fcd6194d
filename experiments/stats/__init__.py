"""Statistics of paired grids: intervals, tests, corrections."""
