"""Orderers, transforms, composers and the context budget: from a context to a prompt."""
