"""Statistics of paired grids: intervals, tests, corrections, and the sentences they allow."""
