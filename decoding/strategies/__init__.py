"""Decoding strategies, one file a paper."""
