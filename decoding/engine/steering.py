"""Steering of requests: interventions are attached to their prompts before branches are made."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from decoding.arms.requirements import part_refusal
from decoding.engine.requests import DecodingRequest, Failure
from icl.errors import ICLError
from icl.models.interventions import OutputPart, PartEdit
from icl.types import Prompt
from icl.user_errors import convert_user_errors

if TYPE_CHECKING:
    from decoding.interventions.base import SteeringMethod

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


def _steered(method: "SteeringMethod", prompts: list[Prompt], model: Any) -> Sequence[Prompt | Failure]:
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
    """The steered prompt, whose new interventions act in one part of the output alone. prompt: as it was before."""
    count = len(prompt.interventions)
    own, new = steered.interventions[:count], steered.interventions[count:]
    return replace(steered, interventions=(*own, *(PartEdit(one, part) for one in new)))
