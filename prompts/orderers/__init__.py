"""Orderers: the same demonstrations in another order, one file each."""
