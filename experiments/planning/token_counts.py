"""Token counts of prompts, stored in the cache folder, so that a plan is made again without loading a processor.

    token_counts/<digest of the model and of the versions>.json    digest of a prompt -> its number of tokens

Importing transformers and torch and reading a processor takes several seconds of a plan. The digest of a model covers
the files of its processor, and the digest of a prompt covers its texts and the pixels of its images.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.store.store import write_json
from icl import __version__
from icl.cache_folder import cache_folder
from icl.errors import StoreError
from icl.text.json_text import canonical_digest

if TYPE_CHECKING:
    from icl.models.base import Model
    from icl.types import Prompt

MAX_STORED = 200_000
"""If there are more, only the counts of the last plan are stored."""

CONTEXT = "max_tokens"
"""The key of the context length of the model."""


class TokenCounts:
    """The context length of a model and the token counts of prompts.

    An endpoint's counts are not stored: its digest does not identify the tokenizer of the server.
    """

    def __init__(self, model: "Model") -> None:
        self.model, self.is_stored = model, not model.is_endpoint
        self.used: dict[str, int | None] = {}

    @cached_property
    def stored(self) -> dict[str, int | None]:
        with suppress(OSError, ValueError):
            counts = json.loads(self._path.read_bytes()) if self.is_stored else {}
            if isinstance(counts, dict):
                return counts
        return {}

    @property
    def max_tokens(self) -> int | None:
        return self._get(CONTEXT, lambda: self.model.max_tokens)

    def count_tokens(self, prompt: "Prompt") -> int:
        """As `Model.count_tokens`, which also raises the errors of prompts that cannot be rendered."""
        return self._get(prompt.digest, lambda: self.model.count_tokens(prompt)) or 0

    def _get(self, key: str, count: Callable[[], int | None]) -> int | None:
        if key not in self.used:
            stored = self.stored.get(key)
            self.used[key] = count() if stored is None else stored
        return self.used[key]

    def save(self) -> None:
        """Stores the counts, if there are new ones."""
        if not self.is_stored or self.used.keys() <= self.stored.keys():
            return
        counts = self.stored | self.used
        with suppress(StoreError):  # the next plan counts again
            write_json(self._path, counts if len(counts) <= MAX_STORED else self.used)

    @cached_property
    def _path(self) -> Path:
        versions = [__version__, *map(_version, ("transformers", "tokenizers"))]
        identity = [type(self.model).__module__, type(self.model).__qualname__, self.model.digest, versions]
        return cache_folder() / "token_counts" / f"{canonical_digest(identity)[:32]}.json"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
