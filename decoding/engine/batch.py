"""Decoding of one batch: prefills its distinct prompts once, scores options on the rows, then runs the token loop.

Prompts of deferred branches are prefilled by the loop, if at all. When answers have ended, other requests can take
their places while the rest still runs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

from decoding import Beam, Counters, Failure, LazyBranches, PreparedRequest, Sampler, distinct_prompts
from decoding.engine import ArmWork, TokenLoop, begin_thinking, build_processors
from decoding.engine.answer_search import AnswerSearch
from decoding.engine.hypotheses import (
    BeamSearch,
    DecodingGroup,
    Hypothesis,
    LoopWork,
    build_stop_criterion,
    option_generation,
    text_generation,
)
from decoding.engine.option_scoring import OptionScoring, masks_all, option_spellings, score_options
from icl import Generation, LogitModel, PlanError, Prompt, Session, Strategy, torch
from icl.models.interventions import ActsIn, acts_in_part


class DecodingBatch:
    """Requests of one model that decode together. Others can join while they run.

    Attributes:
        running: Requests without a result, by number.
    """

    def __init__(
        self,
        model: LogitModel,
        counters: Counters,
        trace: bool,
        lazy_branches: LazyBranches = "auto",
        *,
        early_exits: bool = False,
    ) -> None:
        """A batch without requests.

        Args:
            model: The model.
            counters: Receives the work done.
            trace: As for `decoding.engine.engine.run_requests`.
            lazy_branches: As for `decoding.engine.engine.run_requests`.
            early_exits: Whether a strategy may read early layers.
        """
        self.model, self.counters, self.trace, self.lazy_branches = model, counters, trace, lazy_branches
        self.history = BranchHistory(model)
        self.prompts: dict[str, Prompt] = {}
        # The loop gets a function that does not refer to the batch. In a cycle, its session would keep the weights.
        self.open_branches = partial(_open_branches, model, self.prompts, {"early_exits": True} if early_exits else {})
        self.loop: TokenLoop | None = None
        self.running: dict[int, PreparedRequest] = {}
        self._outputs: dict[int, tuple[BranchSchedule, OptionScoring | Hypothesis]] = {}

    def run(
        self,
        new: Mapping[int, PreparedRequest],
        share: float = 0.0,
        *,
        on_open: Callable[[], None] = lambda: None,
    ) -> None:
        """Lets requests join, and decodes until at most a share of the running answers has not ended.

        Args:
            new: Requests by number.
            share: The share, of the answers that run with the new ones. 0: to the end.
            on_open: Called once the new prompts are prefilled.

        Raises:
            ICLError: The prompts cannot be prefilled together, or a strategy failed. The batch is then of no more use.
        """
        self.running |= new
        if new:
            self._open(new, on_open)
        if self.loop is not None:
            self._count(self.loop.run(int(share * self.loop.num_running)))

    def take_results(self) -> Iterator[tuple[int, Generation | Failure]]:
        """The number and the result of each request that has ended since the last call."""
        is_over = self.loop is not None and not self.loop.num_running
        opened = [(i, one, *self._outputs[i]) for i, one in self.running.items() if i in self._outputs]
        for i, one, schedule, output in opened:
            if isinstance(output, OptionScoring):
                del self.running[i]
                yield i, _option_result(one, output)
            elif output.finish or is_over:
                del self.running[i]
                self.history.learn(one, schedule, output)
                _count_arm_work(one, schedule, output, self.counters)
                yield i, _text_result(self.model, one, output)

    def _count(self, work: LoopWork) -> None:
        counters = self.counters
        counters.prompts_prefilled += work.deferred_prefills
        counters.prompts_saved -= work.deferred_prefills
        counters.forwards += work.forwards
        counters.rows += work.rows
        counters.rows_without_sharing += work.rows_without_sharing

    def _open(self, new: Mapping[int, PreparedRequest], on_open: Callable[[], None]) -> None:
        """Prefills requests and scores their options. Those that generate a text join the loop."""
        model, prepared, prompts = self.model, list(new.values()), distinct_prompts(list(new.values()))
        self.prompts |= prompts
        schedules = choose_schedules(prepared, self.lazy_branches, self.history, model.shares_prefix)
        first_prompts = _first_prompts(prepared, schedules)
        session = self.open_branches(first_prompts)
        on_open()
        self.counters.prompts_prefilled += len(first_prompts)
        self.counters.prompts_saved += len(prompts) - len(first_prompts)
        row_of = {digest: row for row, digest in enumerate(first_prompts)}
        outputs: dict[int, tuple[BranchSchedule, OptionScoring | Hypothesis]] = {}
        hypotheses: dict[int, Hypothesis] = {}
        for place, (i, one) in enumerate(new.items()):
            schedule = schedules[place]
            rows = [row_of[digest] for digest in (one.digests if schedule == "eager" else one.digests[:1])]
            if one.request.answer_mode == "options":
                outputs[i] = schedule, _option_scoring(model, one, rows)
            else:
                hypotheses[place] = _hypothesis(model, one, rows)
                outputs[i] = schedule, hypotheses[place]
        # Before the loop, which uses the rows up.
        score_options(session, [one for _, one in outputs.values() if isinstance(one, OptionScoring)])
        for place in [place for place in hypotheses if prepared[place].request.arm.traits.rows_per_beam]:
            (group,) = _decoding_groups(model, prepared, schedules, {place: hypotheses.pop(place)})
            prompt = self.prompts[prepared[place].digests[0]]
            self._count(AnswerSearch(session, prompt, group, model.stop_tokens, self.trace).run())
        groups = _decoding_groups(model, prepared, schedules, hypotheses)
        if self.loop is None:
            self.counters.batches += 1
            self.loop = TokenLoop(
                session, groups, model.stop_tokens, trace=self.trace, open_branches=self.open_branches
            )
        else:
            self.loop.join(session, groups)
        self._outputs |= outputs  # not before: if any of this fails, none of them has a result


def _open_branches(
    model: LogitModel,
    prompts: Mapping[str, Prompt],
    settings: Mapping[str, Any],
    names: Iterable[str],
    prefix_source: Session | None = None,
) -> Session:
    if model.shares_prefix and prefix_source is not None:
        settings = {**settings, "prefix_source": prefix_source}
    return model.open([prompts[name] for name in names], **settings)


# Decides when contrast branches are prefilled: at the start (eager), when a step needs them (lazy), or gated.
#
# All schedules give the same tokens (`decoding.engine.token_loop`), but at different costs. Lazy branches save
# the prefill of contrasts that no step needs. Contrasts that are needed cost extra forward passes. If the model does
# not share prefixes, the common prefix is also prefilled twice. The choice depends on the length of answers and on
# how often a contrast is needed. The engine learns both from the previous answers of an arm with the same model.
# Without previous answers, it assumes answers of maximal length.


BranchSchedule = Literal["eager", "lazy", "gated"]


def _first_prompts(prepared: Sequence[PreparedRequest], schedules: Sequence[BranchSchedule]) -> dict[str, Prompt]:
    """digest -> prompt of what is prefilled before the first step: all references, then all second branches, ...

    In this order the logits of one branch are adjacent, and a step reads them without a copy.
    """
    pairs = list(zip(prepared, schedules, strict=True))
    return {
        one.digests[n]: one.branches[n]
        for n in range(max(len(one.branches) for one in prepared))
        for one, schedule in pairs
        if n < len(one.branches) and (n == 0 or schedule == "eager")
    }


def _option_scoring(model: LogitModel, prepared: PreparedRequest, rows: Sequence[int]) -> OptionScoring:
    request, reference = prepared.request, prepared.branches[0]
    first_tokens: tuple[tuple[int, ...], ...] = ()
    if request.arm.traits.sums_first_tokens:
        first_tokens = _distinct_first_tokens(model, reference, request.options)
    ids = tuple(tuple(option) for option in model.option_ids(reference, request.options))
    return OptionScoring(
        request.arm.strategy,
        tuple(rows),
        ids,
        request.prompt.key,
        note=prepared.note,
        texts=request.options,
        normalize=request.normalize,
        first_tokens=first_tokens,
    )


def _distinct_first_tokens(model: LogitModel, prompt: Prompt, options: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The first tokens of all spellings of each option, without tokens that also begin another option."""
    sets = [{ids[0] for ids in model.option_ids(prompt, option_spellings(option)) if ids} for option in options]
    return tuple(tuple(sorted(own - set().union(*sets[:i], *sets[i + 1 :]))) for i, own in enumerate(sets))


