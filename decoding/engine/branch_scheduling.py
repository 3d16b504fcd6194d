"""How an answer's other branches are read: beside the reference from the start (eager), late, or gated.

The tokens are the same (`decoding.engine.deferred_branches`); the work is not. Late spares the prefill of contrasts that no step needs, and
pays with forwards of its own for those that are needed, and, where the model's rows do not lend their beginnings, with
those that both prompts could have shared. So it is a matter of how long answers are and how often a contrast is needed,
which the engine learns as it goes: from what an arm's answers under one model were like so far, and before there are
any from the most tokens that one may have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal
from weakref import WeakKeyDictionary

from decoding.base import Strategy
from decoding.engine.requests import LazyBranches, PreparedRequest
from decoding.formulas.sampling import Beam, Sampler
from icl.errors import PlanError
from icl.types import Prompt

if TYPE_CHECKING:
    from decoding.engine.token_loop import Hypothesis
    from icl.models.base import LogitModel

BranchSchedule = Literal["eager", "lazy", "gated"]
Arithmetic = tuple[Strategy, Sampler, int]
"""A strategy, a sampler, and the most new tokens."""

SETTLED = 0.7
"""Fraction of steps that are taken to be settled before an arm has answered."""

ENOUGH, REMEMBERED = 8, 64
"""Answers that are believed, and how many are kept in mind: then all count half."""

FORWARD = 64
"""Tokens of a prefill that one more forward costs on a small model."""

IMAGE = 16
"""Tokens of a prefill that processing and encoding an image costs on a small model."""

COPIED = 0.02
"""Of a prefill: moving a row's cache entries once, to join rows to it."""

GAIN = 0.9
"""Late has to be this much cheaper by the estimate, since eager cannot be wrong by more than it saves."""


@dataclass
class AnswerStatistics:
    """What an arm's answers were like. steps: of all. needed: answers with a step that was not settled."""

    answers: float = 0.0
    steps: float = 0.0
    needed: float = 0.0

    def add(self, steps: int, needed: bool) -> None:
        if self.answers >= REMEMBERED:
            self.answers, self.steps, self.needed = self.answers / 2, self.steps / 2, self.needed / 2
        self.answers, self.steps, self.needed = self.answers + 1, self.steps + steps, self.needed + needed

    def expected(self, limit: int) -> tuple[float, float]:
        """(tokens of an answer, share of answers that need their contrast)."""
        if self.answers < ENOUGH:
            return limit, 1 - SETTLED**limit
        return self.steps / self.answers, self.needed / self.answers


class History:
    """What each arm's answers were like, kept for as long as the model is."""

    kept: ClassVar[WeakKeyDictionary["LogitModel", dict[Arithmetic, AnswerStatistics]]] = WeakKeyDictionary()

    def __init__(self, model: "LogitModel") -> None:
        self.known = self.kept.setdefault(model, {})

    def of(self, ready: PreparedRequest) -> AnswerStatistics:
        arm = ready.job.arm
        return self.known.setdefault((arm.strategy, arm.sampler, ready.job.max_new_tokens), AnswerStatistics())

    def learn(self, ready: PreparedRequest, way: BranchSchedule, lane: "Hypothesis") -> None:
        """From an answer that was looked at: read late, or with a trace."""
        if lane.finish == "fault" or way == "gated" or ready.job.arm.strategy.traits.is_gated:
            return
        if way == "lazy" or lane.trace:
            self.of(ready).add(lane.steps, lane.opened if way == "lazy" else lane.contrasted > 0)


