"""What the engine is asked for and what it answers: jobs, failures, and counters of the work that was shared."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Literal

from decoding.arms.arm import Arm, Normalize
from decoding.formulas.sampling import Beam
from icl.models.base import MAX_NEW_TOKENS
from icl.types import Prompt

__all__ = [
    "Counters",
    "DecodingRequest",
    "Failure",
    "LazyBranches",
    "Normalize",
    "PreparedRequest",
    "Score",
    "distinct_prompts",
]

Score = Literal["generate", "options"]
"""What an answer is: a generated text, or the scores of options."""

LazyBranches = Literal["auto", "always", "never"]
"""Whether contrasts that a step can do without are read late (`decoding.engine.deferred_branches`); auto: where that is cheaper."""


@dataclass(frozen=True)
class DecodingRequest:
    """One answer wanted. score: a generated text, or the scores of `options` (the sampler plays no part there).

    top: how many tokens of each branch a text's generation keeps of every step (`decoding.engine.trace`).
    """

    prompt: Prompt
    arm: Arm
    options: tuple[str, ...] = ()
    score: Score = "generate"
    max_new_tokens: int = MAX_NEW_TOKENS
    top: int = 0

    @property
    def normalize(self) -> Normalize:
        """Of option scores."""
        return self.arm.normalize


@dataclass(frozen=True)
class Failure:
    """A job without an answer, and the sentence that says why. The other jobs of its batch went on."""

    reason: str


@dataclass
class ArmWork:
    """How the other branches of one arm's answers were read, and what that spared, as if no other arm read them.

    eager, late, gated: answers by `decoding.engine.branch_scheduling.BranchSchedule`. contrasts: prompts of their other branches; prefills_saved: of
    these, never opened, and prompt_tokens_saved their tokens. tokens: answer tokens that those branches would have read
    one by one; tokens_saved: not read at all. forwards_saved: rows of forwards less than one a token.
    """

    eager: int = 0
    lazy: int = 0
    gated: int = 0
    contrasts: int = 0
    prefills_saved: int = 0
    prompt_tokens_saved: int = 0
    tokens: int = 0
    tokens_saved: int = 0
    forwards_saved: int = 0


@dataclass
class Counters:
    """Work of the engine, and what was not done twice.

    branch_prompts: prompts that the jobs read, each branch counted. prompts_opened: what was prefilled of them;
    prompts_saved: distinct ones that no step came to need. arms: by label, of arms with more than one branch.
    jobs_reused: jobs whose answer another equal job had given. forwards, rows: decoding steps of the model and rows in
    them. rows_asked: rows that these would have been without rows shared between arms. prepared: prompts answered first
    for strategies that need it; their work is in `batches` to `rows_asked`.
    """

    jobs: int = 0
    jobs_reused: int = 0
    jobs_failed: int = 0
    branch_prompts: int = 0
    prompts_opened: int = 0
    prepared: int = 0
    batches: int = 0
    batches_halved: int = 0
    forwards: int = 0
    rows: int = 0
    rows_asked: int = 0
    prompts_saved: int = 0
    arms: dict[str, ArmWork] = field(default_factory=dict)

    @property
    def duplicates_merged(self) -> int:
        """Branch prompts that needed no prefill of their own."""
        return self.branch_prompts - self.prompts_opened - self.prompts_saved

    def add_work(self, other: "Counters") -> None:
        """The batches and forwards of work done on the side."""
        for name in ("batches", "batches_halved", "forwards", "rows", "rows_asked"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def told(self) -> dict[str, int]:
        """Those of the whole run."""
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "arms"}
        return numbers | {"duplicates_merged": self.duplicates_merged}

    def arms_to_dict(self) -> dict[str, dict[str, int]]:
        return {label: asdict(work) for label, work in self.arms.items()}


@dataclass(frozen=True)
class PreparedRequest:
    """A job whose branches are made. digests, tokens: of the branch prompts, the reference first."""

    job: DecodingRequest
    branches: tuple[Prompt, ...]
    digests: tuple[str, ...]
    tokens: tuple[int, ...]

    @property
    def beams(self) -> int:
        """Hypotheses that run side by side."""
        sampler = self.job.arm.sampler
        return sampler.beams if isinstance(sampler, Beam) else 1

    @property
    def key(self) -> str:
        """Equal keys have equal answers: same branches, same arithmetic, same draws."""
        job = self.job
        alike = not job.arm.strategy.traits.draws_random_numbers and (
            job.score == "options" or job.arm.sampler.deterministic
        )
        drawn = None if alike else [job.prompt.key.seed, job.prompt.key.query]
        if job.score == "options":
            how: list[object] = [job.options, job.normalize, job.arm.strategy_digest, drawn]
        else:
            how = [job.max_new_tokens, job.arm.digest, drawn, job.top]
        return json.dumps([job.score, self.digests, how], sort_keys=True, ensure_ascii=False)


def distinct_prompts(prepared_requests: Sequence[PreparedRequest]) -> dict[str, Prompt]:
    """digest -> prompt of all branches, in order of first use."""
    return dict(_branches(prepared_requests))


def _branches(prepared_requests: Sequence[PreparedRequest]) -> Iterator[tuple[str, Prompt]]:
    for ready in prepared_requests:
        yield from zip(ready.digests, ready.branches, strict=True)
