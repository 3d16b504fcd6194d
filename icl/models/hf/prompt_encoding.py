"""Encoding of prompts as model inputs: token ids, encoded images, positions and token types."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icl import Image, ModelError, Part, Prompt, StateObserver, Turn, moved_to_device, transformers
from icl.models.hf import EncodedImage, EncodedPrompt, LanguageModel, TemplateRefusedError, messages, script, with_day
from icl.models.hf.conventions import image_placeholder, image_token_problem, takes_interleaved_images
from icl.models.hf.image_encoder import ImageEncoder, on_model
from icl.models.hf.image_processing import ImageProcessor, pixel_name, without_pixel_edits
from icl.models.hf.rendering import PromptRenderer, overrides_rendering


class PromptEncoder:
    """Encoder from `Prompt` to `EncodedPrompt`.

    Attributes:
        renderer: Renders and tokenizes prompts.
        pixels: Processes images.
        runner: The language model.
        encoder: Encodes images. None if the image cache is off and the processor runs on whole prompts, and for a
            model that reads text only.
        observed_rows: Numbers of observed rows. They mark keys of prompts, so that no two rows share a prefix.
        slots: Ids of tokens that stand for an image, markers included.
        patches: Ids of tokens that stand for features of an image.
    """

    def __init__(
        self, renderer: PromptRenderer, pixels: ImageProcessor, runner: LanguageModel, encoder: ImageEncoder | None
    ) -> None:
        self.renderer, self.pixels, self.runner, self.encoder = renderer, pixels, runner, encoder
        self.numbers: dict[tuple[str, bool], int] = {}
        self.observed_rows = itertools.count()
        placeholder = image_placeholder(renderer.processor, runner.model.config)
        self.slots, self.patches = placeholder.ids, frozenset(placeholder.patches)
        self.patches_alone: dict[str, int] = {}
        self.counted: dict[str, int] = {}
        self.own_positions = _own_positions(runner.model)

    @property
    def by_parts(self) -> bool:
        """Whether prompts are token ids with separately encoded images, so that they can share prefixes."""
        return self.encoder is not None or self.renderer.text_only

    def read(self, prompts: Sequence[Prompt], observe: StateObserver | None = None) -> list[EncodedPrompt]:
        """Encoded prompts with their interventions, and an observer. Raises ModelError, ImageError."""
        if observe is None and not any(prompt.interventions for prompt in prompts):
            return self._read_all(prompts)
        from icl.models.hf.token_ranges import with_edits, with_tower_edits

        prompts = [with_tower_edits(self, prompt) for prompt in prompts]
        encoded = self._read_all(prompts)
        return [with_edits(self, *pair, row, observe) for row, pair in enumerate(zip(prompts, encoded, strict=True))]

    def image_tokens(self, prompt: Prompt, encoded: EncodedPrompt) -> list[list[int]]:
        """The tokens of each image that stand for its features, in the order of the images.

        Without the image cache, an image has as many as alone in a prompt.

        Raises:
            ModelError: The model reads images by cross-attention, or the tokens of images cannot be told apart.
        """
        if problem := image_token_problem(self.runner.model.config):
            raise ModelError(f"{self.renderer.name}: {problem}")
        ids = encoded.ids.tolist()
        if encoded.plain is None:
            spans = zip(encoded.starts, encoded.ends, strict=True)
            return [[i for i in range(start, end) if ids[i] in self.patches] for start, end in spans]
        places = [i for i, token in enumerate(ids) if token in self.patches]
        ends = [0, *itertools.accumulate(self._patches_alone(image) for image in prompt.images)]
        if ends[-1] != len(places):
            raise ModelError(
                f"{self.renderer.name}: the prompt has {len(places)} image tokens, but its {len(prompt.images)} images "
                f"have {ends[-1]} if each is alone in a prompt, so the tokens cannot be assigned to images."
            )
        return [places[start:end] for start, end in itertools.pairwise(ends)]

    def _patches_alone(self, image: Image) -> int:
        """Number of an image's tokens in a prompt without other images."""
        if image.digest not in self.patches_alone:
            alone = Prompt((Turn("user", (Part(image), Part("?"))),))
            ids = process_prompt(self.renderer, alone)["input_ids"][0].tolist()
            self.patches_alone[image.digest] = sum(token in self.patches for token in ids)
        return self.patches_alone[image.digest]

    def _read_all(self, prompts: Sequence[Prompt]) -> list[EncodedPrompt]:
        if not self.by_parts:
            return [self._read_plain(prompt) for prompt in prompts]
        texts = [self.renderer.text(prompt) for prompt in prompts]
        images = [prompt.images for prompt in prompts]
        parts = [[] for _ in images] if self.encoder is None else self.encoder.encode(images)
        whole = [
            self.renderer.expanded(text, [part.text for part in row]) for text, row in zip(texts, parts, strict=True)
        ]
        return [self._read(self.renderer.ids(text), row) for text, row in zip(whole, parts, strict=True)]

    def _read(self, ids: Sequence[int], parts: Sequence[EncodedImage]) -> EncodedPrompt:
        slots = set(self.slots)
        places = [i for i, token in enumerate(ids) if token in slots]
        key, starts, ends, done = list(ids), [], [], 0
        for part in parts:
            own = places[done : done + self._count(part.text)]
            if not own:
                raise ModelError("the processor does not write its image_token_ids for an image")
            done += len(own)
            number = -1 - self.numbers.setdefault(part.key, len(self.numbers))
            for place in own:
                key[place] = number
            starts.append(own[0])
            ends.append(own[-1] + 1)
        if done != len(places):
            raise ModelError(
                f"{self.renderer.name}: {len(places)} image tokens in the prompt for images of {done} together."
            )
        grids = {name: torch.cat([part.grids[name] for part in parts]) for name in (parts[0].grids if parts else ())}
        on_device = self._on_device(ids, grids)
        return EncodedPrompt(*on_device, tuple(parts), tuple(key), tuple(starts), tuple(ends))

    def _read_plain(self, prompt: Prompt) -> EncodedPrompt:
        """The processor on the whole prompt. Edits of processed pixels are applied if each image's pixels can be
        identified.
        """
        inputs = process_prompt(self.renderer, prompt)
        if any(image.pixel_value_edits for image in prompt.images):
            name = pixel_name(inputs)
            inputs[name] = self._edited(prompt, name, inputs[name])
        ids: list[int] = inputs.pop("input_ids")[0].tolist()
        inputs.pop("attention_mask", None)
        for name in {"mm_token_type_ids", "token_type_ids", "labels"} - self.runner.own_token_types:
            inputs.pop(name, None)
        tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        arguments = {name: on_model(value, self.runner.model) for name, value in tensors.items()}
        return EncodedPrompt(*self._on_device(ids, tensors), (), tuple(ids), plain=arguments)

    def _edited(self, prompt: Prompt, name: str, values: Tensor) -> Tensor:
        images = [(image, False) for image in prompt.images]
        alone = [
            inputs[name] for inputs, _ in self.pixels.pixels([(without_pixel_edits(p), alone) for p, alone in images])
        ]
        noised = [inputs[name] for inputs, _ in self.pixels.pixels(images)]
        for dim in range(values.ndim):
            matches = all(part.ndim == values.ndim and _without(part, dim) == _without(values, dim) for part in alone)
            if matches and torch.equal(torch.cat(alone, dim), values):
                return torch.cat(noised, dim)
        for leading in ((1, len(alone)), (len(alone),)):  # images padded to the largest of the prompt
            if values.ndim > 3 and values.shape[: len(leading)] == leading:
                cells, first = values.flatten(0, len(leading) - 1), (0,) * len(leading)
                padded = [
                    _place_edited(cell, one[first], other[first])
                    for cell, one, other in zip(cells, alone, noised, strict=True)
                ]
                if all(one is not None for one in padded):
                    return torch.stack([one for one in padded if one is not None]).view_as(values)
        raise ModelError(
            f"{self.renderer.name}: this processor encodes an image differently if there are other images, and "
            "its image "
            "cache is off. Therefore, an edit on processed pixels cannot be placed. Use an edit on the image itself."
        )

    def _count(self, text: str) -> int:
        """Number of image tokens in the text that the processor writes for one image."""
        if text not in self.counted:
            ids = self.renderer.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            self.counted[text] = sum(token in self.slots for token in ids)
        return self.counted[text]

    def _on_device(self, ids: Sequence[int], grids: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Token ids, positions and token types on the device. They are computed on the host, which reads them."""
        tokens, token_types = torch.tensor(list(ids)), None
        if self.runner.token_types_name is not None:
            token_types = torch.tensor(self.renderer.processor.create_mm_token_type_ids([list(ids)])[0])
        positions, device = self._positions(tokens, token_types, grids), self.runner.device
        types_on_device = None if token_types is None else moved_to_device(token_types, device)
        return moved_to_device(tokens, device), moved_to_device(positions, device), types_on_device

    def _positions(self, ids: Tensor, token_types: Tensor | None, grids: dict[str, Tensor]) -> Tensor:
        """Position ids [..., T] as `generate` computes them. M-RoPE has leading channels."""
        if not self.own_positions:
            return torch.arange(len(ids), device=ids.device)
        arguments: dict[str, Any] = {"attention_mask": torch.ones_like(ids)[None]} | grids
        if token_types is not None and self.runner.token_types_name is not None:
            arguments[self.runner.token_types_name] = token_types[None]
        return self.runner.model._prepare_position_ids_for_generation(ids[None], arguments)[..., 0, :]  # type: ignore[no-any-return]


def process_prompt(renderer: PromptRenderer, prompt: Prompt) -> dict[str, Any]:
    """The processor's output for the whole prompt. Raises ModelError if it does not take the prompt."""
    text = renderer.text(prompt)
    images = [image.open() for image in prompt.images]
    try:
        if takes_interleaved_images(renderer.processor):
            return dict(renderer.processor(text=[_interleaved(renderer, text, images)], return_tensors="pt"))
        has_slot_text = any(part.fills_image_slot for part in prompt.parts())
        is_changed = prompt.answer_start or prompt.empty_blocks != "as_template"
        if has_slot_text or is_changed or not overrides_rendering(renderer.processor):
            is_complete = text.startswith(renderer.tokenizer.bos_token or "\0")
            return dict(
                renderer.processor(
                    text=[text],
                    images=[images] if images else None,
                    add_special_tokens=not is_complete,
                    return_tensors="pt",
                )
            )
        if not renderer.trusted:  # the template receives the same conversation below, with names instead of images
            names = [f"<{type(image).__name__}>" for image in images]
            renderer.render_limited(_with_images(prompt, names), answers=True)
        with_day(renderer.template, renderer.day.isoformat())
        return dict(
            renderer.processor.apply_chat_template(
                _with_images(prompt, images),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **renderer.arguments,
            )
        )
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, TemplateRefusedError) as error:
        raise ModelError(
            f"{renderer.name}: {type(renderer.processor).__name__} does not accept a prompt with {len(images)} images: "
            f"{type(error).__name__}: {error}"
        ) from error


