"""Files of trained heads: checksums of their content, and checks that a head matches an embedder."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np

from icl.errors import DataError, PlanError
from retrievers.machinery.vector_math import Vectors

CHECKSUM = "checksum"
"""Metadata key of the sha256 of everything else in the file."""


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


def save_head(path: str | Path, tensors: Mapping[str, Vectors], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file. Its metadata contain a checksum of the tensors and of the other metadata."""
    from safetensors.numpy import save_file

    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(dict(tensors), path, metadata={**metadata, CHECKSUM: _checksum(tensors, metadata)})


def load_head(path: str | Path, what: str) -> tuple[dict[str, Vectors], dict[str, str]]:
    """The tensors and the metadata of a file that `save_head` wrote.

    Args:
        what: What the file should be, for the error: 'a saved head'.

    Raises:
        DataError: It is another file, or its content does not match its checksum.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
            tensors = {name: np.asarray(file.get_tensor(name), dtype=np.float32) for name in file.keys()}  # noqa: SIM118
        checksum = metadata.pop(CHECKSUM)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path} is not {what} ({type(error).__name__}: {error}). Save it again.") from error
    if checksum != _checksum(tensors, metadata):
        raise DataError(f"{path} is damaged: its content does not match its checksum. Copy or train the head again.")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Vectors], metadata: Mapping[str, str]) -> str:
    digest = sha256(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def check_width(what: str, dimensions: int, vectors: Vectors) -> None:
    """Raises DataError if the vectors do not have the number of dimensions that a head expects."""
    if vectors.shape[1] != dimensions:
        raise DataError(
            f"{what} expects vectors with {dimensions} dimensions, but the embedder returns {vectors.shape[1]}. "
            "Train a head with this embedder."
        )
