"""A shipped checkpoint, loaded with the public classes and scored in left-padded batches.

Each distinct image is encoded once; prompts go through the chat template and the tokenizer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lab.tiny.layout import PromptLayout, TokenTurn
from lab.tiny.vocabulary import text_of
from prompts.pieces import INSTRUCTIONS

SLOT = "<fake_token_around_image><global-img><image><fake_token_around_image>"
Message = dict[str, Any]


def messages(turns: Sequence[TokenTurn], layout: PromptLayout) -> list[Message]:
    """The prompt of a sequence: every turn but the last with its answer."""
    return _chat(turns, layout) if layout.chat else _interleaved(turns, layout)


def _text(text: str) -> Message:
    return {"type": "text", "text": text}


def _parts(turn: TokenTurn, layout: PromptLayout, before: str, after: str) -> list[Message]:
    """A question, split at its image if the text comes first, and the text after it."""
    image = [{"type": "image"}] if turn.image >= 0 and layout.images else []
    question = before + text_of(turn.question)
    return [_text(question + "\n"), *image, _text(after)] if layout.text_first else [*image, _text(question + after)]


def _opening(layout: PromptLayout) -> list[Message]:
    instruction = INSTRUCTIONS[layout.instruction]
    return [_text(instruction + "\n")] if instruction else []


def _chat(turns: Sequence[TokenTurn], layout: PromptLayout) -> list[Message]:
    out: list[Message] = []
    for j, turn in enumerate(turns):
        opening = _opening(layout) if j == 0 else []
        out.append({"role": "user", "content": opening + _parts(turn, layout, "", "")})
        if j < len(turns) - 1:
            out.append({"role": "assistant", "content": [_text(text_of(turn.answer))]})
    return out


def _interleaved(turns: Sequence[TokenTurn], layout: PromptLayout) -> list[Message]:
    content = _opening(layout)
    for j, turn in enumerate(turns):
        ending = "\nAnswer:" + (f" {text_of(turn.answer)}\n\n" if j < len(turns) - 1 else "")
        content += _parts(turn, layout, "Question: ", ending)
    return [{"role": "user", "content": content}]


class CheckpointRunner:
    """model and processor of a checkpoint folder."""

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(path)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype).eval()

    @torch.no_grad()
    def features(self, images: NDArray[np.uint8], size: int = 250) -> Tensor:
        """uint8 [N, 64, 64, 3] -> connector tokens [N, width]."""
        out = []
        for i in range(0, len(images), size):
            pil_images = [[PILImage.fromarray(p)] for p in images[i : i + size]]
            pixels = self.processor.image_processor(pil_images, return_tensors="pt")["pixel_values"].to(
                self.model.dtype
            )
            out.append(torch.cat(list(self.model.get_image_features(pixels).pooler_output)))
        return torch.cat(out)

    def prompt(self, turns: Sequence[TokenTurn], layout: PromptLayout) -> str:
        text: str = self.processor.apply_chat_template(messages(turns, layout), add_generation_prompt=True)
        return text

    def _inputs(
        self, sequences: Sequence[Sequence[TokenTurn]], features: Tensor, layout: PromptLayout
    ) -> dict[str, Any]:
        texts = [self.prompt(turns, layout).replace("<image>", SLOT) for turns in sequences]
        encoding = self.processor.tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        inputs = {"input_ids": encoding["input_ids"], "attention_mask": encoding["attention_mask"]}
        image_indices = (
            [turn.image for turns in sequences for turn in turns if turn.image >= 0] if layout.images else []
        )
        if image_indices:
            inputs["mm_encoder_outputs"] = {
                "image": BaseModelOutputWithPooling(pooler_output=list(features[image_indices][:, None]))
            }
        return inputs

    @torch.no_grad()
    def logits(
        self, sequences: Sequence[Sequence[TokenTurn]], features: Tensor, layout: PromptLayout, size: int = 64
    ) -> Tensor:
        """Scores of the first answer token, float32 [N, V]. Batches have prompts of similar length."""
        order = sorted(
            range(len(sequences)), key=lambda i: sum(len(t.question) + len(t.answer) + 6 for t in sequences[i])
        )
        out: Tensor | None = None
        for i in range(0, len(order), size):
            part = order[i : i + size]
            inputs = self._inputs([sequences[j] for j in part], features, layout)
            batch_logits = self.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float()
            out = batch_logits.new_zeros(len(sequences), batch_logits.shape[-1]) if out is None else out
            out[part] = batch_logits
        if out is None:
            raise ValueError("no sequences to score")
        return out

    @torch.no_grad()
    def generate(
        self,
        sequences: Sequence[Sequence[TokenTurn]],
        features: Tensor,
        layout: PromptLayout,
        tokens: int,
        size: int = 64,
    ) -> list[str]:
        """Greedy texts."""
        out: list[str] = []
        for i in range(0, len(sequences), size):
            inputs = self._inputs(sequences[i : i + size], features, layout)
            sequences_ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
            out += self.processor.batch_decode(
                sequences_ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
        return out
