"""Decoding requests, failures, and counters of the work that requests share.

To score options after reasoning ("think, then choose"), the model reasons under its thinking budget first.

    P <think> a b c </think> | red | blue      reasoning by the arm, the end of its block, the options

The arm itself reasons: its strategy with all branches, its sampler and its logits processors. An arm that can only
score options reasons greedily. All branches then read the same reasoning. It is tokenized again with the prompt.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import wraps
from typing import Any, Literal, TypeVar, cast

from decoding import Arm, Beam, GreedyDecoding, Normalize, Note, SteeringMethod
from icl import Generation, Prompt, Usage, max_output_tokens
from icl.models.base import MAX_NEW_TOKENS
from icl.text.reasoning_blocks import reasoning_text

AnswerMode = Literal["generate", "options"]
"""Whether the answer is a generated text or the best of the given options."""

LazyBranches = Literal["auto", "always", "never"]
"""Whether contrast branches are prefilled only when a step needs them; auto: if that is estimated to be cheaper.

See `decoding.engine.token_loop` and `decoding.engine.batch`.
"""


@dataclass(frozen=True)
class DecodingRequest:
    """One prompt to answer with one arm.

    Attributes:
        prompt: The prompt.
        arm: Strategy, sampler and logits processors.
        options: Answer options, for option scoring.
        answer_mode: Generate a text, or score `options`. Samplers and logits processors do not affect option scores.
        max_new_tokens: Length limit of a generated answer.
        top_logprobs: Number of tokens per branch and step that the step traces keep (`decoding.engine.trace`).
        stop_strings: Texts that end an answer (`decoding.engine.hypotheses`).
        max_thinking_tokens: Length limit of a reasoning block (`decoding.engine.thinking_budget`), or None.
        intervene: Steers the prompt before the strategy makes branches of it, or None.
        reasoning: What the model has thought before options are scored (`decoding.engine.requests`).
    """

    prompt: Prompt
    arm: Arm
    options: tuple[str, ...] = ()
    answer_mode: AnswerMode = "generate"
    max_new_tokens: int = MAX_NEW_TOKENS
    top_logprobs: int = 0
    stop_strings: tuple[str, ...] = ()
    max_thinking_tokens: int | None = None
    intervene: SteeringMethod | None = None
    reasoning: str = ""

    @property
    def max_output_tokens(self) -> int:
        """Length limit of reasoning and answer together."""
        return max_output_tokens(self.max_new_tokens, self.max_thinking_tokens)

    @property
    def normalize(self) -> Normalize:
        """How option scores are normalized."""
        return self.arm.normalize


@dataclass(frozen=True)
class Failure:
    """The reason why a request has no answer. The other requests of its batch are answered."""

    reason: str


@dataclass
class ArmWork:
    """Counters of the contrast branches of one arm. They treat the arm as if it ran alone.

    Attributes:
        eager: Answers with branches prefilled from the start.
        lazy: Answers with branches prefilled at the first step that needed them.
        gated: Answers with branches read only at steps that needed them.
        contrasts: Prompts of contrast branches.
        prefills_saved: Contrast prompts that were never prefilled.
        prompt_tokens_saved: Tokens of those prompts.
        tokens: Answer tokens that the branches process under an eager schedule.
        tokens_saved: Answer tokens that the branches never processed.
        forwards_saved: Rows of forward passes saved by processing several tokens at once, or none.
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
    """Work of the engine, and work that sharing avoided.

    Attributes:
        decoding_requests: Requests received.
        requests_reused: Requests that got the answer of an equal request.
        requests_failed: Requests without an answer.
        branch_prompts: Prompts that the requests read, counting each branch.
        prompts_prefilled: Prompts that were prefilled.
        prompts_prepared: Prompts answered before decoding, for `Strategy.prepare`. Their work is included in `batches`,
            `batches_halved`, `forwards`, `rows` and `rows_without_sharing`.
        default_notes: Requests for which the strategy uses a default, because the model's answer before decoding names
            no choice (`decoding.base.DefaultNote`).
        batches: Batches decoded.
        batches_halved: Batches that ran out of memory and continued in halves.
        forwards: Forward passes that decoded a token.
        rows: Rows in those forward passes.
        rows_without_sharing: Rows that these forward passes would have had if arms shared none.
        prompts_saved: Distinct prompts that no step needed.
        arms: Work by label of the arm, for arms with more than one branch.
    """

    decoding_requests: int = 0
    requests_reused: int = 0
    requests_failed: int = 0
    branch_prompts: int = 0
    prompts_prefilled: int = 0
    prompts_prepared: int = 0
    default_notes: int = 0
    batches: int = 0
    batches_halved: int = 0
    forwards: int = 0
    rows: int = 0
    rows_without_sharing: int = 0
    prompts_saved: int = 0
    arms: dict[str, ArmWork] = field(default_factory=dict)

    @property
    def duplicates_merged(self) -> int:
        """Branch prompts that needed no prefill because an equal prompt had one."""
        return self.branch_prompts - self.prompts_prefilled - self.prompts_saved

    def add_work(self, other: "Counters") -> None:
        """Adds the batches and forward passes of `other`."""
        for name in ("batches", "batches_halved", "forwards", "rows", "rows_without_sharing"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_dict(self) -> dict[str, int]:
        """All counters except those by arm."""
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "arms"}
        return numbers | {"duplicates_merged": self.duplicates_merged}

    def arms_to_dict(self) -> dict[str, dict[str, int]]:
        """Label of each arm -> its `ArmWork` as a dict."""
        return {label: asdict(work) for label, work in self.arms.items()}


