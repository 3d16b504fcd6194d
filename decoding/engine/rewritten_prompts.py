"""Prompts that strategies rewrite with the help of the model, for models that generate text and have no logits."""

from collections.abc import Sequence

from decoding.arms.arm import Arm
from decoding.engine.preparation import prepare_requests
from decoding.engine.requests import DecodingRequest, Failure
from icl.errors import ModelError
from icl.models.base import Model, Request
from icl.types import Generation, Prompt


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
