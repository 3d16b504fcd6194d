"""From a decoding request to groups of engine requests, and from their outputs and records to its result.

Greedy decoding of the unchanged prompt needs no group and runs as an ordinary request. To score options, a group is
forced to choose the option's own tokens, and the strategy's log-probability of each is recorded. One step gives the
first tokens of all options.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol

from decoding import Failure, Greedy, GreedyDecoding, PreparedRequest, unsupported_reason
from decoding.engine import Hypothesis, StepTrace, masks_all, normalize_score, option_generation, text_generation
from decoding.engine.thinking_budget import Detokenizer, Renderer, begin_thinking
from decoding.lockstep import MAX_BRANCHES, BranchMetadata, ThinkingLimits, read_tokens, serialize
from icl import Generation, ModelError, Prompt, opened_block
from icl.models.vllm.engine_io import EngineOutput, EngineRequest
from icl.models.vllm.model import VLLM


class OptionTokenizer(Detokenizer, Renderer, Protocol):
    """Tokenizer of prompts, answers and options: a model, or its renderer."""

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]: ...


@dataclass(frozen=True)
class PromptGroup:
    """Engine requests that decode one output.

    Attributes:
        name: Name of the group, '' for an ordinary request.
        requests: One request for each branch.
        option: Index of the option that the group is forced to choose. The number of options for the group that reads
            the first tokens of all.
    """

    name: str
    requests: list[EngineRequest]
    option: int = -1


GroupOutputs = Sequence[tuple[PromptGroup, Sequence[EngineOutput]]]
Records = Mapping[str, Mapping[str, Any]]
"""Name of a group -> its record, as `LockstepWorkerExtension.lockstep_take_records` returns it."""


def build_groups(
    prepared: PreparedRequest, tokenizer: OptionTokenizer, name_prefix: str, trace: bool
) -> list[PromptGroup]:
    """The groups of a request. Raises ModelError if an engine cannot run it."""
    if len(prepared.branches) > MAX_BRANCHES:
        raise ModelError(
            f"it has {len(prepared.branches)} branches, and a group in the engine has at most {MAX_BRANCHES}."
        )
    request, arm = prepared.request, prepared.request.arm
    if problem := unsupported_reason(arm, VLLM.abilities, request.answer_mode):
        raise ModelError(problem)
    if request.answer_mode == "options":
        return _option_groups(prepared, tokenizer, name_prefix)
    plain = isinstance(arm.strategy, GreedyDecoding) and isinstance(arm.sampler, Greedy)
    if plain and not trace and not request.top_logprobs and request.max_thinking_tokens is None:
        return [PromptGroup("", [EngineRequest(prepared.branches[0], request.max_new_tokens)])]
    thinking = thinking_limits(request.max_thinking_tokens, request.max_new_tokens, prepared.branches[0], tokenizer)
    length, top = request.max_output_tokens, request.top_logprobs
    return [_group(prepared, name_prefix, length, trace=trace, top=top, thinking=thinking)]


def thinking_limits(
    max_thinking_tokens: int | None, max_new_tokens: int, reference: Prompt, tokenizer: OptionTokenizer
) -> ThinkingLimits | None:
    """The thinking budget of a group with this reference prompt, or None without a budget."""
    if max_thinking_tokens is None:
        return None
    own = tokenizer.reasoning_block
    opened = opened_block(tokenizer.render(reference) or "", own)
    stop_tokens, opening = tuple(sorted(tokenizer.stop_tokens)), "" if opened is None else opened.opening
    return ThinkingLimits(max_thinking_tokens, max_new_tokens, stop_tokens, opening, astuple(own) if own else ())


def _option_groups(prepared: PreparedRequest, tokenizer: OptionTokenizer, name_prefix: str) -> list[PromptGroup]:
    """One group for each option of several tokens, and one that gives all first tokens in its first step."""
    ids = tokenizer.option_ids(prepared.branches[0], prepared.request.options)
    if not ids or not all(ids):
        raise ModelError("an option adds no tokens to this prompt.")
    first = tuple(option[0] for option in ids)
    long = [place for place, option in enumerate(ids) if len(option) > 1]
    groups = [_group(prepared, name_prefix, len(ids[p]), option=p, force=tuple(ids[p])) for p in long]
    return [*groups, _group(prepared, name_prefix, 1, option=len(ids), first=first)]


def _group(prepared: PreparedRequest, name: str, length: int, option: int = -1, **metadata: Any) -> PromptGroup:
    name += f"-{option}" if option >= 0 else ""
    arm, key, count = prepared.request.arm, prepared.request.prompt.key, len(prepared.branches)
    metadata["note"] = prepared.note if arm.strategy.traits.combines_notes else None
    arm_text = serialize(arm.strategy, arm.sampler)
    requests = [
        EngineRequest(
            prompt,
            length,
            BranchMetadata(name, b, count, arm_text, key.seed, key.query, **metadata).extra_args(),
            stops=option < 0,
        )
        for b, prompt in enumerate(prepared.branches)
    ]
    return PromptGroup(name, requests, option)


def build_answer(
    prepared: PreparedRequest, tokenizer: OptionTokenizer, outputs: GroupOutputs, records: Records
) -> Generation | Failure:
    """The result of a request from the outputs and records of all its groups."""
    label = prepared.request.arm.label
    for group, group_outputs in outputs:
        fault = records.get(group.name, {}).get("fault")
        if fault:
            return Failure(f"{label}: {fault}.")
        failed = next((output for output in group_outputs if output.finish not in ("stop", "length")), None)
        if failed is not None:
            return Failure(f"{label}: {failed.reason or f'the engine ended the request ({failed.finish})'}.")
    if prepared.request.answer_mode == "options":
        return _option_scores(prepared, tokenizer, outputs, records)
    ((group, group_outputs),) = outputs
    return _text(prepared, tokenizer, group_outputs[0].tokens, records.get(group.name, {}))


def _text(
    prepared: PreparedRequest, tokenizer: OptionTokenizer, tokens: tuple[int, ...], record: Mapping[str, Any]
) -> Generation | Failure:
    request = prepared.request
    thinking = begin_thinking(tokenizer, prepared.branches[0], request.max_thinking_tokens)
    answer = Hypothesis([], request.max_new_tokens, thinking=thinking)
    if problem := read_tokens(answer, tokens, tokenizer.stop_tokens):
        return Failure(f"{request.arm.label}: {problem}.")
    # If steps are planned ahead, the step after a stop token ran too.
    step_traces = [StepTrace(**values) for values in record.get("step_traces", ())[: answer.steps]]
    return text_generation(
        prepared,
        tokenizer,
        answer.tokens,
        "stop" if answer.finish == "stop" else "length",
        steps=answer.steps,
        numbers=record.get("trace", ())[: answer.steps],
        step_traces=step_traces,
        thinking=thinking,
    )


def _option_scores(
    prepared: PreparedRequest, tokenizer: OptionTokenizer, outputs: GroupOutputs, records: Records
) -> Generation:
    request = prepared.request
    ids = tokenizer.option_ids(prepared.branches[0], request.options)
    by_option = {group.option: records[group.name] for group, _ in outputs}
    first = by_option[len(ids)]["first"]
    logprobs = [by_option[p]["forced"] if p in by_option else [first[p]] for p in range(len(ids))]
    values = [
        normalize_score(v, option, request.normalize) for v, option in zip(logprobs, request.options, strict=True)
    ]
    return option_generation(prepared, ids, values, masks_all(logprobs))
