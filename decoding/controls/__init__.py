"""Controls: strategies that isolate one ingredient of another strategy, one file each."""
