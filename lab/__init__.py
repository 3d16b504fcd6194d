"""What keepers of the toolkit run: training of shipped models, benchmarks, GPU checks, simulations. Not installed."""