def _hypothesis(model: LogitModel, prepared: PreparedRequest, rows: list[int]) -> Hypothesis:
    request = prepared.request
    reads_prompt = bool(request.arm.logits_processors)
    return Hypothesis(
        rows,
        request.max_new_tokens,
        request.prompt.key,
        note=prepared.note,
        top_logprobs=request.top_logprobs,
        prompts=prepared.digests,
        prompt_ids=tuple(model.token_ids(prepared.branches[0])) if reads_prompt else (),
        thinking=begin_thinking(model, prepared.branches[0], request.max_thinking_tokens),
        parts=[] if any(map(acts_in_part, prepared.branches)) else None,
    )


def _decoding_groups(
    model: LogitModel,
    prepared: Sequence[PreparedRequest],
    schedules: Sequence[BranchSchedule],
    hypotheses: dict[int, Hypothesis],
) -> list[DecodingGroup]:
    groups: dict[Any, DecodingGroup] = {}
    for i, hypothesis in hypotheses.items():
        request, is_gated = prepared[i].request, schedules[i] == "gated"
        arm, num_branches = request.arm, len(hypothesis.prompts)
        settings = arm.logits_processors, request.stop_strings, arm.acts_in
        key = (arm.strategy, arm.sampler, num_branches, is_gated, *settings)
        if key not in groups:
            groups[key] = DecodingGroup(
                arm.strategy,
                arm.sampler,
                [],
                is_gated,
                processors=build_processors(arm.logits_processors),
                stop_criterion=build_stop_criterion(model, request.stop_strings),
                acts_in=arm.acts_in,
            )
        groups[key].hypotheses.append(hypothesis)
    for group in groups.values():
        if isinstance(group.sampler, Beam) and max(group.sampler.beams - 1, group.strategy.traits.rows_per_beam):
            group.search = BeamSearch(group.sampler, group.hypotheses)
            group.hypotheses = group.search.hypotheses
    return list(groups.values())


