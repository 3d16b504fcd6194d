"""Vectors on disk by content: append-only files that several processes may fill at once.

    <folder>/about.json          digest of the embedder, dimension
    <folder>/<writer>.vectors    float32 rows
    <folder>/<writer>.keys       32 bytes a row: the digest of what the row embeds

Each process appends to files of its own and reads everybody's. A row counts once its key is there, and keys are written
after their vectors, so a process that was killed in the middle of a write leaves nothing that could be misread.

A disk that is full or read-only costs the next process the same work and nothing else: vectors stay in memory, and a
warning says so once.
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

from icl.errors import ICLWarning, StoreError
from retrievers.machinery.vector_math import Vectors

KEY = 32
_SAID: set[str] = set()
LOCKS = 64


class VectorStore:
    """The vectors of one embedder and one kind of content. Raises StoreError where the folder is another embedder's."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder, self.digest = folder, digest
        self.dim: int | None = None
        self.blocks: list[Vectors] = []
        self.where: dict[bytes, tuple[int, int]] = {}
        self._read: dict[str, int] = {}
        self._writer = ""
        self._begun = False
        self._guard = threading.RLock()
        self._check()

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Distinct keys without a vector, in order, after a look at what other processes wrote since."""
        lost = [key for key in dict.fromkeys(keys) if key not in self.where]
        if lost:
            self.refresh()
            lost = [key for key in lost if key not in self.where]
        return lost

    def gather(self, keys: Sequence[bytes]) -> Vectors:
        """[N, D] of keys that are all here."""
        if not keys:
            return np.zeros((0, self.dim or 0), np.float32)
        places = np.array([self.where[key] for key in keys])
        first = places[0, 0]
        if (places[:, 0] == first).all():
            return np.asarray(self.blocks[first][places[:, 1]])
        out = np.empty((len(keys), self.dim or 0), np.float32)
        for block in np.unique(places[:, 0]):
            rows = places[:, 0] == block
            out[rows] = self.blocks[block][places[rows, 1]]
        return out

    def add(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Append and flush: from here on every process can have them; this one also where they cannot be written."""
        with self._guard:
            begun = self._begin(vectors.shape[1])
            if self.dim is None:
                self.dim = vectors.shape[1]
            if vectors.shape[1] != self.dim:
                raise StoreError(
                    f"{self.folder} holds vectors of {self.dim} entries and this embedder gave {vectors.shape[1]}. "
                    f"Delete the folder."
                )
            if begun:
                self._append(keys, vectors)
            self._index(keys, vectors)

    def _append(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        writer = self._own()
        try:
            for suffix, data in ((".vectors", vectors.tobytes()), (".keys", b"".join(keys))):
                with (self.folder / (writer + suffix)).open("ab") as file:
                    file.write(data)
        except OSError as error:
            self._writer = ""  # a part of these rows may stand there: the next begin a file of their own
            warn(self.folder, error)
        else:
            self._read[writer] = self._read.get(writer, 0) + len(keys)

    def refresh(self) -> None:
        """Take in what stands in the files and was not read yet."""
        with self._guard:
            if not self._begun:
                self._check()
            if not self._begun:
                return
            for entry in sorted(os.scandir(self.folder), key=lambda entry: entry.name):
                if entry.name.endswith(".keys"):
                    self._take(entry.name.removesuffix(".keys"), entry.stat().st_size // KEY)

    def lock(self, keys: Iterable[bytes]) -> Path:
        """The lock file of a piece of work: who asks for the same keys waits, who asks for others does not.

        Raises OSError where there can be none.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        stripe = int.from_bytes(sha256(b"".join(keys)).digest()[:4], "big") % LOCKS
        return self.folder / f"{stripe:02}.lock"

    def _take(self, writer: str, keys: int) -> None:
        assert self.dim is not None
        done = self._read.get(writer, 0)
        if keys <= done:
            return
        path = self.folder / f"{writer}.vectors"
        whole = min(keys, path.stat().st_size // (4 * self.dim)) if path.exists() else 0
        if whole <= done:
            return
        with (self.folder / f"{writer}.keys").open("rb") as file:
            file.seek(done * KEY)
            told = file.read((whole - done) * KEY)
        shape, start = (whole - done, self.dim), done * self.dim * 4
        self._read[writer] = whole
        self._index(
            [told[i : i + KEY] for i in range(0, len(told), KEY)],
            np.memmap(path, dtype=np.float32, mode="r", offset=start, shape=shape),
        )

    def _index(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        block = len(self.blocks)
        self.blocks.append(vectors)
        for row, key in enumerate(keys):
            self.where.setdefault(key, (block, row))

    def _own(self) -> str:
        if not self._writer.startswith(f"{os.getpid()}-"):
            self._writer = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        return self._writer

    def _begin(self, dim: int) -> bool:
        """Whether the folder says whose vectors it holds, so that they can be written."""
        if self._begun:
            return True
        part = self.folder / f"about.{uuid.uuid4().hex}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "about.json").exists():
                part.write_text(json.dumps({"digest": self.digest, "dim": dim}))
                os.replace(part, self.folder / "about.json")
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            warn(self.folder, error)
            return False
        self._check()
        return self._begun

    def _check(self) -> None:
        about = self.folder / "about.json"
        try:
            if not about.exists():
                return
        except OSError as error:
            warn(self.folder, error)
            return
        try:
            told = json.loads(about.read_text())
            digest, dim = str(told["digest"]), int(told["dim"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{about} is damaged ({error}). Delete the folder {self.folder}.") from error
        if digest != self.digest:
            raise StoreError(
                f"{self.folder} was filled by another embedder ({digest[:16]}, not {self.digest[:16]}). "
                f"Delete it, or name another cache."
            )
        self.dim, self._begun = dim, True


def warn(folder: Path, error: OSError) -> None:
    """Says once that a cache cannot be written. folder: of one kind of content of one embedder."""
    cache = folder.parents[2] if len(folder.parents) > 2 else folder
    said = (
        f"the embedding cache {cache} cannot be written: {error.strerror or error}. What is embedded is kept in memory "
        "and is lost with this process. Make room, or set ICL_CACHE to a writable folder."
    )
    if said not in _SAID:
        _SAID.add(said)
        warnings.warn(said, ICLWarning, stacklevel=2)
