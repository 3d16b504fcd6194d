"""A small deterministic model with sessions: logits depend on the whole prompt, its images and all tokens after it.

It follows the rules of a session strictly: `take` copies, `advance` works in place, and each row's state is its own,
so aliased rows, or tokens fed to the wrong row, give other answers.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from icl.errors import ModelError
from icl.models.base import LogitModel, Request
from icl.models.interventions import TokenPart
from icl.types import Generation, Prompt

STOP = 0


def noise(*seeds: object, size: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(repr(seeds).encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(size)


@dataclass
class Row:
    prompt: Prompt
    tokens: list[int] = field(default_factory=list)


class ToySession:
    def __init__(self, model: "Toy", rows: list[Row], early: bool = False) -> None:
        self.model, self.rows, self.early = model, rows, early
        self.logits = model.logits_of(rows)

    @property
    def early_exit_logits(self) -> Tensor:
        assert self.early, "not opened with exits"
        return self.model.exits_of(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> list[int]:
        return [self.model.count_tokens(row.prompt) + len(row.tokens) for row in self.rows]

    def take(self, rows: Tensor) -> "ToySession":
        self.model.counts["take"] += 1
        rows_taken = [Row(self.rows[r].prompt, list(self.rows[r].tokens)) for r in rows.tolist()]
        return ToySession(self.model, rows_taken, self.early)

    def retain(self, rows: Tensor) -> None:
        self.rows = self.take(rows).rows
        self.logits = self.model.logits_of(self.rows)

    def join(self, other: "ToySession") -> "ToySession":
        copied = [Row(r.prompt, list(r.tokens)) for r in [*self.rows, *other.rows]]
        return ToySession(self.model, copied, self.early)

    def absorb(self, other: "ToySession") -> None:
        self.rows = self.join(other).rows
        self.logits = self.model.logits_of(self.rows)
        other.rows, other.logits = [], torch.empty(0, 0)

    def advance(self, tokens: Tensor, parts: Sequence[TokenPart] = ()) -> None:
        assert tokens.shape == (len(self),)
        self.model.counts["forwards"] += 1
        self.model.counts["rows"] += len(self)
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.tokens.append(token)
        self.logits = self.model.logits_of(self.rows)

    def extend(self, chunks: Sequence[Sequence[int]], parts: Sequence[Sequence[TokenPart]] = ()) -> None:
        for row, chunk in zip(self.rows, chunks, strict=True):
            row.tokens.extend(chunk)
        self.logits = self.model.logits_of(self.rows)

    def trim(self) -> None:
        self.model.counts["trim"] += 1

    def suffix_logprobs(self, suffixes: Sequence[Sequence[Sequence[int]]]) -> list[list[Tensor]]:
        self.model.counts["suffixes"] += sum(map(len, suffixes))
        return [
            [
                torch.stack(
                    [
                        self.model.logits_of([Row(row.prompt, row.tokens + list(suffix[:i]))])[0].log_softmax(-1)
                        for i in range(len(suffix))
                    ]
                )
                for suffix in of_row
            ]
            for row, of_row in zip(self.rows, suffixes, strict=True)
        ]

    def suffix_early_exit_logits(self, suffixes: Sequence[Sequence[Sequence[int]]]) -> list[list[Tensor]]:
        return [
            [
                self.model.exits_of(
                    [Row(row.prompt, row.tokens + list(suffix[:i])) for i in range(len(suffix))]
                ).log_softmax(-1)
                for suffix in of_row
            ]
            for row, of_row in zip(self.rows, suffixes, strict=True)
        ]


class Toy(LogitModel):
    """vocabulary: number of ids; 0 ends an answer. image_share: influence of the images on the logits."""

    abilities: ClassVar[frozenset[str]] = frozenset({"generate", "logits", "hidden_states"})
    max_batch_tokens = 100_000

    def __init__(self, vocabulary: int = 24, stop_bias: float = 0.0, image_share: float = 1.0) -> None:
        self.vocabulary, self.stop_bias, self.image_share = vocabulary, stop_bias, image_share
        self.counts = dict.fromkeys(("take", "forwards", "rows", "trim", "suffixes", "open", "prompts"), 0)
        self.broken: dict[str, str] = {}
        self.poison: dict[tuple[str, int], tuple[int, float]] = {}

    digest = "toy"
    stop_tokens = frozenset({STOP})

    def count_tokens(self, prompt: Prompt) -> int:
        return len(prompt.text.split()) + 4 * len(prompt.images)

    def logits_of(self, rows: Sequence[Row]) -> Tensor:
        return torch.tensor(np.stack([self._one(row) for row in rows]), dtype=torch.float32)

    def exits_of(self, rows: Sequence[Row]) -> Tensor:
        """Logits of 3 early layers, [3, R, V]."""
        exits = [
            [noise(row.prompt.digest, row.tokens, layer, size=self.vocabulary) for row in rows] for layer in range(3)
        ]
        return 2 * torch.tensor(np.array(exits), dtype=torch.float32)

    def _one(self, row: Row) -> np.ndarray:
        tokens = tuple(row.tokens)
        z = 2 * noise(row.prompt.text, tokens, size=self.vocabulary)
        z += self.image_share * noise([p.digest for p in row.prompt.images], tokens, size=self.vocabulary)
        z[STOP] += self.stop_bias
        if (poison := self.poison.get((row.prompt.digest, len(tokens)))) is not None:
            z[poison[0]] = poison[1]
        return z

    def open(self, prompts: Sequence[Prompt], *, early_exits: bool = False) -> ToySession:
        for prompt in prompts:
            for word, reason in self.broken.items():
                if word in prompt.text:
                    raise ModelError(reason)
        self.counts["open"] += 1
        self.counts["prompts"] += len(prompts)
        return ToySession(self, [Row(prompt) for prompt in prompts], early_exits)

    def text(self, tokens: Sequence[int]) -> str:
        return " ".join(f"w{token}" for token in tokens if token != STOP)

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        """`w7` is token 7; any other word is the token of its length."""
        return [[int(w[1:]) if w[1:].isdigit() else len(w) for w in option.split()] for option in options]

    def counters(self) -> Mapping[str, int]:
        return self.counts

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Greedy decoding of one request at a time, without a session."""
        answers = []
        for request in requests:
            row = Row(request.prompt)
            finish = "length"
            while len(row.tokens) < request.max_new_tokens:
                token = int(self.logits_of([row]).argmax())
                if token == STOP:
                    finish = "stop"
                    break
                row.tokens.append(token)
            answers.append(Generation(self.text(row.tokens), tuple(row.tokens), finish))
        return answers
