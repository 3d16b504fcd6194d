"""Decoding of one batch: prefills its distinct prompts once, scores options on the rows, then runs the token loop.

Prompts of deferred branches are prefilled by the loop, if at all.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from decoding.engine.beam_search import BeamSearch
from decoding.engine.branch_scheduling import BranchHistory, BranchSchedule, choose_schedules
from decoding.engine.generations import option_generation, text_generation
from decoding.engine.hypotheses import DecodingGroup, Hypothesis
from decoding.engine.logits_processors import build_processors
from decoding.engine.option_scoring import OptionScoring, option_spellings, score_options
from decoding.engine.requests import ArmWork, Counters, Failure, LazyBranches, PreparedRequest, distinct_prompts
from decoding.engine.stop_strings import build_stop_criterion
from decoding.engine.thinking_budget import begin_thinking
from decoding.engine.token_loop import decode
from decoding.formulas.sampling import Beam
from icl.models.base import LogitModel, Session
from icl.models.interventions import acts_in_part
from icl.types import Generation, Prompt


def decode_batch(
    model: LogitModel,
    prepared: Sequence[PreparedRequest],
    counters: Counters,
    trace: bool,
    lazy_branches: LazyBranches = "auto",
    *,
    on_open: Callable[[], None] = lambda: None,
) -> list[Generation | Failure]:
    """The result of each request. Raises ICLError if the prompts cannot be prefilled together.

    Args:
        model: The model.
        prepared: The requests.
        counters: Receives the work done.
        trace: As for `decoding.engine.engine.run_requests`.
        lazy_branches: As for `decoding.engine.engine.run_requests`.
        on_open: Called once the prompts are prefilled.
    """
    history, prompts = BranchHistory(model), distinct_prompts(prepared)
    schedules = choose_schedules(prepared, lazy_branches, history, model.shares_prefix)
    first_prompts = _first_prompts(prepared, schedules)
    reads_early_exits = any(one.request.arm.traits.reads_early_exits for one in prepared)

    def open_branches(names: Iterable[str], prefix_source: Session | None = None) -> Session:
        settings: dict[str, Any] = {"early_exits": True} if reads_early_exits else {}
        if model.shares_prefix and prefix_source is not None:
            settings["prefix_source"] = prefix_source
        return model.open([prompts[name] for name in names], **settings)

    session = open_branches(first_prompts)
    on_open()
    counters.batches += 1
    row_of = {digest: row for row, digest in enumerate(first_prompts)}
    scorings: dict[int, OptionScoring] = {}
    hypotheses: dict[int, Hypothesis] = {}
    for i, (one, schedule) in enumerate(zip(prepared, schedules, strict=True)):
        rows = [row_of[digest] for digest in (one.digests if schedule == "eager" else one.digests[:1])]
        if one.request.answer_mode == "options":
            scorings[i] = _option_scoring(model, one, rows)
        else:
            hypotheses[i] = _hypothesis(model, one, rows)
    score_options(session, list(scorings.values()))  # before the loop, which uses the rows up
    groups = _decoding_groups(model, prepared, schedules, hypotheses)
    work = decode(session, groups, model.stop_tokens, trace=trace, open_branches=open_branches)
    counters.prompts_prefilled += len(first_prompts) + work.deferred_prefills
    counters.prompts_saved += len(prompts) - len(first_prompts) - work.deferred_prefills
    counters.forwards += work.forwards
    counters.rows += work.rows
    counters.rows_without_sharing += work.rows_without_sharing
    for i, hypothesis in hypotheses.items():
        history.learn(prepared[i], schedules[i], hypothesis)
        _count_arm_work(prepared[i], schedules[i], hypothesis, counters)
    return [
        _option_result(one, scorings[i]) if i in scorings else _text_result(model, one, hypotheses[i])
        for i, one in enumerate(prepared)
    ]


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
        if isinstance(group.sampler, Beam) and group.sampler.beams > 1:
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
    )


def _option_result(prepared: PreparedRequest, scoring: OptionScoring) -> Generation | Failure:
    if scoring.fault:
        return Failure(f"{prepared.request.arm.label}: {scoring.fault}.")
    return option_generation(prepared, scoring.ids, scoring.scores())
