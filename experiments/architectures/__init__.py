"""Which architectures work, asked of tiny random checkpoints of each: the table that the documentation shows."""
