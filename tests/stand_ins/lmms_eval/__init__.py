"""A stand-in for lmms-eval 0.7.3: the interface of its tasks, with the traps that a caller has to avoid."""
