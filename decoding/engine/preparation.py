"""Preparation of requests: runs `Strategy.prepare` and makes the branch prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from decoding.arms.requirements import BEAMS_AND_BUDGET, arm_part_refusal
from decoding.base import Generate, Note, Strategy
from decoding.engine.requests import AnswerMode, DecodingRequest, Failure, PreparedRequest
from decoding.formulas.sampling import Beam
from icl.errors import ICLError
from icl.models.interventions import acts_in_part
from icl.types import Prompt
from icl.user_errors import convert_user_errors


def prepare_requests(
    requests: Sequence[DecodingRequest | Failure],
    generate: Generate,
    count_tokens: Callable[[Prompt], int],
    before_answer: Callable[[Prompt], Prompt] = lambda prompt: prompt,
) -> list[PreparedRequest | Failure]:
    """The branch prompts of each request, or a `Failure`. A prompt is prepared once per strategy.

    Args:
        requests: The requests. A failure stays one.
        generate: Greedy generation with the model under test.
        count_tokens: Number of tokens of a prompt; called once per distinct prompt.
        before_answer: `LogitModel.before_answer`, for the branches of requests that score options.
    """
    keys = [
        one if isinstance(one, Failure) else _prompt_key(one.prompt, one.arm.traits.reads_paired_prompt)
        for one in requests
    ]
    prompts_by_strategy: dict[Strategy, dict[str, Prompt]] = {}
    for request, key in zip(requests, keys, strict=True):
        if isinstance(key, str) and isinstance(request, DecodingRequest):
            prompts_by_strategy.setdefault(request.arm.strategy, {}).setdefault(key, request.prompt)
    notes: dict[tuple[Strategy, str], Note | Failure] = {}
    for strategy, prompts in prompts_by_strategy.items():
        made = _notes(strategy, list(prompts.values()), generate)
        notes |= {(strategy, key): note for key, note in zip(prompts, made, strict=True)}
    lengths: dict[str, int] = {}

    def length(branch: Prompt) -> int:
        if branch.digest not in lengths:
            lengths[branch.digest] = count_tokens(branch)
        return lengths[branch.digest]

    branches: dict[tuple[Strategy, str, AnswerMode], _Branches | Failure] = {}

    def branches_of(request: DecodingRequest, key: str) -> _Branches | Failure:
        strategy, mode = request.arm.strategy, request.answer_mode
        if (strategy, key, mode) not in branches:
            note, end = notes[strategy, key], before_answer if mode == "options" else None
            branches[strategy, key, mode] = (
                note if isinstance(note, Failure) else _make_branches(strategy, request.prompt, note, length, end)
            )
        return branches[strategy, key, mode]

    return [
        request
        if isinstance(request, Failure)
        else _prepared(request, key if isinstance(key, Failure) else branches_of(request, key))
        for request, key in zip(requests, keys, strict=True)
    ]


@dataclass(frozen=True)
class _Branches:
    """Branch prompts with their digests and numbers of tokens, and the note that they depend on."""

    prompts: tuple[Prompt, ...]
    digests: tuple[str, ...]
    tokens: tuple[int, ...]
    note: Note


def _prepared(request: DecodingRequest, branches: _Branches | Failure) -> PreparedRequest | Failure:
    if request.arm.traits.requires_options and request.answer_mode == "generate":
        return Failure(f"{request.arm.label} scores options and cannot generate text. Use answer_mode: options.")
    if request.max_thinking_tokens is not None and isinstance(request.arm.sampler, Beam):
        return Failure(f"{request.arm.label}: {BEAMS_AND_BUDGET}")
    if problem := arm_part_refusal(
        request.arm, request.max_thinking_tokens if request.answer_mode == "generate" else None
    ):
        return Failure(f"{request.arm.label}: {problem}")
    if isinstance(branches, Failure):
        return branches
    if isinstance(request.arm.sampler, Beam) and any(map(acts_in_part, branches.prompts)):
        return Failure(f"{request.arm.label}: an intervention acts in one part of the output, and beams have no parts.")
    return PreparedRequest(request, branches.prompts, branches.digests, branches.tokens, branches.note)


def _make_branches(
    strategy: Strategy,
    prompt: Prompt,
    note: Note,
    length: Callable[[Prompt], int],
    before_answer: Callable[[Prompt], Prompt] | None,
) -> _Branches | Failure:
    try:
        with convert_user_errors(strategy):
            prompts = strategy.branches(prompt, note)
        if before_answer is not None:
            prompts = tuple(map(before_answer, prompts))
        with convert_user_errors(strategy):
            digests = tuple(branch.digest for branch in prompts)
        lengths = tuple(map(length, prompts))
    except ICLError as error:
        return Failure(str(error))
    return _Branches(prompts, digests, lengths, note)


def _notes(strategy: Strategy, prompts: list[Prompt], generate: Generate) -> Sequence[Note | Failure]:
    """The strategy's notes. If the batch fails, prompts are prepared one by one, so that only invalid prompts fail."""
    try:
        with convert_user_errors(strategy):
            return strategy.prepare(prompts, generate)
    except ICLError as error:
        if len(prompts) == 1:
            return [Failure(str(error))]
        return [note for prompt in prompts for note in _notes(strategy, [prompt], generate)]


def _prompt_key(prompt: Prompt, reads_paired_prompt: bool = False) -> str | Failure:
    """Identifies what the branches depend on: content and random stream. Opens the images, so broken ones fail here."""
    try:
        key = f"{prompt.digest}/{prompt.key.seed}/{prompt.key.query}"
    except ICLError as error:
        return Failure(str(error))
    paired = _prompt_key(prompt.paired_prompt) if reads_paired_prompt and prompt.paired_prompt is not None else ""
    return paired if isinstance(paired, Failure) else f"{key}//{paired}"
