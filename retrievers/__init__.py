"""Retrievers: which demonstrations a query gets, one file each."""
