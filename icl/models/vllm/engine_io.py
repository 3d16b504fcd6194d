"""Inputs and outputs of an engine: prompts in groups, where each group decodes one output."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from icl import Image, ModelError, Prompt, vllm
from icl.models.hf.conventions import image_placeholder
from icl.models.hf.model import HF


@dataclass(frozen=True)
class EngineRequest:
    """A prompt for the engine.

    Attributes:
        prompt: The prompt.
        max_new_tokens: Maximum number of new tokens.
        extra: `extra_args` of a branch; empty for an ordinary request.
        stops: Whether the model's end-of-text tokens end the answer.
        top: Number of likeliest tokens that the output lists for each step.
    """

    prompt: Prompt
    max_new_tokens: int
    extra: Mapping[str, str] = field(default_factory=dict)
    stops: bool = True
    top: int = 0


@dataclass(frozen=True)
class EngineOutput:
    """The final output of an engine request.

    Attributes:
        tokens: New tokens, with the stop token.
        finish: stop, length, abort or error.
        reason: Reason of an error.
        prompt_tokens: Number of prompt tokens.
        cached_tokens: Number of prompt tokens that were in the prefix cache.
        steps: For each new token, the likeliest tokens as id -> log-probability, if the request asks for them.
    """

    tokens: tuple[int, ...] = ()
    finish: str = "error"
    reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    steps: tuple[Mapping[int, float], ...] = ()


def output_from_vllm(output: Any) -> EngineOutput:
    """The output of vLLM's last `RequestOutput` of a request."""
    completion = output.outputs[0]
    reason = str(completion.stop_reason or "") if completion.finish_reason == "error" else ""
    return EngineOutput(
        tuple(completion.token_ids),
        str(completion.finish_reason),
        reason,
        len(output.prompt_token_ids),
        output.num_cached_tokens or 0,
        tuple({token: entry.logprob for token, entry in step.items()} for step in completion.logprobs or ()),
    )


def sampling_params(request: EngineRequest, stop_tokens: Iterable[int]) -> Any:
    """vLLM's SamplingParams of a request, with all its tokens in one final output."""
    return vllm.SamplingParams(
        temperature=0.0,
        max_tokens=request.max_new_tokens,
        stop_token_ids=sorted(stop_tokens) if request.stops else [],
        ignore_eos=True,
        detokenize=False,
        output_kind=vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        logprobs=request.top or None,
        extra_args=dict(request.extra) or None,
    )


