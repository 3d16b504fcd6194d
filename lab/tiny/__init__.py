"""Training, evaluation and documentation of the shipped tiny models."""