def _interleaved(renderer: PromptRenderer, text: str, images: Sequence[Any]) -> list[Any]:
    """Texts and images of a rendered prompt in order, without the start token, which the processor adds."""
    first, *others = text.removeprefix(renderer.tokenizer.bos_token or "").split(renderer.slot)
    return [first, *(item for pair in zip(images, others, strict=True) for item in pair)]


def _without(tensor: Tensor, dim: int) -> tuple[int, ...]:
    return (*tensor.shape[:dim], *tensor.shape[dim + 1 :])


def _place_edited(padded: Tensor, alone: Tensor, edited: Tensor) -> Tensor | None:
    """The padded image with the edited one in its upper left. None if it is not the image processed alone."""
    corner = tuple(slice(0, size) for size in alone.shape)
    if padded.ndim != alone.ndim or not torch.equal(padded[corner], alone):
        return None
    placed = padded.clone()
    placed[corner] = edited
    return placed


def _own_positions(model: Any) -> bool:
    """Whether the architecture has its own computation of positions."""
    name = "_prepare_position_ids_for_generation"
    return getattr(type(model), name) is not getattr(transformers.GenerationMixin, name)


def _with_images(prompt: Prompt, images: Sequence[Any]) -> list[dict[str, Any]]:
    """The conversation with the images inserted."""
    rest = iter(images)
    conversation = messages(script(prompt))
    for message in conversation:
        for item in message["content"]:
            if item["type"] == "image":
                item["image"] = next(rest)
    return conversation
