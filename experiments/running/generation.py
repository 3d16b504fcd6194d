"""Answers to many prompts at once: an engine for models that run strategies, requests for those that only answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.contexts.contexts import RenderedSample
from experiments.grid.grid import Cell
from icl.models.base import Model, Request
from icl.types import Generation, Prompt

if TYPE_CHECKING:
    from decoding.engine.requests import Counters, LazyBranches

Answer = Generation | str
"""What a model said, or why it said nothing."""


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """One sample to be: a written prompt in one cell."""

    cell: Cell
    item: RenderedSample
    prompt: Prompt


AnswerCallback = Callable[[SampleRequest, Answer], None]


def answer(
    model: Model,
    asked: Sequence[SampleRequest],
    counters: "Counters",
    done: AnswerCallback,
    *,
    top: int = 0,
    lazy_branches: "LazyBranches" = "auto",
) -> None:
    """Calls `done` with each and its answer, as soon as it is there; in any order.

    top: see `decoding.engine.requests.Job`. late: see `decoding.engine.engine.run_requests`; another engine than that
    one does not read it.
    """
    if asked and "strategies" in model.abilities:
        _through_engine(model, asked, counters, done, top)
    elif asked and "logits" in model.abilities:
        _through_engine(model, asked, counters, done, top, lazy_branches=lazy_branches)
    elif asked:
        _through_requests(model, asked, done)


def _through_engine(
    model: Any, asked: Sequence[SampleRequest], counters: "Counters", done: AnswerCallback, top: int, **more: str
) -> None:
    from decoding.engine.requests import DecodingRequest, Failure

    jobs = [
        DecodingRequest(
            one.prompt,
            one.cell.decoding,
            _options(one),
            one.cell.answer_mode,
            one.cell.max_new_tokens,
            top_logprobs=top,
            stop_strings=one.cell.stop_strings,
        )
        for one in asked
    ]

    def finished(i: int, result: Generation | Failure) -> None:
        done(asked[i], result.reason if isinstance(result, Failure) else result)

    engine_for(model)(model, jobs, counters, **more, on_result=finished)


def engine_for(model: Model) -> Callable[..., Any]:
    """`run_requests` of the engine that runs strategies on this model: its server's, its own, or the token loop."""
    if "strategies" in model.abilities and model.is_endpoint:  # its server runs them
        from decoding.engine.server_engine import run_requests as there

        return there
    if "strategies" in model.abilities:
        from decoding.lockstep.engine import run_requests as inside

        return inside
    from decoding.engine.engine import run_requests

    return run_requests


def _options(one: SampleRequest) -> tuple[str, ...]:
    return one.item.example.options if one.cell.answer_mode == "options" else ()


def _through_requests(model: Model, asked: Sequence[SampleRequest], done: AnswerCallback) -> None:
    """Equal requests are sent once, unless the model reads more than the prompt (an oracle, a fake)."""
    groups: dict[Any, list[SampleRequest]] = {}
    for i, one in enumerate(asked):
        key = (one.prompt.digest, one.item.example.options, one.cell.max_new_tokens, one.cell.answer_mode)
        groups.setdefault(i if model.needs else key, []).append(one)
    alike = list(groups.values())
    requests = [_request(model, same[0]) for same in alike]

    def finished(i: int, result: Answer) -> None:
        for one in alike[i]:
            done(one, _cut(result, one.cell.stop_strings))

    model.generate_each(requests, finished)


def _cut(result: Answer, stop_strings: Sequence[str]) -> Answer:
    """The answer of a model that does not know stop strings, without the text from the first one on."""
    if isinstance(result, str) or not stop_strings:
        return result
    from decoding.engine.stop_strings import cut_generation

    return cut_generation(result, stop_strings)


def _request(model: Model, one: SampleRequest) -> Request:
    demos = one.item.context.demos if "demos" in model.needs else ()
    return Request(
        one.prompt,
        one.item.example.options,
        one.cell.max_new_tokens,
        tuple((demo.example, demo.score) for demo in demos),
        one.item.example.answers if "gold" in model.needs else (),
        one.cell.answer_mode == "options",
    )
