"""A search controlled by the strategy (`Strategy.search`), with lookahead and backtracking.

The beams of one answer are the rows of a session of their own, apart from the token loop, so that steps of other arms
wait for nothing. Candidates, log-softmax, ends of beams, processors and traces are those of `token_choice.BeamChoice`.

    session        prompt's row               P
                   rows of the beams          P a b      P a c
    look_ahead     each beam, each token      P a b d    P a b e    P a c d    P a c f
    choose         the rows of two of these   P a b e    P a c d
    take_back(1)   the prompt's row again, then the tokens before step 1: P a

Taking back needs no cache that can be cut: the tokens that stay are read again, in one forward pass.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from decoding.engine import LoopStep, StepBatch
from decoding.engine.hypotheses import DecodingGroup, Hypothesis, LoopWork
from decoding.engine.token_choice import choose
from icl import Prompt, Session, StepIndices, Strategy, Tensor, copied_to_device


@dataclass(frozen=True, eq=False)
class SearchScores(Strategy):
    """The scores of a step of a search, [B, V]."""

    scores: Tensor
    weights: ClassVar[None] = None

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return self.scores


class AnswerSearch:
    """The `decoding.base.Beams` of one answer.

    Attributes:
        prompt: The prompt that is read.
        max_beams: Most beams that run together.
        beams: Running and finished beams.
        work: Forward passes so far.
    """

    def __init__(
        self, session: Session, prompt: Prompt, group: DecodingGroup, stop_tokens: frozenset[int], trace: bool
    ) -> None:
        """A search at its first step.

        Args:
            session: Prefilled rows. They stay as they are.
            prompt: The prompt of the answer's row.
            group: A group of this answer alone, with a beam search.
            stop_tokens: Tokens that end an answer.
            trace: Whether to record `decoding.engine.trace.TRACE_FIELDS`.
        """
        assert group.search is not None
        (self.beams,) = group.search.answers
        self.prompt, self.max_beams, self.strategy = prompt, group.search.sampler.beams, group.strategy
        self.group, self.stop_tokens, self.trace, self.work = group, stop_tokens, trace, LoopWork()
        self.prompt_row = session.take(torch.tensor(self.beams.answer.rows))
        self.prompt_row.trim()
        self.session = self.prompt_row.take(torch.tensor([0]))
        self.ahead: tuple[Session, list[list[int]]] | None = None  # rows of the next tokens, and the tokens
        self.past: list[tuple[list[tuple[float, Hypothesis]], list[tuple[float, Hypothesis]]]] = []
        self.chosen: list[set[tuple[int, int]]] = []  # beams and tokens, by step

    def run(self) -> LoopWork:
        """Lets the strategy search to the end of the answer. Returns the work."""
        self.strategy.search(self)
        self.beams.answer.searched_rows = 1 + self.work.rows
        return self.work

    @property
    def is_over(self) -> bool:
        return not self.beams.running

    @property
    def step(self) -> int:
        return len(self.past)

    @property
    def logits(self) -> Tensor:
        return self.session.logits

    def look_ahead(self, tokens: Tensor) -> None:
        rows = self.session.take(torch.arange(len(tokens)).repeat_interleave(tokens.shape[1]))
        self.ahead = rows, tokens.tolist()
        self._count(len(rows))
        rows.advance(tokens.flatten())

    def choose(self, scores: Tensor) -> tuple[list[int], list[int] | None]:
        group, beams = self.group, self.beams
        group.strategy, group.hypotheses = SearchScores(scores), [hypothesis for _, hypothesis in beams.running]
        for row, hypothesis in enumerate(group.hypotheses):
            hypothesis.rows = [row]
        step = LoopStep(self.step, StepIndices(scores.device), self.stop_tokens, self.trace)
        (choice,) = choose([StepBatch(group, group.hypotheses, self.logits[None])], step)
        self.past.append((beams.running, list(beams.finished)))
        choice.record()
        pairs = [(hypothesis.rows[0], hypothesis.tokens[-1]) for _, hypothesis in beams.running]
        self.chosen += [set()] * (len(self.chosen) < len(self.past))
        self.chosen[-1] = self.chosen[-1] | set(pairs)
        parents = [row for row, _ in pairs]
        if self.is_over:
            return parents, []
        rows, candidates = self.ahead or (self.session, [])
        self.ahead = None
        if candidates and all(token in candidates[row] for row, token in pairs):
            places = [row * len(candidates[0]) + candidates[row].index(token) for row, token in pairs]
            rows.retain(torch.tensor(places))
            self.session = rows
            return parents, places
        self.session.retain(torch.tensor(parents))
        self._count(len(pairs))
        self.session.advance(copied_to_device([token for _, token in pairs], torch.long, scores.device))
        return parents, None

    def take_back(self, step: int) -> Tensor:
        self.beams.running, self.beams.finished = self.past[step]
        del self.past[step:], self.chosen[step + 1 :]
        self.ahead = None
        self.session = self.prompt_row.take(torch.zeros(len(self.beams.running), dtype=torch.long))
        if step:
            self._count(len(self.session))
            self.session.extend([hypothesis.tokens for _, hypothesis in self.beams.running])
        used = torch.zeros_like(self.logits, dtype=torch.bool)
        for row, token in self.chosen[step]:
            used[row, token] = True
        return used

    def _count(self, rows: int) -> None:
        self.work.forwards += 1
        self.work.rows += rows
        self.work.rows_without_sharing += rows