def _count_arm_work(
    prepared: PreparedRequest, schedule: BranchSchedule, hypothesis: Hypothesis, counters: Counters
) -> None:
    num_contrasts = len(prepared.branches) - 1
    if not num_contrasts or hypothesis.finish == "fault":
        return
    work = counters.arms.setdefault(prepared.request.arm.label, ArmWork())
    steps = hypothesis.steps - 1  # no branch reads the last token
    setattr(work, schedule, getattr(work, schedule) + 1)
    work.contrasts += num_contrasts
    work.tokens += num_contrasts * steps
    if schedule != "eager":
        work.tokens_saved += num_contrasts * (steps - hypothesis.branch_tokens)
        work.forwards_saved += num_contrasts * (steps - hypothesis.branch_forwards)
        if not hypothesis.is_prefilled:
            work.prefills_saved += num_contrasts
            work.prompt_tokens_saved += sum(prepared.tokens[1:])


def _text_result(model: LogitModel, prepared: PreparedRequest, hypothesis: Hypothesis) -> Generation | Failure:
    if hypothesis.finish == "fault" or not hypothesis.finish:
        return Failure(f"{prepared.request.arm.label}: {hypothesis.fault}.")
    return text_generation(
        prepared,
        model,
        hypothesis.tokens,
        hypothesis.finish,
        steps=hypothesis.steps,
        numbers=hypothesis.trace,
        step_traces=hypothesis.step_traces,
        thinking=hypothesis.thinking,
        forwards=hypothesis.searched_rows,
    )


def _option_result(prepared: PreparedRequest, scoring: OptionScoring) -> Generation | Failure:
    if scoring.fault:
        return Failure(f"{prepared.request.arm.label}: {scoring.fault}.")
    logprobs = [[score] for score in scoring.combined_scores] or scoring.logprobs
    return option_generation(prepared, scoring.ids, scoring.scores(), masks_all(logprobs))


ArmKey = tuple[Strategy, Sampler, int, ActsIn]
"""A strategy, a sampler, the maximal number of new tokens, and the part in which the strategy chooses them."""

