"""Strategies over plain forward passes of transformers: no cache, no batch, and the processor on the whole prompt.

It runs with every transformers that vLLM pins, so that an engine is compared with something that is not the toolkit's.
"""

from collections.abc import Sequence, Set
from typing import Any

import torch
from torch import Tensor

from decoding.arms.arm import Arm
from decoding.base import InitialStepState
from decoding.engine.decoding_step import combine_branches
from icl.errors import ModelError
from icl.types import Generation, Prompt
from tests.random_models.conversations import conversation


class PlainReference:
    """A checkpoint in float32 on a device."""

    def __init__(self, path: str, device: str) -> None:
        import transformers

        self.device = device
        self.processor = transformers.AutoProcessor.from_pretrained(path)
        model = transformers.AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
        self.model = model.eval().to(device)

    @torch.inference_mode()
    def compare(
        self, prompt: Prompt, arm: Arm, answer: Generation, stops: Set[int], gap: float
    ) -> tuple[int, int, int]:
        """(steps, decided steps, decided steps at which the answer has the arm's own token).

        Args:
            prompt: The prompt.
            arm: A greedy arm.
            answer: The answer of an engine.
            stops: Tokens that end an answer.
            gap: A step is decided if the two best log-probabilities are further apart.

        Raises:
            ModelError: The strategy fails on these logits.
        """
        rows = [self.logits(branch, answer.tokens) for branch in arm.strategy.branches(prompt)]
        expected = [{token} for token in answer.tokens] + ([set(stops)] if answer.finish == "stop" else [])
        decided = equal = 0
        for step, tokens in enumerate(expected):
            branches = torch.stack([row[step] for row in rows])[:, None]
            scores, faults = combine_branches(arm.strategy, branches, step, [InitialStepState(prompt.key)])
            if faults:
                raise ModelError(faults[0])
            best = scores[0].log_softmax(-1).topk(2)
            if float(best.values[0] - best.values[1]) > gap:
                decided += 1
                equal += int(best.indices[0]) in tokens
        return len(expected), decided, equal

    def logits(self, prompt: Prompt, tokens: Sequence[int]) -> Tensor:
        """Logits after the prompt and after each of the tokens, [len(tokens) + 1, V]."""
        inputs = self._inputs(prompt)
        new = torch.tensor([list(tokens)], dtype=torch.long)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], new], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        on_device = {name: value.to(self.device) for name, value in inputs.items()}
        out: Tensor = self.model(**on_device, use_cache=False).logits[0, -len(tokens) - 1 :].float()
        return out

    def _inputs(self, prompt: Prompt) -> dict[str, Any]:
        messages = conversation(prompt, with_pixels=False)
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        images = prompt.images
        inputs = dict(self.processor(text=[text], images=[image.open() for image in images], return_tensors="pt"))
        edited = []
        for place, image in enumerate(images):
            values = inputs["pixel_values"][:, place : place + 1]
            for edit in image.pixel_value_edits:
                values = edit.apply_to_pixel_values(values)
            edited.append(values)
        inputs["pixel_values"] = torch.cat(edited, 1)
        return inputs
