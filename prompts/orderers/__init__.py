"""Orderers, which put the same demonstrations in another order."""
