"""What was trained on one embedder's vectors means nothing on another's: said alike for all heads."""

from icl.errors import DataError, PlanError
from retrievers.machinery.vector_math import Vectors


def check_embedder(what: str, trained_on: str, embedder: str) -> None:
    """what: with the file it came from. trained_on, embedder: digests. Raises PlanError where they differ."""
    if trained_on != embedder:
        raise PlanError(
            f"{what} was trained on vectors of another embedder ({trained_on[:24]}, not {embedder[:24]}). Train one "
            "with this embedder."
        )


def check_width(what: str, entries: int, vectors: Vectors) -> None:
    """entries: of a vector that it takes. Raises DataError where the vectors have others."""
    if vectors.shape[1] != entries:
        raise DataError(
            f"{what} takes vectors of {entries} entries and the embedder gives {vectors.shape[1]}. Train one with this "
            "embedder."
        )
