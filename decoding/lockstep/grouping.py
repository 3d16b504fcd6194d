"""A job as groups of an engine's prompts, and its answer from what these said and what the engine kept of them.

Greedy decoding of the prompt as it is needs no group and runs as an ordinary request. Options are scored by groups that
are made to choose the option's own tokens; the strategy's log-probability of each is kept. All options of one token are
read off one step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from decoding.arms.requirements import unsupported_reason
from decoding.engine.generations import Detokenizer, option_generation, text_generation
from decoding.engine.option_scoring import normalize_score
from decoding.engine.requests import Failure, PreparedRequest
from decoding.engine.trace import StepTrace
from decoding.formulas.sampling import Greedy
from decoding.lockstep.request_metadata import MAX_BRANCHES, BranchMetadata
from decoding.lockstep.serialization import serialize
from decoding.strategies.greedy import GreedyDecoding
from icl.errors import ModelError
from icl.models.vllm.engine_io import EngineOutput, EngineRequest
from icl.models.vllm.model import VLLM
from icl.types import Generation, Prompt


class OptionTokenizer(Detokenizer, Protocol):
    """Who knows the tokens: a model, or its renderer alone."""

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]: ...


@dataclass(frozen=True)
class PromptGroup:
    """Prompts that decode one output. name: '' where one decodes outside of groups.

    option: the place of the option whose tokens it is made to choose; of all options where it reads first tokens.
    """

    name: str
    asks: list[EngineRequest]
    option: int = -1


GroupOutputs = Sequence[tuple[PromptGroup, Sequence[EngineOutput]]]


def build_groups(ready: PreparedRequest, reader: OptionTokenizer, name: str, trace: bool) -> list[PromptGroup]:
    """name: what the names of its groups begin with. Raises ModelError where it cannot be asked."""
    if len(ready.branches) > MAX_BRANCHES:
        raise ModelError(
            f"it has {len(ready.branches)} branches, and a group in the engine has {MAX_BRANCHES} at most."
        )
    job, arm = ready.request, ready.request.arm
    if problem := unsupported_reason(arm, VLLM.abilities, job.answer_mode):
        raise ModelError(problem)
    if job.answer_mode == "options":
        return _ballots(ready, reader, name)
    plain = isinstance(arm.strategy, GreedyDecoding) and isinstance(arm.sampler, Greedy)
    if plain and not trace and not job.top_logprobs:
        return [PromptGroup("", [EngineRequest(ready.branches[0], job.max_new_tokens)])]
    return [_group(ready, name, job.max_new_tokens, trace=trace, top=job.top_logprobs)]


def _ballots(ready: PreparedRequest, reader: OptionTokenizer, name: str) -> list[PromptGroup]:
    """One group an option of several tokens, and one whose first step reads the first tokens of all."""
    ids = reader.option_ids(ready.branches[0], ready.request.options)
    if not ids or not all(ids):
        raise ModelError("an option has no tokens of its own after this prompt.")
    first = tuple(option[0] for option in ids)
    long = [place for place, option in enumerate(ids) if len(option) > 1]
    groups = [_group(ready, name, len(ids[p]), option=p, force=tuple(ids[p])) for p in long]
    return [*groups, _group(ready, name, 1, option=len(ids), first=first)]


def _group(ready: PreparedRequest, name: str, length: int, option: int = -1, **more: Any) -> PromptGroup:
    name += f"-{option}" if option >= 0 else ""
    arm, key, count = ready.request.arm, ready.request.prompt.key, len(ready.branches)
    told = serialize(arm.strategy, arm.sampler)
    asks = [
        EngineRequest(
            prompt,
            length,
            BranchMetadata(name, b, count, told, key.seed, key.query, **more).extra_args(),
            stops=option < 0,
        )
        for b, prompt in enumerate(ready.branches)
    ]
    return PromptGroup(name, asks, option)


def build_answer(
    ready: PreparedRequest, reader: OptionTokenizer, heard: GroupOutputs, kept: Mapping[str, Mapping[str, Any]]
) -> Generation | Failure:
    """kept: what the engine kept, by the name of a group."""
    label = ready.request.arm.label
    for group, said in heard:
        fault = kept.get(group.name, {}).get("fault")
        if fault:
            return Failure(f"{label}: {fault}.")
        wrong = next((one for one in said if one.finish not in ("stop", "length")), None)
        if wrong is not None:
            return Failure(f"{label}: {wrong.reason or f'the engine ended the request ({wrong.finish})'}.")
    if ready.request.answer_mode == "options":
        return _scored(ready, reader, heard, kept)
    ((group, said),) = heard
    return _generated(ready, reader, said[0].tokens, kept.get(group.name, {}))


def _generated(
    ready: PreparedRequest, reader: OptionTokenizer, tokens: tuple[int, ...], record: Mapping[str, Any]
) -> Generation:
    stopped = bool(tokens) and tokens[-1] in reader.stop_tokens
    answer = tokens[:-1] if stopped else tokens
    step_traces = [StepTrace(**told) for told in record.get("looks", ())]
    numbers, steps = record.get("trace", ()), len(tokens)
    finish: Literal["stop", "length"] = "stop" if stopped else "length"
    return text_generation(ready, reader, answer, finish, steps=steps, numbers=numbers, step_traces=step_traces)


def _scored(
    ready: PreparedRequest, reader: OptionTokenizer, heard: GroupOutputs, kept: Mapping[str, Mapping[str, Any]]
) -> Generation:
    job, ids = ready.request, reader.option_ids(ready.branches[0], ready.request.options)
    by_option = {group.option: kept[group.name] for group, _ in heard}
    first = by_option[len(ids)]["first"]
    logprobs = [by_option[p]["forced"] if p in by_option else [first[p]] for p in range(len(ids))]
    values = [normalize_score(v, option, job.normalize) for v, option in zip(logprobs, job.options, strict=True)]
    return option_generation(ready, ids, values)
