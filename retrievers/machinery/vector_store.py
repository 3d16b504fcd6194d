"""Vectors on disk, keyed by content: append-only files that several processes can write at once.

    <folder>/about.json          digest of the embedder, dimension
    <folder>/<writer>.vectors    float32 rows
    <folder>/<writer>.keys       40 bytes per row: the digest of the embedded content, and a checksum

Each process appends to its own files and reads the files of all processes. A row exists when its key exists, and keys
are written after their vectors. A process that is killed during a write therefore leaves no row that could be misread.

A vector is compared with its checksum when it is first used. Damaged files of a writer are deleted, a damaged
about.json is replaced, and the vectors are computed again. If the disk is full or read-only, vectors stay in memory,
and one warning says so. The next process computes them again.
"""

import json
import os
import threading
import uuid
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from icl import ICLWarning, StoreError
from retrievers.base import Vectors

KEY_BYTES = 32
ROW_BYTES = KEY_BYTES + 8
FORMAT = 2
"""Part of the name of an embedder's folder: 1 had no checksums."""

ABOUT = "about.json"
NUM_LOCKS = 64
ROWS_AT_ONCE = 4096
Checksums = npt.NDArray[np.uint64]
_WARNINGS: set[str] = set()


class VectorStore:
    """The vectors of one embedder and one kind of content."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder, self.digest = folder, digest
        self.dim: int | None = None
        self.blocks: list[Vectors] = []
        self._checksums: list[Checksums | None] = []  # of each block; None: computed here, or already compared
        self.locations: dict[bytes, tuple[int, int]] = {}
        self._block_keys: dict[int, list[bytes]] = {}
        self._writers: dict[int, str] = {}
        self._rows_read: dict[str, int] = {}
        self._writer = ""
        self._initialized = False
        self._guard = threading.RLock()
        self._check()

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """The distinct keys without a vector, in order. New rows of other processes are read first."""
        distinct = list(dict.fromkeys(keys))
        if any(key not in self.locations for key in distinct):
            self.refresh()
        locations = self.locations
        for block in {locations[key][0] for key in distinct if key in locations}:
            self._compare(block)
        return [key for key in distinct if key not in self.locations]

    def gather(self, keys: Sequence[bytes]) -> Vectors:
        """The vectors of keys, [N, D]. None of them may be `missing`."""
        if not keys:
            return np.zeros((0, self.dim or 0), np.float32)
        locations = np.array([self.locations[key] for key in keys])
        first = locations[0, 0]
        if (locations[:, 0] == first).all():
            return np.asarray(self.blocks[first][locations[:, 1]])
        out = np.empty((len(keys), self.dim or 0), np.float32)
        for block in np.unique(locations[:, 0]):
            rows = locations[:, 0] == block
            out[rows] = self.blocks[block][locations[rows, 1]]
        return out

    def add(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Add vectors for all processes, or only for this one if they cannot be written."""
        with self._guard:
            writable = self._initialize(vectors.shape[1])
            if self.dim is None:
                self.dim = vectors.shape[1]
            if vectors.shape[1] != self.dim and self._is_damaged():
                (self.folder / ABOUT).unlink(missing_ok=True)
                self._initialized, self.dim = False, vectors.shape[1]
                writable = self._initialize(self.dim)
            if vectors.shape[1] != self.dim:
                raise StoreError(
                    f"{self.folder} contains vectors with {self.dim} dimensions, but this embedder returned "
                    f"{vectors.shape[1]}. "
                    f"Delete the folder."
                )
            if writable:
                self._append(keys, vectors)
            self._index(keys, vectors)

    def _append(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        writer = self._writer_name()
        try:
            rows = zip(keys, checksums(keys, vectors).tolist(), strict=True)
            records = b"".join(key + checksum.to_bytes(8, "little") for key, checksum in rows)
            for suffix, data in ((".vectors", vectors.tobytes()), (".keys", records)):
                with (self.folder / (writer + suffix)).open("ab") as file:
                    file.write(data)
        except OSError as error:
            self._writer = ""  # the file may end with a part of these rows: later rows go to a new file
            warn(self.folder, error)
        else:
            self._rows_read[writer] = self._rows_read.get(writer, 0) + len(keys)

    def refresh(self) -> None:
        """Read new rows of all files."""
        with self._guard:
            if not self._initialized:
                self._check()
            if not self._initialized:
                return
            for entry in sorted(os.scandir(self.folder), key=lambda entry: entry.name):
                if entry.name.endswith(".keys"):
                    self._read_rows(entry.name.removesuffix(".keys"), entry.stat().st_size // ROW_BYTES)

    def lock(self, keys: Iterable[bytes]) -> Path:
        """The lock file for computing these keys. Two processes with the same keys use the same file.

        Raises OSError if the folder cannot be created.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        stripe = int.from_bytes(sha256(b"".join(keys)).digest()[:4], "big") % NUM_LOCKS
        return self.folder / f"{stripe:02}.lock"

    def _read_rows(self, writer: str, num_keys: int) -> None:
        assert self.dim is not None
        done = self._rows_read.get(writer, 0)
        if num_keys <= done:
            return
        path = self.folder / f"{writer}.vectors"
        total = min(num_keys, path.stat().st_size // (4 * self.dim)) if path.exists() else 0
        if total <= done:
            return
        with (self.folder / f"{writer}.keys").open("rb") as file:
            file.seek(done * ROW_BYTES)
            records = file.read((total - done) * ROW_BYTES)
        shape, start = (total - done, self.dim), done * self.dim * 4
        self._rows_read[writer] = total
        self._writers[len(self.blocks)] = writer
        self._index(
            [records[i : i + KEY_BYTES] for i in range(0, len(records), ROW_BYTES)],
            np.memmap(path, dtype=np.float32, mode="r", offset=start, shape=shape),
            np.frombuffer(records, np.uint8).reshape(-1, ROW_BYTES)[:, KEY_BYTES:].copy().view("<u8")[:, 0],
        )

    def _index(self, keys: Sequence[bytes], vectors: Vectors, expected: "Checksums | None" = None) -> None:
        block = len(self.blocks)
        self.blocks.append(vectors)
        self._checksums.append(expected)
        if expected is not None:
            self._block_keys[block] = list(keys)
        for row, key in enumerate(keys):
            self.locations.setdefault(key, (block, row))

    def _compare(self, block: int) -> None:
        """Compare a block that was read from a file with its checksums, once. If a row differs, delete its file."""
        with self._guard:
            expected, vectors = self._checksums[block], self.blocks[block]
            if expected is None:
                return
            for start in range(0, len(vectors), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                if not np.array_equal(checksums(self._block_keys[block][rows], vectors[rows]), expected[rows]):
                    self._drop(block)
                    break
            self._checksums[block] = None
            del self._block_keys[block]

    def _drop(self, block: int) -> None:
        """Forget the rows of a block, and delete the files of its writer."""
        self.locations = {key: place for key, place in self.locations.items() if place[0] != block}
        try:
            for suffix in (".keys", ".vectors"):
                (self.folder / (self._writers[block] + suffix)).unlink(missing_ok=True)
        except OSError as error:
            warn(self.folder, error)

    def _is_damaged(self) -> bool:
        """Whether no row in memory has its checksum, so that the dimension of about.json may be wrong."""
        for block in range(len(self.blocks)):
            self._compare(block)
        return not self.locations

    def _writer_name(self) -> str:
        if not self._writer.startswith(f"{os.getpid()}-"):
            self._writer = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        return self._writer

    def _initialize(self, dim: int) -> bool:
        """Write about.json if it does not exist or is damaged. Returns whether vectors can be written."""
        if self._initialized:
            return True
        part = self.folder / f"about.{uuid.uuid4().hex}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check()
            if not self._initialized:
                part.write_text(json.dumps({"digest": self.digest, "dim": dim}))
                os.replace(part, self.folder / ABOUT)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            warn(self.folder, error)
            return False
        self._check()
        return self._initialized

    def _check(self) -> None:
        """Read the dimension from about.json. A damaged file counts as missing, and `_initialize` writes it again."""
        try:
            facts = json.loads((self.folder / ABOUT).read_text(encoding="utf-8"))
            if facts["digest"] == self.digest and type(facts["dim"]) is int and facts["dim"] > 0:
                self.dim, self._initialized = facts["dim"], True
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            warn(self.folder, error)
        except (ValueError, KeyError, TypeError):
            return


def checksums(keys: Sequence[bytes], vectors: Vectors) -> Checksums:
    """A 64-bit checksum of each vector with its key, [N].

    The 32-bit words of a row are added with odd pseudo-random weights, modulo 2^64, so that zeroed, exchanged and moved
    words all change the sum.
    """
    words = np.ascontiguousarray(vectors, dtype="<f4").view("<u4").astype(np.uint64)
    weights = np.random.default_rng(FORMAT).integers(1, 2**63, words.shape[1], dtype=np.uint64) | np.uint64(1)
    first_bytes = np.frombuffer(b"".join(key[:8] for key in keys), "<u8")
    total: Checksums = words @ weights + first_bytes
    return total


def warn(folder: Path, error: OSError) -> None:
    """Warn once that a cache cannot be written. folder: of one kind of content of one embedder."""
    cache = folder.parents[2] if len(folder.parents) > 2 else folder
    message = (
        f"the embedding cache {cache} cannot be written: {error.strerror or error}. Embeddings stay in memory and are "
        "lost when this process ends. Make room, or set ICL_CACHE to a writable folder."
    )
    if message not in _WARNINGS:
        _WARNINGS.add(message)
        warnings.warn(message, ICLWarning, stacklevel=2)
