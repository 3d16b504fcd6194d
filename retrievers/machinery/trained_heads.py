"""Checks that a trained head matches an embedder."""

from icl.errors import DataError, PlanError
from retrievers.machinery.vector_math import Vectors


def check_embedder(what: str, trained_on: str, embedder: str) -> None:
    """Checks that a head was trained on this embedder.

    Args:
        what: The head and its file, for the error message.
        trained_on: Digest of the embedder that the head was trained on.
        embedder: Digest of the embedder.

    Raises:
        PlanError: The digests differ.
    """
    if trained_on != embedder:
        raise PlanError(
            f"{what} was trained with another embedder ({trained_on[:24]}, not {embedder[:24]}). Train a head with "
            "this embedder."
        )


def check_width(what: str, dimensions: int, vectors: Vectors) -> None:
    """Raises DataError if the vectors do not have the number of dimensions that a head expects."""
    if vectors.shape[1] != dimensions:
        raise DataError(
            f"{what} expects vectors with {dimensions} dimensions, but the embedder returns {vectors.shape[1]}. "
            "Train a "
            "head with this embedder."
        )
