"""Controls: strategies that isolate one ingredient of another strategy."""