@dataclass(frozen=True)
class PreparedRequest:
    """A request with the prompts of its branches.

    Attributes:
        request: The request.
        branches: Branch prompts, the reference first.
        digests: Digest of each branch prompt.
        tokens: Number of tokens of each branch prompt.
        note: What `Strategy.prepare` returned for the prompt.
    """

    request: DecodingRequest
    branches: tuple[Prompt, ...]
    digests: tuple[str, ...]
    tokens: tuple[int, ...]
    note: Note = None

    @property
    def num_beams(self) -> int:
        """Hypotheses that are decoded in parallel."""
        sampler = self.request.arm.sampler
        return sampler.beams * max(1, self.request.arm.traits.rows_per_beam) if isinstance(sampler, Beam) else 1

    @property
    def key(self) -> str:
        """Requests with equal keys have equal answers: equal branches, arithmetic and random numbers."""
        request, arm = self.request, self.request.arm
        is_deterministic = not arm.traits.draws_random_numbers and (
            request.answer_mode == "options" or arm.sampler.deterministic
        )
        stream = None if is_deterministic else [request.prompt.key.seed, request.prompt.key.query]
        if request.answer_mode == "options":
            settings: list[object] = [request.options, request.normalize, arm.strategy_digest, stream]
        else:
            limits = request.max_new_tokens, request.max_thinking_tokens
            settings = [*limits, arm.digest, stream, request.top_logprobs, request.stop_strings]
        return json.dumps([request.answer_mode, self.digests, settings], sort_keys=True, ensure_ascii=False)


def distinct_prompts(prepared: Sequence[PreparedRequest]) -> dict[str, Prompt]:
    """digest -> prompt of all branches, in the order of first use."""
    return dict(_branch_prompts(prepared))


def _branch_prompts(prepared: Sequence[PreparedRequest]) -> Iterator[tuple[str, Prompt]]:
    for one in prepared:
        yield from zip(one.digests, one.branches, strict=True)


RunRequests = TypeVar("RunRequests", bound=Callable[..., list[Generation | Failure]])


def with_reasoned_options(run_requests: RunRequests) -> RunRequests:
    """Decorator of an engine's `run_requests`: the model reasons before it chooses among options."""

    @wraps(run_requests)
    def run_with_reasoning(
        model: Any,
        requests: Sequence[DecodingRequest],
        counters: Counters | None = None,
        *,
        on_result: Callable[[int, Generation | Failure], None] | None = None,
        **settings: Any,
    ) -> list[Generation | Failure]:
        reasons = [request.answer_mode == "options" and request.max_thinking_tokens is not None for request in requests]
        if not any(reasons):
            return run_requests(model, requests, counters, on_result=on_result, **settings)
        counters = Counters() if counters is None else counters
        work, places = Counters(), [i for i, does in enumerate(reasons) if does]
        thoughts = run_requests(model, [_reasoning_request(requests[i]) for i in places], work, **settings)
        counters.prompts_prepared += len(places)
        counters.add_work(work)
        by_place = dict(zip(places, thoughts, strict=True))
        results: dict[int, Generation | Failure] = {}

        def add(i: int, result: Generation | Failure) -> None:
            thought = by_place.get(i)
            if isinstance(thought, Generation) and isinstance(result, Generation):
                result = _with_thought(result, thought)
            results[i] = result
            if on_result is not None:
                on_result(i, result)

        rest: list[tuple[int, DecodingRequest]] = []
        for i, request in enumerate(requests):
            thought = by_place.get(i)
            if isinstance(thought, Failure):
                add(i, thought)
            elif thought is None:
                rest.append((i, request))
            else:
                reasoning = reasoning_text(thought.text) if thought.thinking else ""
                rest.append((i, replace(request, reasoning=reasoning, max_thinking_tokens=None)))
        run_requests(
            model,
            [request for _, request in rest],
            counters,
            on_result=lambda place, result: add(rest[place][0], result),
            **settings,
        )
        return [results[i] for i in range(len(requests))]

    return cast("RunRequests", run_with_reasoning)


def _reasoning_request(request: DecodingRequest) -> DecodingRequest:
    """The request for the reasoning. One token of an answer is decoded after it."""
    arm = Arm(GreedyDecoding()) if request.arm.traits.requires_options else request.arm
    return replace(request, arm=arm, options=(), answer_mode="generate", max_new_tokens=1, stop_strings=())


def _with_thought(choice: Generation, thought: Generation) -> Generation:
    """The choice, with its reasoning and the usage of both."""
    one, other = choice.usage, thought.usage
    usage = Usage(
        one.prompt_tokens, one.new_tokens + other.new_tokens, one.forwards + other.forwards, other.thinking_tokens
    )
    reasoning = reasoning_text(thought.text) if thought.thinking else ""
    return replace(choice, reasoning=reasoning, thinking=thought.thinking, usage=usage)
