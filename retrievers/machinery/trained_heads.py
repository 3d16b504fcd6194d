"""Checks that a trained head and an embedder belong together."""

from icl.errors import DataError, PlanError
from retrievers.machinery.vector_math import Vectors


def check_embedder(what: str, trained_on: str, embedder: str) -> None:
    """Raises PlanError if a head was trained on another embedder.

    what: the head and its file, for the error. trained_on, embedder: digests.
    """
    if trained_on != embedder:
        raise PlanError(
            f"{what} was trained on vectors of another embedder ({trained_on[:24]}, not {embedder[:24]}). Train one "
            "with this embedder."
        )


def check_width(what: str, entries: int, vectors: Vectors) -> None:
    """Raises DataError if the vectors do not have the number of entries that a head takes."""
    if vectors.shape[1] != entries:
        raise DataError(
            f"{what} takes vectors of {entries} entries and the embedder gives {vectors.shape[1]}. Train one with this "
            "embedder."
        )
