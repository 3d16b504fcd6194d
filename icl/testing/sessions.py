"""Public checks of models that open sessions: rows are independent, and all ways of feeding tokens are equal.

The checks test the equalities of `icl.models.base.Session` on a few prompts with different lengths and image counts: a
batch and its single rows, a chunk and its tokens one by one, selected and joined rows and their sources, suffix
log-probabilities and advancing. They raise AssertionError with a sentence.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icl.models.base import LogitModel, Session
from icl.testing.require import require
from icl.types import Prompt

TOLERANCE = 1e-3


def check_sessions(model: Any, prompts: Sequence[Prompt], tolerance: float = TOLERANCE) -> None:
    """Check a model's sessions. tolerance: maximum difference of logits, about 1e-3 in float32 and much more in
    bfloat16.
    """
    name = type(model).__name__
    require(isinstance(model, LogitModel), f"{name} does not subclass icl.models.base.LogitModel.")
    require(bool(model.stop_tokens), f"{name}.stop_tokens is empty: no answer would end.")
    model.load()
    check = _Check(name, model, list(prompts), tolerance)
    check.batch()
    check.feeding()
    check.rows()
    check.suffixes()
    check.texts()
    if "hidden_states" in model.abilities:
        check.early_exits()


class _Check:
    def __init__(self, name: str, model: LogitModel, prompts: list[Prompt], tolerance: float) -> None:
        self.name, self.model, self.prompts, self.tolerance = name, model, prompts, tolerance

    def batch(self) -> None:
        """A row in a batch has the logits of the row alone."""
        session = self._open()
        shape = tuple(session.logits.shape)
        require(
            len(session) == len(self.prompts) == shape[0] and len(shape) == 2,
            f"{self.name}: {len(self.prompts)} prompts have {len(session)} rows and logits {shape}, not [rows, words].",
        )
        require(session.logits.dtype == torch.float32, f"{self.name}: logits are {session.logits.dtype}, not float32.")
        alone = torch.cat([self.model.open([prompt]).logits for prompt in self.prompts])
        self._same(session.logits, alone, "a prompt in a batch and alone")

    def feeding(self) -> None:
        """A chunk equals its tokens one by one, with another chunk for every row."""
        chunks = [self._words(3, start) for start in range(len(self.prompts))]
        single, whole, ragged = self._open(), self._open(), self._open()
        for step in range(3):
            single.advance(self._tokens([chunk[step] for chunk in chunks], single))
        whole.extend(chunks)
        self._same(whole.logits, single.logits, "extend(chunk) and advance, token by token")
        lengths = [1 + row % 3 for row in range(len(chunks))]
        ragged.extend([chunk[:n] for chunk, n in zip(chunks, lengths, strict=True)])
        ragged.extend([chunk[n:] or [self._words(1, 0)[0]] for chunk, n in zip(chunks, lengths, strict=True)])
        full_rows = [row for row, n in enumerate(lengths) if n < 3]
        self._same(ragged.logits[full_rows], single.logits[full_rows], "chunks of unequal length and advance")
        separate = self.model.open([self.prompts[0]])
        separate.extend([chunks[0]])
        self._same(separate.logits, single.logits[:1], "tokens fed to a row in a batch and alone")

    def rows(self) -> None:
        """Selected and joined rows are copies. Their sources stay unchanged."""
        source = self._open()
        before, last = source.logits.clone(), len(self.prompts) - 1
        taken = source.take(torch.tensor([last, 0, 0], device=source.logits.device))
        self._same(taken.logits, before[[last, 0, 0]], "take(rows) and those rows")
        taken.advance(self._tokens(self._words(3, 0), taken))
        self._same(source.logits, before, "a session before and after rows taken from it were advanced")
        token = self._words(1, 0) * len(self.prompts)
        source.advance(self._tokens(token, source))
        fresh = self._open()
        fresh.advance(self._tokens(token, fresh))
        self._same(source.logits, fresh.logits, "a session whose rows were taken and advanced, and a fresh one")
        joined = taken.join(source)
        self._same(joined.logits, torch.cat([taken.logits, source.logits]), "join and its two sources")
        joined.trim()
        self._same(joined.logits, torch.cat([taken.logits, source.logits]), "rows before and after trim")
        selected = [len(joined) - 1, 0, 0]
        retained = joined.take(torch.arange(len(joined), device=joined.logits.device))
        retained.retain(torch.tensor(selected, device=joined.logits.device))
        more = self._words(1, 1) * len(joined)
        joined.advance(self._tokens(more, joined))
        source.advance(self._tokens(more[: len(source)], source))
        self._same(joined.logits[len(taken) :], source.logits, "rows advanced after join and trim, and before")
        retained.advance(self._tokens(more[:3], retained))
        self._same(retained.logits, joined.logits[selected], "rows advanced after retain(rows), and those rows")
        absorbed = joined.take(torch.arange(len(joined), device=joined.logits.device))
        absorbed.absorb(joined.take(torch.arange(1, device=joined.logits.device)))
        self._same(absorbed.logits, torch.cat([joined.logits, joined.logits[:1]]), "absorb and its two sources")
        more = self._words(len(absorbed), 2)
        joined.advance(self._tokens(more[:-1], joined))
        absorbed.advance(self._tokens(more, absorbed))
        self._same(absorbed.logits[: len(joined)], joined.logits, "rows advanced after absorb, and before")

    def suffixes(self) -> None:
        """The distributions before each token of a suffix equal the ones that advancing gives."""
        session = self._open()
        before = session.logits.clone()
        words = self._words(2, 0)
        logprobs = session.suffix_logprobs([[words, words[1:]] for _ in self.prompts])
        self._same(session.logits, before, "a session before and after suffix_logprobs")
        first = torch.stack([row[0][0] for row in logprobs])
        self._same(first, before.log_softmax(-1), "the first entry of suffix_logprobs and the session's own logits")
        require(
            all(row[1].shape[0] == 1 for row in logprobs),
            f"{self.name}: a suffix of one token has not one distribution.",
        )
        session.advance(self._tokens(words[:1] * len(self.prompts), session))
        second = torch.stack([row[0][1] for row in logprobs])
        self._same(second, session.logits.log_softmax(-1), "the second entry of suffix_logprobs and advancing")

    def texts(self) -> None:
        """Options have tokens, and decoded text has no special tokens."""
        options = [text for start in range(8) if (text := self.model.text(self._words(2, start)).strip())]
        prompt = self.model.before_answer(self.prompts[0])
        for ids, option in zip(self.model.option_ids(prompt, options), options, strict=True):
            require(bool(ids), f"{self.name}: the option '{option}' has no tokens.")
        stopped = self.model.text([min(self.model.stop_tokens)])
        require(stopped.strip() == "", f"{self.name}: the end of an answer reads {stopped!r}.")

    def early_exits(self) -> None:
        """Early layers obey the equalities of the last one, and opening with them changes nothing else."""
        deep, plain = self.model.open(self.prompts, early_exits=True), self._open()
        self._same(deep.logits, plain.logits, "logits with early layers and without")
        shape = tuple(deep.early_exit_logits.shape)
        require(
            len(shape) == 3 and shape[0] > 0 and shape[1:] == tuple(deep.logits.shape),
            f"{self.name}: early_exit_logits have shape {shape}, not [early layers, rows, words].",
        )
        alone = torch.cat([self.model.open([prompt], early_exits=True).early_exit_logits for prompt in self.prompts], 1)
        self._same(deep.early_exit_logits, alone, "early layers of a prompt in a batch and alone")
        words, last = self._words(2, 0), len(self.prompts) - 1
        suffix = deep.suffix_early_exit_logits([[words] for _ in self.prompts])
        self._same(
            torch.stack([row[0][:, 0] for row in suffix], 1),
            deep.early_exit_logits.log_softmax(-1),
            "the first entry of suffix_early_exit_logits and the session's own early_exit_logits",
        )
        taken = deep.take(torch.tensor([last, 0], device=deep.logits.device))
        taken.advance(self._tokens(words[:1] * 2, taken))
        self._same(
            torch.stack([suffix[row][0][:, 1] for row in (last, 0)], 1),
            taken.early_exit_logits.log_softmax(-1),
            "the second entry of suffix_early_exit_logits and advancing",
        )

    def _open(self) -> Session:
        return self.model.open(self.prompts)

    def _words(self, count: int, start: int) -> list[int]:
        """Tokens that do not end an answer. Another start gives other tokens."""
        size = self.model.open([self.prompts[0]]).logits.shape[-1]
        free = [token for token in range(size) if token not in self.model.stop_tokens]
        return [free[(7 * (start + i) + 3) % len(free)] for i in range(count)]

    def _tokens(self, tokens: Sequence[int], session: Session) -> Tensor:
        return torch.tensor(list(tokens), device=session.logits.device)

    def _same(self, actual: Tensor, expected: Tensor, what: str) -> None:
        finite = torch.isfinite(expected)
        require(
            bool((finite == torch.isfinite(actual)).all()),
            f"{self.name}: {what} differ in which logits are finite.",
        )
        gap = float((actual[finite] - expected[finite]).abs().max()) if bool(finite.any()) else 0.0
        require(gap <= self.tolerance, f"{self.name}: {what} differ by up to {gap:.2g} in their logits.")