DECIDED_STEPS = 0.7
"""Assumed proportion of steps that the reference decides, before an arm has answered."""

MIN_ANSWERS, MAX_ANSWERS = 8, 64
"""Statistics are used from MIN_ANSWERS answers on. At MAX_ANSWERS, the weight of all previous answers is halved."""

FORWARD_TOKENS = 64
"""Cost of one more forward pass on a small model, in prefilled tokens."""

IMAGE_TOKENS = 16
"""Cost of processing and encoding an image on a small model, in prefilled tokens."""

COPY_COST = 0.02
"""Cost of moving the cache entries of a row once, relative to its prefill."""

MAX_COST_RATIO = 0.9
"""Lazy branches are chosen below this ratio of estimated costs, because an eager choice risks less."""


@dataclass
class AnswerStatistics:
    """Statistics of the answers of one arm.

    Attributes:
        answers: Number of answers.
        steps: Number of their steps.
        needing: Answers with a step that the reference did not decide.
    """

    answers: float = 0.0
    steps: float = 0.0
    needing: float = 0.0

    def add(self, steps: int, needs_contrast: bool) -> None:
        """Adds an answer. Older answers lose weight over time."""
        if self.answers >= MAX_ANSWERS:
            self.answers, self.steps, self.needing = self.answers / 2, self.steps / 2, self.needing / 2
        self.answers += 1
        self.steps += steps
        self.needing += needs_contrast

    def expected(self, max_new_tokens: int) -> tuple[float, float]:
        """Expected tokens of an answer, and the proportion of answers that need their contrast."""
        if self.answers < MIN_ANSWERS:
            return max_new_tokens, 1 - DECIDED_STEPS**max_new_tokens
        return self.steps / self.answers, self.needing / self.answers


class BranchHistory:
    """Statistics of each arm's answers. They are stored for the lifetime of the model."""

    by_model: ClassVar[WeakKeyDictionary["LogitModel", dict[ArmKey, AnswerStatistics]]] = WeakKeyDictionary()

    def __init__(self, model: "LogitModel") -> None:
        self.statistics = self.by_model.setdefault(model, {})

    def of(self, prepared: PreparedRequest) -> AnswerStatistics:
        """The statistics of the request's arm."""
        return self.statistics.setdefault(_arm_key(prepared), AnswerStatistics())

    def learn(self, prepared: PreparedRequest, schedule: BranchSchedule, hypothesis: "Hypothesis") -> None:
        """Adds an answer if it is known whether it needed its contrast: after a lazy schedule, or with a trace."""
        if hypothesis.finish == "fault" or schedule == "gated" or prepared.request.arm.traits.is_gated:
            return
        if schedule == "lazy":
            self.of(prepared).add(hypothesis.steps, hypothesis.is_prefilled)
        elif hypothesis.trace:
            self.of(prepared).add(hypothesis.steps, hypothesis.undecided_steps > 0)


def choose_schedules(
    prepared: Sequence[PreparedRequest],
    lazy_branches: LazyBranches,
    history: BranchHistory,
    shares_prefix: bool = False,
) -> list[BranchSchedule]:
    """The schedule of each request of a batch. Eager if other requests prefill all its prompts anyway.

    Args:
        prepared: Requests of the batch.
        lazy_branches: Whether lazy schedules are allowed or forced.
        history: Statistics of previous answers.
        shares_prefix: Whether deferred prompts reuse the row of the reference.
    """
    schedules: list[BranchSchedule] = ["eager"] * len(prepared)
    by_arm: dict[ArmKey, list[int]] = {}
    for i, one in enumerate(prepared):
        if lazy_branches != "never" and _may_defer(one):
            by_arm.setdefault(_arm_key(one), []).append(i)
    for (strategy, _, limit, acts_in), indices in by_arm.items():
        requests = [prepared[i] for i in indices]
        is_gated = strategy.traits.is_gated
        expected = history.of(requests[0]).expected(limit)
        is_lazy = lazy_branches == "always" or acts_in == "answer"  # reasoning needs no contrast then
        if is_gated or is_lazy or is_lazy_cheaper(requests, *expected, shares_prefix):
            for i in indices:
                schedules[i] = "gated" if is_gated else "lazy"
    pairs = list(zip(prepared, schedules, strict=True))
    prefilled = {digest for one, schedule in pairs if schedule == "eager" for digest in one.digests}
    prefilled |= {one.digests[0] for one in prepared}
    return ["eager" if prefilled.issuperset(one.digests) else schedule for one, schedule in pairs]


