"""A prompt as vLLM takes it: the token ids that the Hugging Face backend would send, and images as objects.

The ids have one placeholder an image, which vLLM's processor expands; the result is compared with the ids of the
Hugging Face backend before anything runs. An image goes by its digest, so the engine neither hashes it nor encodes it
twice. Edits on processed pixels (diffusion noise) are made on what vLLM's processor computed for that image, before
it goes to the engine, under the digest of the edited image.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from icl.errors import ModelError
from icl.images import Image
from icl.types import Prompt

if TYPE_CHECKING:
    from icl.models.hf.model import HF


class InputBuilder:
    """Makes engine inputs. hf: renders and tokenizes, without weights. llm: gives `renderer` and `model_config`."""

    def __init__(self, hf: "HF", llm: Any) -> None:
        self.hf, self.llm = hf, llm

    def of(self, prompt: Prompt) -> Any:
        """Raises ModelError, ImageError; what vLLM refuses becomes a ModelError with its sentence."""
        from vllm.exceptions import VLLMError

        try:
            (made,) = self.llm.renderer.render_cmpl([self._parsed(prompt)])
        except (VLLMError, ValueError) as error:
            raise self._refused(error) from error
        return self._checked(prompt, made)

    async def of_async(self, prompt: Prompt) -> Any:
        """The same for a server, where requests overtake one another between here and the engine.

        So each brings its images along, processed once: none counts on another to have brought them. Texts and
        images are read in a thread of their own, since large ones take long and others are being answered.
        """
        from vllm.exceptions import VLLMError

        try:
            parsed = await asyncio.to_thread(self._parsed, prompt)
            (made,) = await self.llm.renderer.render_cmpl_async([parsed], skip_mm_cache=True)
        except (VLLMError, ValueError) as error:
            raise self._refused(error) from error
        return await asyncio.to_thread(self._checked, prompt, made)

    def _parsed(self, prompt: Prompt) -> Any:
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        return parse_model_prompt(self.llm.model_config, self._given(prompt))

    def _refused(self, error: Exception) -> ModelError:
        return ModelError(f"{self.hf.path}: vLLM does not take this prompt: {error}")

    def _checked(self, prompt: Prompt, made: Any) -> Any:
        self._check(prompt, made["prompt_token_ids"])
        if any(image.pixel_value_edits for image in prompt.images):
            self._edit(prompt.images, made["mm_kwargs"]["image"])
        return made

    def _given(self, prompt: Prompt) -> dict[str, Any]:
        ids = list(self.hf.renderer.ids(self.hf.renderer.text(prompt)))
        images = prompt.images
        if not images:
            return {"prompt_token_ids": ids}
        names = [self._name(image, len(images)) for image in images]
        return {
            "prompt_token_ids": ids,
            "multi_modal_data": {"image": [image.open() for image in images]},
            "multi_modal_uuids": {"image": names},
        }

    def _name(self, image: Image, among: int) -> str:
        digest, several = self.hf.pixels.key(image, among)
        return f"{digest}-among" if several else digest

    def _check(self, prompt: Prompt, ids: Sequence[int]) -> None:
        wanted = self.hf.ids(prompt)
        if tuple(ids) != wanted:
            place = next((i for i, (a, b) in enumerate(zip(ids, wanted, strict=False)) if a != b), len(wanted))
            raise ModelError(
                f"{self.hf.path}: vLLM's processor makes {len(ids)} tokens of a prompt that has {len(wanted)} on the "
                f"backend 'hf'; they part at token {place}. vLLM's processor for this architecture and the "
                "checkpoint's own disagree, so answers could not be compared: use the backend 'hf'."
            )

    def _edit(self, images: Sequence[Image], items: Any) -> None:
        """Puts the edited pixels in place. An item that is None is already in the engine, edited."""
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
                    f"{self.hf.path} leaves normalization to the model. Leave mm_device_do_normalize out of "
                    "engine_args, or use the backend 'hf'."
                )
            for edit in image.pixel_value_edits:
                values = edit.apply_to_pixel_values(values)
            items[place] = type(item)({**item, "pixel_values": replace(element, data=values)})