def choose_schedules(
    prepared_requests: Sequence[PreparedRequest], lazy_branches: LazyBranches, history: History, lends: bool = False
) -> list[BranchSchedule]:
    """For each job of a batch. Where other jobs open all its prompts anyway, there is nothing to put off.

    lends: whether prompts that are opened late begin on the reference's row.
    """
    chosen: list[BranchSchedule] = ["eager"] * len(prepared_requests)
    alike: dict[Arithmetic, list[int]] = {}
    for i, ready in enumerate(prepared_requests):
        job, strategy = ready.job, ready.job.arm.strategy
        if (
            lazy_branches == "never"
            or job.score != "generate"
            or job.top
            or len(ready.branches) < 2
            or strategy.traits.keeps_state
        ):
            continue
        if isinstance(job.arm.sampler, Beam):  # its beams take over one another's rows
            continue
        if can_defer_branches(strategy):
            alike.setdefault((strategy, job.arm.sampler, job.max_new_tokens), []).append(i)
    for (strategy, _, limit), places in alike.items():
        own = [prepared_requests[i] for i in places]
        if (
            strategy.traits.is_gated
            or lazy_branches == "always"
            or is_lazy_cheaper(own, *history.of(own[0]).expected(limit), lends)
        ):
            for i in places:
                chosen[i] = "gated" if strategy.traits.is_gated else "lazy"
    opened = {
        digest
        for ready, way in zip(prepared_requests, chosen, strict=True)
        for digest in ready.digests
        if way == "eager"
    } | {ready.digests[0] for ready in prepared_requests}
    return [
        "eager" if opened.issuperset(ready.digests) else way
        for ready, way in zip(prepared_requests, chosen, strict=True)
    ]


def can_defer_branches(strategy: Strategy) -> bool:
    """Whether some step of it is settled by the reference alone: one that is as sure as can be."""
    import torch

    sure = torch.full((1, 512), -1e4)
    sure[0, 0] = 0.0
    try:
        done = strategy.reference_decides(sure)
    except PlanError:  # this mask does not fit so small a vocabulary
        return False
    return done is not None and bool(done.all())


def is_lazy_cheaper(
    prepared_requests: Sequence[PreparedRequest], steps: float, needed: float, lends: bool = False
) -> bool:
    """Whether late is, by an estimate in tokens forwarded. steps: of an answer. needed: share that need a contrast."""
    count, others = len(prepared_requests), len(prepared_requests[0].branches) - 1
    whole = sum(sum(ready.tokens[1:]) for ready in prepared_requests)
    fresh = sum(
        unshared_tokens(ready.branches[0], branch, size)
        for ready in prepared_requests
        for branch, size in zip(ready.branches[1:], ready.tokens[1:], strict=True)
    )
    read = others * (steps - 1) * count + IMAGE * sum(map(_own_images, prepared_requests))
    openings = min(steps, needed * count)
    joined = 2 * FORWARD + COPIED * sum(ready.tokens[0] for ready in prepared_requests)
    return needed * ((fresh if lends else whole) + read) + openings * joined < GAIN * (fresh + read)


def _own_images(ready: PreparedRequest) -> int:
    """Images that the other branches show and the reference does not."""
    reference, *others = ready.branches
    seen = {image.digest for image in reference.images}
    return len({image.digest for branch in others for image in branch.images} - seen)


def unshared_tokens(reference: Prompt, other: Prompt, tokens: int) -> float:
    """Tokens of a prompt behind what it begins with in common with another, about. A text's are four letters each."""
    sizes = [(part.text is None, len(part.text or "") / 4) for part in other.parts()]
    images = sum(shown for shown, _ in sizes)
    each = max(0.0, tokens - sum(size for _, size in sizes)) / max(1, images)
    common = 0
    for (role, mine), (its, yours) in zip(_content(other), _content(reference), strict=False):
        if (role, mine) != (its, yours):
            break
        common += 1
    weights = [each if shown else size for shown, size in sizes]
    return tokens * (1 - sum(weights[:common]) / max(1e-9, sum(weights)))


def _content(prompt: Prompt) -> list[tuple[str, str]]:
    return [
        (turn.role, part.image.digest if part.image is not None else part.text or "")
        for turn in prompt.turns
        for part in turn.parts
    ]
