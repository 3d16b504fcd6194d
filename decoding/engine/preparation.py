"""From jobs to branch prompts: the preparation of strategies that generate first, then each job's branches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from decoding.base import Generate, Note, Strategy
from decoding.engine.requests import DecodingRequest, Failure, PreparedRequest
from icl.errors import ICLError
from icl.types import Prompt
from icl.user_errors import convert_user_errors


def prepare_requests(
    jobs: Sequence[DecodingRequest], generate: Generate, count: Callable[[Prompt], int]
) -> list[PreparedRequest | Failure]:
    """Each job's branches, or why it has none. One prompt under one strategy is prepared and branched once.

    generate: greedy answers of the model under test. count: tokens of a prompt; asked once for each distinct one.
    """
    whose = [_identity(job.prompt, job.arm.strategy.traits.reads_paired_prompt) for job in jobs]
    wanted: dict[Strategy, dict[str, Prompt]] = {}
    for job, own in zip(jobs, whose, strict=True):
        if isinstance(own, str):
            wanted.setdefault(job.arm.strategy, {}).setdefault(own, job.prompt)
    lengths: dict[str, int] = {}
    made: dict[tuple[Strategy, str], _Branched | Failure] = {}
    for strategy, prompts in wanted.items():
        notes = _notes(strategy, list(prompts.values()), generate)
        for (own, prompt), note in zip(prompts.items(), notes, strict=True):
            made[strategy, own] = (
                note if isinstance(note, Failure) else _branched(strategy, prompt, note, count, lengths)
            )
    ready: list[PreparedRequest | Failure] = []
    for job, own in zip(jobs, whose, strict=True):
        if job.arm.strategy.traits.requires_options and job.score == "generate":
            ready.append(Failure(f"{job.arm.label} ranks options and writes no text. Use answer_mode: options."))
            continue
        one = made[job.arm.strategy, own] if isinstance(own, str) else own
        ready.append(one if isinstance(one, Failure) else PreparedRequest(job, one.prompts, one.digests, one.tokens))
    return ready


@dataclass(frozen=True)
class _Branched:
    prompts: tuple[Prompt, ...]
    digests: tuple[str, ...]
    tokens: tuple[int, ...]


def _branched(
    strategy: Strategy, prompt: Prompt, note: Note, count: Callable[[Prompt], int], lengths: dict[str, int]
) -> _Branched | Failure:
    try:
        with convert_user_errors(strategy):
            prompts = strategy.branches(prompt, note)
            digests = tuple(branch.digest for branch in prompts)
        for digest, branch in zip(digests, prompts, strict=True):
            if digest not in lengths:
                lengths[digest] = count(branch)
    except ICLError as error:
        return Failure(str(error))
    return _Branched(prompts, digests, tuple(lengths[digest] for digest in digests))


def _notes(strategy: Strategy, prompts: list[Prompt], generate: Generate) -> Sequence[Note | Failure]:
    """The strategy's notes; where the batch cannot be prepared, one prompt at a time, so that one does not fail all."""
    try:
        with convert_user_errors(strategy):
            return strategy.prepare(prompts, generate)
    except ICLError as error:
        if len(prompts) == 1:
            return [Failure(str(error))]
        return [note for prompt in prompts for note in _notes(strategy, [prompt], generate)]


def _identity(prompt: Prompt, reads_other: bool = False) -> str | Failure:
    """What makes its branches: content, and whose random streams. Opens the images: a broken one fails here."""
    try:
        own = f"{prompt.digest}/{prompt.key.seed}/{prompt.key.query}"
    except ICLError as error:
        return Failure(str(error))
    other = _identity(prompt.paired_prompt) if reads_other and prompt.paired_prompt is not None else ""
    return other if isinstance(other, Failure) else f"{own}//{other}"