def _may_defer(prepared: PreparedRequest) -> bool:
    """Whether the branches of a request may be deferred. Beams exchange rows, and step traces show all branches."""
    request, strategy = prepared.request, prepared.request.arm.strategy
    return (
        request.answer_mode == "generate"
        and not request.top_logprobs
        and len(prepared.branches) > 1
        and not strategy.traits.keeps_state
        and not isinstance(request.arm.sampler, Beam)
        and (request.arm.acts_in == "answer" or can_defer_branches(strategy))
    )


def _arm_key(prepared: PreparedRequest) -> ArmKey:
    request = prepared.request
    return request.arm.strategy, request.arm.sampler, request.max_new_tokens, request.arm.acts_in


@lru_cache(maxsize=64)
def can_defer_branches(strategy: Strategy) -> bool:
    """Whether the reference alone decides some steps, tested on a distribution with a single likely token."""
    logits = torch.full((1, 512), -1e4)
    logits[0, 0] = 0.0
    try:
        decided = strategy.reference_decides(logits)
    except PlanError:  # this mask needs a larger vocabulary
        return False
    return decided is not None and bool(decided.all())


def is_lazy_cheaper(
    prepared: Sequence[PreparedRequest], steps: float, needing: float, shares_prefix: bool = False
) -> bool:
    """Whether lazy branches are estimated to be cheaper. The estimate is in tokens of forward passes.

    Args:
        prepared: Requests of one arm.
        steps: Expected tokens of an answer.
        needing: Proportion of answers that need their contrast.
        shares_prefix: Whether deferred prompts reuse the row of the reference.
    """
    count, num_contrasts = len(prepared), len(prepared[0].branches) - 1
    all_tokens = sum(sum(one.tokens[1:]) for one in prepared)
    new_tokens = sum(
        unshared_tokens(one.branches[0], branch, size)
        for one in prepared
        for branch, size in zip(one.branches[1:], one.tokens[1:], strict=True)
    )
    reading = num_contrasts * (steps - 1) * count + IMAGE_TOKENS * sum(map(_num_new_images, prepared))
    prefills = min(steps, needing * count)
    join_cost = 2 * FORWARD_TOKENS + COPY_COST * sum(one.tokens[0] for one in prepared)
    lazy_cost = needing * ((new_tokens if shares_prefix else all_tokens) + reading) + prefills * join_cost
    return lazy_cost < MAX_COST_RATIO * (new_tokens + reading)


def _num_new_images(prepared: PreparedRequest) -> int:
    """Number of images that the contrast branches contain and the reference does not."""
    reference, *others = prepared.branches
    shared = {image.digest for image in reference.images}
    return len({image.digest for branch in others for image in branch.images} - shared)


def unshared_tokens(reference: Prompt, other: Prompt, tokens: int) -> float:
    """Estimated tokens of a prompt after the prefix that it shares with the reference.

    Text counts one token per four characters; images share the remaining tokens equally.

    Args:
        reference: The reference prompt.
        other: The other prompt.
        tokens: Number of tokens of `other`.
    """
    contents = [part.content for part in other.parts()]
    texts = [len(content) / 4 for content in contents if isinstance(content, str)]
    image_size = max(0.0, tokens - sum(texts)) / max(1, len(contents) - len(texts))
    num_shared = 0
    for part, reference_part in zip(_contents(other), _contents(reference), strict=False):
        if part != reference_part:
            break
        num_shared += 1
    weights = [len(content) / 4 if isinstance(content, str) else image_size for content in contents]
    return tokens * (1 - sum(weights[:num_shared]) / max(1e-9, sum(weights)))


def _contents(prompt: Prompt) -> Iterator[tuple[str, str]]:
    return (
        (turn.role, part.content if isinstance(part.content, str) else part.content.digest)
        for turn in prompt.turns
        for part in turn.parts
    )
