"""Strategies over plain forward passes of transformers: no cache, no batch, the processor on the whole prompt.

A step is *decided* if no small change of the branches' logits changes the token. There an engine must choose the same
token. Elsewhere two correct engines may differ, and their texts differ from then on.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decoding.arms.arm import Arm
from decoding.base import InitialStepState
from decoding.engine.decoding_step import combine_branches
from icl.types import Prompt
from tests.random_models.conversations import conversation

TOLERANCE = 1e-4
"""Tolerance of a logit in float32. The standard deviation of the logits is about 1."""

SHAKES = 8


@dataclass(frozen=True)
class Compared:
    """Number of steps, of decided steps, and of decided steps with the right token."""

    steps: int
    decided: int
    equal: int


class Reference:
    """Strategies over the model of a folder. tolerance: largest difference of logits under which a step is decided."""

    def __init__(self, folder: Path, tolerance: float = TOLERANCE) -> None:
        import transformers

        self.tolerance, self._read = tolerance, dict[int, tuple[Prompt, dict[str, Any]]]()
        self.processor = transformers.AutoProcessor.from_pretrained(folder)
        self.model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def logits(self, prompt: Prompt, tokens: Sequence[int]) -> Tensor:
        """Logits after the prompt and after each of the tokens, [len(tokens) + 1, V]."""
        if id(prompt) not in self._read:  # by object: prompts with equal digests are what an engine may mix up
            self._read[id(prompt)] = prompt, self._inputs(prompt)
        inputs = dict(self._read[id(prompt)][1])
        new = torch.tensor([list(tokens)], dtype=torch.long)
        for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if key in inputs:
                fill = {"input_ids": new, "attention_mask": torch.ones_like(new)}.get(key, torch.zeros_like(new))
                inputs[key] = torch.cat([inputs[key], fill.to(inputs[key].dtype)], 1)
        out: Tensor = self.model(**inputs, use_cache=False).logits[0, -len(tokens) - 1 :].float()
        return out

    def _inputs(self, prompt: Prompt) -> dict[str, Any]:
        messages = conversation(prompt, with_pixels=False)
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True) + prompt.answer_start
        images = prompt.images
        pil_images = [image.open() for image in images] or None
        inputs = dict(self.processor(text=[text], images=pil_images, return_tensors="pt"))
        if any(image.pixel_value_edits for image in images):
            own = []
            for image in images:
                values = self.processor.image_processor(image.open(), return_tensors="pt")["pixel_values"]
                for edit in image.pixel_value_edits:
                    values = edit.apply_to_pixel_values(values)
                own.append(values)
            inputs["pixel_values"] = torch.cat(own)
        return inputs

    def read(self, prompt: Prompt, arm: Arm, tokens: Sequence[int], note: object = None) -> list[Tensor]:
        """The logits of each branch."""
        return [self.logits(branch, tokens) for branch in arm.strategy.branches(prompt, note)]

    def compare(
        self,
        prompt: Prompt,
        arm: Arm,
        tokens: Sequence[int],
        stops: Set[int] = frozenset(),
        note: object = None,
        *,
        read: Sequence[Tensor] = (),
    ) -> Compared:
        """Compares along the tokens of an engine.

        Args:
            prompt: The prompt.
            arm: How it was decoded.
            tokens: The answer.
            stops: Tokens that may follow them, if the answer was stopped.
            note: Of the strategy's preparation.
            read: What `read` returns, if that has been computed.
        """
        read = read or self.read(prompt, arm, tokens, note)
        states = [InitialStepState(prompt.key) for _ in range(SHAKES + 1)]
        expected: list[Set[int]] = [{token} for token in tokens] + ([stops] if stops else [])
        decided = equal = 0
        noise = torch.Generator().manual_seed(0)
        for step, right in enumerate(expected):
            own = torch.stack([row[step] for row in read])[:, None]
            shaken = own + self.tolerance * (2 * torch.rand(len(own), SHAKES, own.shape[-1], generator=noise) - 1)
            combined, faults = combine_branches(arm.strategy, torch.cat([own, shaken], 1), step, states)
            assert not faults
            chosen = arm.sampler.choose(combined, [prompt.key] * (SHAKES + 1), step).tolist()
            if len(set(chosen)) == 1:
                decided += 1
                equal += chosen[0] in right
        return Compared(len(expected), decided, equal)

    def distance(
        self,
        prompt: Prompt,
        arm: Arm,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        *,
        read: Sequence[Tensor] = (),
    ) -> float:
        """The largest difference between the log-probabilities of an engine's tokens and those of the reference.

        A wrong weight of a branch may leave all tokens unchanged, but it changes log-probabilities.
        """
        read = read or self.read(prompt, arm, tokens)
        states, worst = [InitialStepState(prompt.key)], 0.0
        for step, (token, logprob) in enumerate(zip(tokens, logprobs, strict=False)):
            combined, _ = combine_branches(
                arm.strategy, torch.stack([row[step] for row in read])[:, None], step, states
            )
            worst = max(worst, abs(float(combined.log_softmax(-1)[0, token]) - logprob))
        return worst
