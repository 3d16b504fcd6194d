"""Arms."""
