"""Rerankers: a second look at what a retriever found, one file each."""
