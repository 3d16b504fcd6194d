"""Work that all engines share: merging equal requests, reporting results, steering, and generation for `prepare`.

Requests are steered by attaching interventions to their prompts before branches are made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from decoding import Arm, Beam, DefaultNote, Generate, GreedyDecoding, Note, SteeringMethod
from decoding.arms.requirements import BEAMS_AND_BUDGET, arm_part_refusal, part_refusal, search_refusal
from decoding.engine.requests import AnswerMode, Counters, DecodingRequest, Failure, PreparedRequest
from icl import Generation, ICLError, Model, ModelError, Prompt, Request, Strategy, convert_user_errors
from icl.models.interventions import OutputPart, PartEdit, acts_in_part

Result: TypeAlias = Generation | Failure
OnResult = Callable[[int, Result], None]
"""Receives the index of a request and its result."""

BeforeAnswer = Callable[[Prompt, str], Prompt]
"""`LogitModel.before_answer`."""

RunRequests = Callable[..., list[Result]]
"""The `run_requests` of an engine."""

GenerationCache = dict[tuple[str, int], str]
"""Digest of a prompt and maximal number of new tokens -> generated text."""


class ResultCollector:
    """Results of requests as they become available. Equal requests are decoded once.

    Args:
        requests: All requests of one call.
        counters: Receives numbers of requests and prompts.
        on_result: Called with the index of a request and its result.
    """

    def __init__(self, requests: Sequence[DecodingRequest], counters: Counters, on_result: OnResult | None) -> None:
        self.requests, self.counters, self.on_result = requests, counters, on_result
        self.by_index: dict[int, Result] = {}
        self.by_key: dict[str, list[int]] = {}
        counters.decoding_requests += len(requests)

    def add(self, i: int, result: Result) -> None:
        """Stores and reports the result of a request."""
        self.by_index[i] = result
        self.counters.requests_failed += isinstance(result, Failure)
        if self.on_result is not None:
            self.on_result(i, result)

    def is_first(self, i: int, key: str) -> bool:
        """Whether a request is the first one with this key. Otherwise it gets the result of the first one."""
        same = self.by_key.setdefault(key, [])
        self.counters.requests_reused += bool(same)
        same.append(i)
        return len(same) == 1

    def prepare(self, generate: Generate, model: Any) -> list[PreparedRequest]:
        """The first request of each key, with its branches. Requests without branches get a `Failure`.

        Args:
            generate: Greedy generation for `Strategy.prepare`.
            model: Renders prompts, and reads those that interventions depend on.
        """
        firsts = []
        steered = steered_requests(model, self.requests)
        for i, prepared in enumerate(prepare_requests(steered, generate, model.count_tokens, model.before_answer)):
            if isinstance(prepared, Failure):
                self.add(i, prepared)
                continue
            self.counters.branch_prompts += len(prepared.branches)
            self.counters.default_notes += isinstance(prepared.note, DefaultNote)
            if self.is_first(i, prepared.key):
                firsts.append(prepared)
        return firsts

    def request_indices(self) -> list[list[int]]:
        """For each key, in the order of `prepare`, the indices of its requests."""
        return list(self.by_key.values())

    def results(self) -> list[Result]:
        """All results in the order of the requests."""
        return [self.by_index[i] for i in range(len(self.requests))]


class PrepareGenerator:
    """Greedy generation for `Strategy.prepare`, by the engine itself.

    Args:
        run_requests: The engine.
        model: The model under test.
        counters: Receives the work.
        cache: Texts generated before; new ones are added.

    Raises:
        ModelError: A prompt could not be answered.
    """

    def __init__(self, run_requests: RunRequests, model: Any, counters: Counters, cache: GenerationCache) -> None:
        self.run_requests, self.model, self.counters, self.cache = run_requests, model, counters, cache

    def __call__(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        keys = [(prompt.digest, max_new_tokens) for prompt in prompts]
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self.cache}
        work, greedy = Counters(), Arm(GreedyDecoding())
        requests = [DecodingRequest(prompt, greedy, max_new_tokens=max_new_tokens) for prompt in new.values()]
        results = self.run_requests(self.model, requests, work, trace=False) if requests else []
        self.counters.prompts_prepared += len(requests)
        self.counters.add_work(work)
        for key, result in zip(new, results, strict=True):
            if isinstance(result, Failure):
                raise ModelError(f"generation before decoding failed: {result.reason}")
            self.cache[key] = result.text
        return [self.cache[key] for key in keys]


NO_SITES = "this model has no hidden states that an intervention could edit. Use the model 'hf', or remove `intervene`."


def steered_requests(model: Any, requests: Sequence[DecodingRequest]) -> list[DecodingRequest | Failure]:
    """The requests with steered prompts. A prompt is steered once for each method. A request that fails is a Failure.

    Args:
        model: The loaded model.
        requests: Requests with or without `intervene`.
    """
    if all(request.intervene is None for request in requests):
        return list(requests)
    groups: dict[int, tuple[SteeringMethod, dict[str, Prompt]]] = {}
    keys: dict[int, str] = {}
    steered: list[DecodingRequest | Failure] = list(requests)
    for i, request in enumerate(requests):
        method = request.intervene
        if method is None or method.neutral:
            continue
        if not method.needs <= model.abilities:
            steered[i] = Failure(NO_SITES)
            continue
        if problem := part_refusal(method, request.max_thinking_tokens if request.answer_mode == "generate" else None):
            steered[i] = Failure(problem)
            continue
        try:
            keys[i] = f"{request.prompt.digest}/{request.prompt.key}"
        except ICLError as error:
            steered[i] = Failure(str(error))
            continue
        groups.setdefault(id(method), (method, {}))[1].setdefault(keys[i], request.prompt)
    prompts = {
        (number, key): prompt
        for number, (method, own) in groups.items()
        for key, prompt in zip(own, _steered(method, list(own.values()), model), strict=True)
    }
    for i, key in keys.items():
        prompt = prompts[id(requests[i].intervene), key]
        steered[i] = prompt if isinstance(prompt, Failure) else replace(requests[i], prompt=prompt, intervene=None)
    return steered


def _steered(method: SteeringMethod, prompts: list[Prompt], model: Any) -> Sequence[Prompt | Failure]:
    """The prompts of one method. If the batch fails, prompts are steered one by one, so that only some fail."""
    try:
        with convert_user_errors(method):
            steered = method.steered(prompts, model)
            if method.acts_in == "both":
                return steered
            return [_in_part(*pair, method.acts_in) for pair in zip(prompts, steered, strict=True)]
    except ICLError as error:
        if len(prompts) == 1:
            return [Failure(str(error))]
        return [one for prompt in prompts for one in _steered(method, [prompt], model)]


def _in_part(prompt: Prompt, steered: Prompt, part: OutputPart) -> Prompt:
    """The steered prompt. Its new interventions act in one part of the output only. prompt: the prompt before."""
    count = len(prompt.interventions)
    own, new = steered.interventions[:count], steered.interventions[count:]
    return replace(steered, interventions=(*own, *(PartEdit(one, part) for one in new)))


def prepare_requests(
    requests: Sequence[DecodingRequest | Failure],
    generate: Generate,
    count_tokens: Callable[[Prompt], int],
    before_answer: BeforeAnswer = lambda prompt, reasoning: prompt,
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

    branches: dict[tuple[Strategy, str, AnswerMode, str], _Branches | Failure] = {}

    def branches_of(request: DecodingRequest, key: str) -> _Branches | Failure:
        strategy, note = request.arm.strategy, notes[request.arm.strategy, key]
        own = strategy, key, request.answer_mode, request.reasoning
        if own not in branches:
            end = (lambda one: before_answer(one, request.reasoning)) if request.answer_mode == "options" else None
            branches[own] = (
                note if isinstance(note, Failure) else _make_branches(strategy, request.prompt, note, length, end)
            )
        return branches[own]

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
    budget = request.max_thinking_tokens if request.answer_mode == "generate" else None
    if problem := arm_part_refusal(request.arm, budget) or search_refusal(request.arm, request.answer_mode):
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


def rewritten_prompts(model: Model, work: Sequence[tuple[Prompt, Arm]]) -> list[Prompt | str]:
    """The prompt that the model answers for each prompt and arm, or why there is none.

    It is the last branch if the arm rewrites the prompt (`Traits.rewrites_prompt`), and the prompt itself otherwise.
    """
    cache: dict[tuple[str, int], str] = {}

    def generate(prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        keys = [(prompt.digest, max_new_tokens) for prompt in prompts]
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in cache}
        results: dict[int, Generation | str] = {}
        requests = [Request(prompt, max_new_tokens=max_new_tokens) for prompt in new.values()]
        if requests:
            model.generate_each(requests, results.__setitem__)
        for i, key in enumerate(new):
            result = results[i]
            if isinstance(result, str):
                raise ModelError(f"generation before decoding failed: {result}")
            cache[key] = result.text
        return [cache[key] for key in keys]

    prepared = prepare_requests([DecodingRequest(*pair) for pair in work], generate, model.count_tokens)
    return [one.reason if isinstance(one, Failure) else one.branches[-1] for one in prepared]
