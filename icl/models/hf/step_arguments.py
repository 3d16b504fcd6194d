"""What a decoding step of a model with cross-attention to images reads besides its tokens and their KV cache.

In most architectures, an image is a part of the prompt. In Mllama and Idefics, it is not: some layers attend to image
states, which every step reads again. There are two places for them, and rows of a session carry both:

    cross-attention layers of the KV cache     keys and values of the images, `CrossAttentionLayer`
    arguments of `forward`                     masks and image states, `StepArgumentsLayer`

The class says which arguments a step takes, by the two functions with which `generate` prepares its second forward
pass. An argument that they add or change belongs to the step:

    mask of a prefill [1, T, images, ...]     its last token [1, 1, images, ...] holds for every later token
    image states [images, ...]                become one row, [1, images, ...]

Both are layers of the cache, so the row operations of `icl.models.hf.layers` select and join them. A row with fewer
images than another is padded with zeros, which its mask hides.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from icl.memory import RowIndex
from icl.models.hf.shared_prefix import concat_rows

PASSED_ALREADY = frozenset(
    {"input_ids", "attention_mask", "position_ids", "cache", "use_cache", "logits_to_keep", "inputs_embeds"}
)
"""Arguments that every forward pass of a session has."""


class CrossAttentionLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with keys and values of a row's images [R, H, S, D]. It does not grow after the prefill."""

    keys: Tensor
    values: Tensor

    def select(self, rows: RowIndex) -> None:
        """Keep these rows, in this order."""
        index = rows.on(self.keys.device)
        self.keys, self.values = self.keys.index_select(0, index), self.values.index_select(0, index)

    def join(self, others: Sequence["CrossAttentionLayer"], order: Sequence[int] | None) -> "CrossAttentionLayer":
        """The rows of this layer and of others. order: index of each row in the result."""
        made = CrossAttentionLayer()
        made.lazy_initialization(self.keys, self.values)
        parts = [self, *others]
        made.keys = concat_rows(_padded([part.keys for part in parts]), order)
        made.values = concat_rows(_padded([part.values for part in parts]), order)
        return made


class StepArgumentsLayer:
    """A cache layer that no layer of the model reads: the arguments of the next forward pass of each row.

    Attributes:
        rows: Number of rows.
        tensors: Arguments [R, ...] by name.
        per_token: Names of arguments with the token as their second dimension.
    """

    is_initialized, is_compileable, is_croppable, is_sliding, supports_early_init = True, False, False, False, False
    keys, values = None, None

    def __init__(self, rows: int, tensors: Mapping[str, Tensor], per_token: frozenset[str]) -> None:
        self.rows, self.tensors, self.per_token = rows, dict(tensors), per_token

    def arguments(self, tokens: int) -> dict[str, Tensor]:
        """The arguments of a forward pass over `tokens` tokens of every row."""
        return {
            name: value.expand(-1, tokens, *value.shape[2:]) if name in self.per_token else value
            for name, value in self.tensors.items()
        }

    def select(self, rows: RowIndex) -> None:
        """Keep these rows, in this order."""
        self.rows = len(rows.rows)
        self.tensors = {name: value.index_select(0, rows.on(value.device)) for name, value in self.tensors.items()}

    def join(self, others: Sequence["StepArgumentsLayer"], order: Sequence[int] | None) -> "StepArgumentsLayer":
        """The rows of this layer and of others. A row without an argument gets zeros."""
        parts = [self, *others]
        values: dict[str, Tensor] = {}
        for name, like in {name: value for part in parts for name, value in part.tensors.items()}.items():
            own = [part.tensors.get(name, like.new_zeros(part.rows, *like.shape[1:])) for part in parts]
            values[name] = concat_rows(_padded(own), order)
        return StepArgumentsLayer(
            sum(part.rows for part in parts), values, frozenset().union(*(part.per_token for part in parts))
        )


PromptLayer = CrossAttentionLayer | StepArgumentsLayer
"""A layer with entries for the prompt of a row, not for its tokens."""


def cross_attention_layers(config: Any) -> frozenset[int]:
    """Indices of the layers that attend to images, according to the config."""
    return frozenset(getattr(config.get_text_config(decoder=True), "cross_attention_layers", None) or ())


def arguments(cache: Any, tokens: int) -> dict[str, Tensor]:
    """The step arguments of a cache's rows, for a forward pass over `tokens` tokens. Empty before the prefill."""
    layer = cache.layers[-1]
    return layer.arguments(tokens) if isinstance(layer, StepArgumentsLayer) else {}


def attach(model: Any, cache: Any, output: Any, *, tokens: Tensor, plain: Mapping[str, Tensor]) -> None:
    """Add what later steps need to the cache of one prefilled prompt.

    Args:
        model: The model.
        cache: The cache after the prefill.
        output: The output of the prefill.
        tokens: Token ids [1, T].
        plain: The processor's own inputs of the prefill.
    """
    states, crossing = cache.layers[0], [layer for layer in cache.layers if isinstance(layer, CrossAttentionLayer)]
    for layer in crossing:
        if not layer.is_initialized:  # a prompt without images
            layer.lazy_initialization(states.keys, states.values)
            layer.keys, layer.values = states.keys[:, :, :0], states.values[:, :, :0]
    values, per_token = _step_arguments(model, cache, output, tokens=tokens, plain=plain)
    if values or crossing:
        cache.layers.append(StepArgumentsLayer(len(tokens), values, per_token))


def _step_arguments(
    model: Any, cache: Any, output: Any, *, tokens: Tensor, plain: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], frozenset[str]]:
    """Arguments of the step after a prefill, and the names of those with one entry for each token."""
    kwargs = model._update_model_kwargs_for_generation(
        output, {**plain, "attention_mask": torch.ones_like(tokens), "use_cache": True}, is_encoder_decoder=False
    )
    kwargs.pop("cache", None)
    longer = torch.nn.functional.pad(tokens, (0, 1))
    inputs = model.prepare_inputs_for_generation(
        longer, next_sequence_length=1, is_first_iteration=False, cache=cache, **kwargs
    )
    changed = {
        name: value
        for name, value in inputs.items()
        if isinstance(value, Tensor) and name not in PASSED_ALREADY and value is not plain.get(name)
    }
    before, size = {name: tuple(value.shape) for name, value in plain.items()}, tokens.shape[1]
    per_token = frozenset(name for name in changed if before.get(name, ())[1:2] == (size,))
    values = {
        name: value[:, -1:] if name in per_token else value if name in plain else value[None]
        for name, value in changed.items()
    }
    return {name: value.long() if value.dtype == torch.bool else value for name, value in values.items()}, per_token


def _padded(parts: Sequence[Tensor]) -> list[Tensor]:
    """The parts with zeros on the right, so that all have the largest size in every dimension after the first."""
    sizes = [max(part.shape[dim] for part in parts) for dim in range(1, parts[0].ndim)]
    return [
        torch.nn.functional.pad(
            part, [pad for size, own in zip(sizes[::-1], part.shape[:0:-1], strict=True) for pad in (0, size - own)]
        )
        for part in parts
    ]
