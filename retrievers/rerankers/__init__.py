"""Rerankers: they select from the candidates of a retriever."""
