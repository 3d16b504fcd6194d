"""A forward pass with gradients over prompts and their answers, on the prompt encoder of the `hf` backend.

A session cannot train: it computes without gradients and writes its cache in place. The prompts are the same token ids,
positions and image features that a session prefills, and the answer's tokens follow as a session would decode them.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments.tuning.losses import IGNORED
from icl.errors import ModelError
from icl.memory.batch_limit import BatchLimit
from icl.models.hf.image_features import EncodedImage, vision_arguments
from icl.models.hf.language_model import EncodedPrompt, LanguageModel, keep_columns
from icl.models.hf.token_ranges import row_edit

if TYPE_CHECKING:
    from icl.models.hf.model import HF
    from icl.types import Prompt

AnsweredPrompt = tuple[EncodedPrompt, int]
"""A prompt with its answer and the end token, as model inputs; and the number of tokens of the two."""

ImageFeatures = Callable[[Sequence[EncodedImage]], Sequence[EncodedImage]]


def end_token(model: "HF") -> int:
    """The token that ends an answer: the tokenizer's own, if it ends answers of this model."""
    own = model.tokenizer.eos_token_id
    return int(own if own in model.stop_tokens else min(model.stop_tokens))


def encode_images_alone(model: "HF") -> None:
    """Lets the model encode one image at a time.

    In a batch, the last bits of an image's features depend on the other images. After an interruption these are others.
    """
    encoder = model.engine.prompt_encoder.encoder
    if encoder is None:
        raise ModelError(f"model.path: {model.path} cannot be tuned, because its image cache is off (icl doctor).")
    encoder.limit = BatchLimit(1)


def encode_answered(model: "HF", prompts: "Sequence[Prompt]", answers: Sequence[str]) -> list[AnsweredPrompt]:
    """Each prompt with its answer and the end token, as model inputs; and the number of tokens of the two.

    Interventions of the prompts act in `answer_logits`.

    Raises:
        ModelError: An answer has no tokens of its own, or the model lacks a site of an intervention.
    """
    encoder, end = model.engine.prompt_encoder, end_token(model)
    bare = [model.before_answer(replace(prompt, interventions=())) for prompt in prompts]
    rows = []
    for row, (prompt, answer, read) in enumerate(zip(prompts, answers, encoder.read(bare), strict=True)):
        tokens = [*model.option_ids(bare[row], [answer])[0], end]
        edits = tuple(row_edit(encoder, acts, bare[row], read, row) for acts in prompt.interventions)
        rows.append((replace(_with_tokens(read, tokens), edits=edits), len(tokens)))
    return rows


def answer_logits(
    runner: LanguageModel, rows: Sequence[AnsweredPrompt], image_features: ImageFeatures = lambda images: images
) -> tuple[Tensor, Tensor]:
    """Logits of the answers' tokens, with gradients.

    Args:
        runner: The language model.
        rows: Encoded prompts with answers, and the number of answer tokens at the end of each.
        image_features: Gives the images of the rows with the features that the model reads.

    Returns:
        Logits [R, W, V] and targets [R, W], of the W last positions; W is the length of the longest answer.
    """
    width = max(count for _, count in rows)
    arguments = runner.padded([read for read, _ in rows])
    more = vision_arguments(image_features(arguments["images"]))
    if arguments["token_types"] is not None and runner.token_types_name is not None:
        more[runner.token_types_name] = arguments["token_types"]
    edits = arguments["edits"]
    with nullcontext() if edits is None else edits.attached(runner.sites):
        output = runner.model(
            input_ids=arguments["tokens"],
            attention_mask=arguments["mask"],
            position_ids=arguments["positions"],
            use_cache=False,
            logits_to_keep=width + 1,
            **more,
        )
    logits = output.logits if runner.has_logits_to_keep else keep_columns(output.logits, width + 1)
    targets = arguments["tokens"][:, -width:].clone()
    for row, (_, count) in enumerate(rows):
        targets[row, : width - count] = IGNORED
    return logits[:, :-1], targets


def _with_tokens(read: EncodedPrompt, tokens: Sequence[int]) -> EncodedPrompt:
    """The encoded prompt with text tokens at its end, at the positions that decoding gives them."""
    device = read.ids.device
    steps = torch.arange(1, len(tokens) + 1, device=read.positions.device)
    types = read.token_types
    return replace(
        read,
        ids=torch.cat([read.ids, torch.tensor(tokens, device=device)]),
        positions=torch.cat([read.positions, read.positions[..., -1:] + steps], -1),
        token_types=None if types is None else torch.cat([types, types.new_zeros(len(tokens))]),
        key=(*read.key, *tokens),
    )
