"""Orderers, which put the same demonstrations in another order. One file each."""
