"""The dry run: cost and warnings of a grid, without a model."""