class InputBuilder:
    """Converter of prompts to vLLM's inputs: the token ids of the backend `hf`, and images as objects.

    The ids have one placeholder for each image, which vLLM's processor expands. The result must equal the ids of the
    backend `hf`. Images are named by their digest, so the engine neither hashes an image nor encodes it twice. Edits of
    processed pixels, such as diffusion noise, are applied to the output of vLLM's processor, and the image is then
    named by the digest of the edited image.
    """

    def __init__(self, hf: HF, llm: Any, image_processor: Mapping[str, Any] | None = None) -> None:
        """
        Args:
            hf: Renders and tokenizes. Its weights are not loaded.
            llm: vLLM's engine or engine client, which has `renderer` and `model_config`.
            image_processor: Settings of the image processor that the engine itself does not have.
        """
        self.hf, self.llm, self.image_processor = hf, llm, image_processor or {}

    def of(self, prompt: Prompt) -> Any:
        """The input of a prompt. Raises ImageError, and ModelError if vLLM refuses the prompt."""
        return self._checked(prompt, self._processed(prompt))

    async def of_async(self, prompt: Prompt) -> Any:
        """The input of a prompt for a server, where requests may overtake one another on their way to the engine.

        Each input therefore contains its processed images, even if an earlier one contains them too. Texts and images
        are processed in threads, because large ones would delay other requests.
        """
        try:
            parsed = await asyncio.to_thread(self._parsed, prompt)
            (engine_input,) = await self.llm.renderer.render_cmpl_async([parsed], skip_mm_cache=True)
        except (vllm.exceptions.VLLMError, ValueError) as error:
            raise self._refused(error) from error
        return await asyncio.to_thread(self._checked, prompt, engine_input)

    def processed(self, prompt: Prompt) -> Any:
        """What vLLM's own processor makes of a prompt and its images, independent of the backend `hf`.

        It is not submitted, so it leaves vLLM's cache of processed images as it is. Raises as `of`.
        """
        return self._processed(prompt, skip_mm_cache=True)

    def _processed(self, prompt: Prompt, **arguments: Any) -> Any:
        try:
            (engine_input,) = self.llm.renderer.render_cmpl([self._parsed(prompt)], **arguments)
        except (vllm.exceptions.VLLMError, ValueError) as error:
            raise self._refused(error) from error
        return engine_input

    def _parsed(self, prompt: Prompt) -> Any:
        parse = vllm.renderers.inputs.preprocess.parse_model_prompt
        return parse(self.llm.model_config, self._unprocessed(prompt))

    def _refused(self, error: Exception) -> ModelError:
        return ModelError(f"{self.hf.path}: vLLM does not accept this prompt: {error}")

    def _checked(self, prompt: Prompt, engine_input: Any) -> Any:
        """The input with edited pixels. Raises ModelError if the backend `hf` has other token ids for the prompt."""
        self._check_ids(prompt, engine_input["prompt_token_ids"])
        if any(image.pixel_value_edits for image in prompt.images):
            self._edit(prompt.images, engine_input["mm_kwargs"]["image"])
        return engine_input

    def _unprocessed(self, prompt: Prompt) -> dict[str, Any]:
        """Token ids with one placeholder for each image, the images and their names."""
        ids = list(self.hf.renderer.ids(self.hf.renderer.text(prompt)))
        images = prompt.images
        if not images:
            return {"prompt_token_ids": ids}
        names = [self._name(image, len(images)) for image in images]
        return {
            "prompt_token_ids": ids,
            "multi_modal_data": {"image": [image.open() for image in images]},
            "multi_modal_uuids": {"image": names},
            **({"mm_processor_kwargs": self.image_processor} if self.image_processor else {}),
        }

    def _name(self, image: Image, among: int) -> str:
        digest, several = self.hf.pixels.key(image, among)
        return f"{digest}-among" if several else digest

    def _check_ids(self, prompt: Prompt, ids: Sequence[int]) -> None:
        expected = tuple(self.hf.token_ids(prompt))
        if tuple(ids) != expected:
            place = next((i for i, (a, b) in enumerate(zip(ids, expected, strict=False)) if a != b), len(expected))
            raise ModelError(
                f"{self.hf.path}: vLLM's processor makes {len(ids)} tokens of a prompt that has {len(expected)} on the "
                f"backend 'hf'; they differ from token {place} on. vLLM's processor for this architecture and the "
                "checkpoint's own disagree, so answers could not be compared: use the backend 'hf'."
            )

    def _edit(self, images: Sequence[Image], items: Any) -> None:
        """Edits the processed pixels in place. An item that is None is already in the engine, edited."""
        for place, image in enumerate(images):
            item = items[place]
            if item is None or not image.pixel_value_edits:
                continue
            element = item.get("pixel_values")
            if element is None:
                raise ModelError(
                    f"image {image.origin} has an edit on processed pixels, and vLLM's processor for "
                    f"{self.hf.path} gives no 'pixel_values' (only {', '.join(item)}). Use an edit on the image "
                    "itself, or the backend 'hf'."
                )
            values = element.data
            if not values.is_floating_point():
                raise ModelError(
                    f"image {image.origin} has an edit on processed pixels, and vLLM's processor for "
                    f"{self.hf.path} leaves normalization to the model. Remove mm_device_do_normalize from "
                    "engine_args, or use the backend 'hf'."
                )
            for edit in image.pixel_value_edits:
                values = edit.apply_to_pixel_values(values)
            items[place] = type(item)({**item, "pixel_values": replace(element, data=values)})


def blocks(hf: HF, prompt: "Prompt", size: int) -> list[int]:
    """A number for each block of `size` tokens that the engine's prefix cache can reuse.

    Equal numbers mean equal tokens and images up to the end of the block. The last token of a prompt is always
    computed, so a block that ends with it is never reused.
    """
    images = prompt.images
    pieces = [hf.pixels.text(image, len(images)) for image in images]
    ids = hf.ids(prompt)
    image_tokens = set(image_placeholder(hf.checkpoint.processor).ids)
    lengths = [sum(token in image_tokens for token in hf.renderer.ids(piece)) for piece in pieces]
    names = iter([hf.pixels.key(p, len(images)) for p, n in zip(images, lengths, strict=True) for _ in range(n)])
    tokens = [(token, next(names, None) if token in image_tokens else None) for token in ids]
    hashes, previous = list[int](), 0
    for start in range(0, (len(ids) - 1) // size * size, size):
        previous = hash((previous, *tokens[start : start + size]))
        hashes.append(previous)
    return hashes
