"""The weights, and the only place that calls the language model."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from icl import BatchLimit, ModelError, copied_to_device
from icl.models.hf import DEFAULT_BUDGETS, DecoderSites, HFSession, ModelCounters, StepGraphs, layers, step_arguments
from icl.models.hf.batch_halving import run_within_limit
from icl.models.hf.device_placement import execution_device
from icl.models.hf.image_features import EncodedImage, vision_arguments
from icl.models.hf.layers import mask_of_rows, pad_chunks
from icl.models.hf.row_edits import ForwardEdits, RowEdit

TOKEN_TYPE_NAMES = ("mm_token_type_ids", "token_type_ids")
"""Argument names under which architectures take token types, which mark image tokens."""


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """One prompt as model inputs.

    Attributes:
        ids: Token ids [T].
        positions: Position ids [..., T].
        token_types: Token types [T] or None.
        images: Encoded images in order.
        key: Token ids in which the slots of each distinct image have their own negative number. Equal keys mean equal
            prompts.
        starts: First slot of each image.
        ends: Slot after the last one of each image.
        plain: The processor's own inputs, if the image cache is off.
        edits: Interventions and observers. `key` differs from their first token on.
    """

    ids: Tensor
    positions: Tensor
    token_types: Tensor | None
    images: tuple[EncodedImage, ...]
    key: tuple[int, ...]
    starts: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    plain: dict[str, Tensor] | None = None
    edits: tuple[RowEdit, ...] = ()

    def __len__(self) -> int:
        return len(self.key)


class LanguageModel:
    """The weights of a checkpoint with its forward pass. It knows neither prompts nor strategies.

    Attributes:
        prefill_limit: The largest forward pass over whole prompts, in padded tokens.
        option_limit: The largest forward pass that scores options, in tokens of the repeated rows.
        max_scores: The most logits of such a pass.
        read_image: A pass of the vision tower over a small image. None for a text model, or without the image cache.
        graphs: Graphs of decoding steps. None: steps are plain forward passes.
    """

    def __init__(self, model: Any, processor: Any, counters: ModelCounters) -> None:
        self.model, self.processor, self.counters = model, processor, counters
        self.prefill_limit = BatchLimit(DEFAULT_BUDGETS.prefill_tokens)
        self.option_limit, self.max_scores = BatchLimit(DEFAULT_BUDGETS.option_tokens), DEFAULT_BUDGETS.option_scores
        names = inspect.signature(model.forward).parameters
        self.token_types_name = next((name for name in TOKEN_TYPE_NAMES if name in names), None)
        if not getattr(processor, "return_mm_token_type_ids", False) and not needs_token_types(model):
            self.token_types_name = None
        # The processor's own token types are then passed to a prefill, as with PaliGemma.
        self.own_token_types = {"token_type_ids"} & set(names) if self.token_types_name is None else set()
        self.has_logits_to_keep = "logits_to_keep" in names
        if (head := model.get_output_embeddings()) is not None:
            head.register_forward_pre_hook(contiguous_input)
        self.read_image: Callable[[], object] | None = None
        self.graphs: StepGraphs | None = None

    @property
    def device(self) -> torch.device:
        """The device of token ids, which is the device of the embeddings."""
        return execution_device(self.model.get_input_embeddings())

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        cache: Any,
        *,
        keep: Tensor | int = 1,
        token_types: Tensor | None = None,
        images: Sequence[EncodedImage] = (),
        plain: dict[str, Tensor] | None = None,
        early_exits: bool = False,
        edits: ForwardEdits | None = None,
        gradients: bool = False,
    ) -> Tensor:
        """Logits of a chunk on top of a cache, which grows.

        Args:
            tokens: [R, W].
            mask: Attention mask [R, T + W] over cached and new slots, or [R, 1, 1, T + 1] as the attention reads it.
                None: no slot is padding.
            positions: [..., R, W].
            cache: The KV cache of T slots.
            keep: Columns to compute logits for: the last n (0: all), or a tensor of indices.
            token_types: [R, W] or None.
            images: Encoded images of the chunk in order.
            plain: The processor's own inputs.
            early_exits: Whether to add logits of early layers (`icl.models.hf.language_model`).
            edits: Interventions on tokens of the chunk.
            gradients: Whether to keep a graph, for tensors of interventions.

        Returns:
            [R, kept columns, V], or [R, kept columns, 1 + early layers, V] with the last layer first.
        """
        output = self.call_model(
            tokens,
            mask,
            positions,
            cache,
            keep=keep,
            token_types=token_types,
            images=images,
            plain=plain,
            states=early_exits,
            edits=edits,
            gradients=gradients,
        )
        logits: Tensor = output.logits
        # A class may pass `logits_to_keep` on to its decoder without naming it (NemotronHOmni).
        if not self.has_logits_to_keep and logits.shape[1] == tokens.shape[1]:
            logits = keep_columns(logits, keep)
        if not early_exits:
            return logits
        return self.early_exit_head.with_early_logits(
            logits, [keep_columns(states, keep) for states in output.hidden_states]
        )

    @cached_property
    def is_from_transformers(self) -> bool:
        """Whether the model builds its attention mask by transformers, not by code of the checkpoint."""
        return type(self.model).__module__.startswith("transformers.")

    @cached_property
    def attention(self) -> str:
        """Name of the attention of the language model, such as `sdpa`."""
        return str(self.model.config.get_text_config()._attn_implementation)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Type of the embeddings."""
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    @cached_property
    def drops_columns(self) -> bool:
        """Whether upper layers, which share keys and values, read the last columns alone if a number of them is kept.

        Then edits of other columns would be lost, so columns are named in a tensor.
        """
        return bool(getattr(self.model.config.get_text_config(), "num_kv_shared_layers", 0))

    @cached_property
    def shareable_length(self) -> int:
        """Slots up to which no layer drops entries (`layers.shareable_length`)."""
        return layers.shareable_length(layers.new_cache(self.model.config).layers)

    @cached_property
    def sites(self) -> DecoderSites:
        """Places of hidden states. Raises ModelError if the decoder's layers cannot be found."""
        return DecoderSites(self.model, self._read_text, self.read_image)

    def _read_text(self) -> None:
        """A forward pass over a few tokens of text, which the counters do not count."""
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        ids = tokenizer("a b c d e", add_special_tokens=False)["input_ids"] or [0]
        tokens, before = torch.tensor([list(ids)], device=self.device), self.counters.forwards
        types = torch.zeros_like(tokens)
        inputs = {"attention_mask": torch.ones_like(tokens)}
        inputs |= {} if self.token_types_name is None else {self.token_types_name: types}
        positions = self.model._prepare_position_ids_for_generation(tokens, inputs)
        self.call_model(tokens, None, positions, layers.new_cache(self.model.config), token_types=types)
        self.counters.forwards = before

    def exit_logits(self, states: Tensor) -> Tensor:
        """The output layer on the final norm of states of any layer: [n, d] -> [n, V] float32.

        A cap or scale of the logits is left out. Raises ModelError as `DecoderSites.final_norm`.
        """
        head = self.model.get_output_embeddings()
        with torch.no_grad():
            logits: Tensor = head(self.sites.final_norm(states.to(head.weight.dtype)).to(head.weight.device))
        return logits.float()

    @cached_property
    def early_exit_head(self) -> "EarlyExitHead":
        return EarlyExitHead(self.model)

    def call_model(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        cache: Any,
        *,
        keep: Tensor | int = 1,
        token_types: Tensor | None = None,
        images: Sequence[EncodedImage] = (),
        plain: dict[str, Tensor] | None = None,
        states: bool = False,
        edits: ForwardEdits | None = None,
        gradients: bool = False,
    ) -> Any:
        """The model's output for a chunk. states: whether it includes the hidden states of every layer."""
        more: dict[str, Any] = vision_arguments(images) | (plain or {})
        more |= step_arguments.arguments(cache, tokens.shape[1])
        if token_types is not None and self.token_types_name is not None:
            more[self.token_types_name] = token_types
        if states:
            more["output_hidden_states"] = True
        if isinstance(keep, int) and self.drops_columns:
            keep = torch.arange(tokens.shape[1] - keep if keep else 0, tokens.shape[1], device=tokens.device)
        self.counters.forwards += 1
        with torch.set_grad_enabled(gradients), nullcontext() if edits is None else edits.attached(self.sites):
            output = self.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                cache=cache,
                use_cache=True,
                logits_to_keep=keep,
                **more,
            )
        if plain is not None:
            step_arguments.attach(self.model, cache, output, tokens=tokens, plain=plain)
        return output

    def padded(self, prompts: Sequence[EncodedPrompt]) -> dict[str, Any]:
        """The arguments of a forward pass over left-padded prompts, with a new cache."""
        width = max(map(len, prompts))
        mask = mask_of_rows([len(prompt) for prompt in prompts], width, width, self.device)
        token_types = [prompt.token_types for prompt in prompts if prompt.token_types is not None]
        return {
            "tokens": stack_left_padded([prompt.ids for prompt in prompts], width),
            "mask": mask[:, :width].long(),
            "positions": stack_left_padded([prompt.positions for prompt in prompts], width),
            "cache": layers.new_cache(self.model.config),
            "token_types": stack_left_padded(token_types, width) if token_types else None,
            "images": [image for prompt in prompts for image in prompt.images],
            "plain": prompts[0].plain,
            "edits": ForwardEdits.place(
                [prompt.edits for prompt in prompts],
                [0] * len(prompts),
                [len(prompt) for prompt in prompts],
                [width - len(prompt) for prompt in prompts],
            ),
        }

    def prefill(self, prompts: Sequence[EncodedPrompt], early_exits: bool = False) -> HFSession:
        """A session of prompts, from one forward pass with padding on the left."""
        arguments = self.padded(prompts)
        cache, mask, positions = arguments["cache"], arguments["mask"], arguments["positions"]
        logits = self.forward(**arguments, early_exits=early_exits)
        layers.check(cache.layers)
        ends, keys = positions[..., -1:].clone(), [prompt.key for prompt in prompts]
        lengths = [len(prompt) for prompt in prompts]
        rows = HFSession(self, cache, lengths, ends, logits[:, -1].float(), width=mask.shape[1], keys=keys)
        rows.edits = [prompt.edits for prompt in prompts]
        if rows.slides:
            layers.crop_windows(cache.layers)
        self.count(sum(lengths), mask.numel())
        return rows

    def count(self, tokens: int, padded: int) -> None:
        self.counters.prefills += 1
        self.counters.prefill_tokens += tokens
        self.counters.padded_tokens += padded


def contiguous_input(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """A hook that copies 16-bit states which are a slice, as the last columns of a prefill are.

    For a slice [R, 1, d], torch multiplies row by row on a CPU and copies the head's weight for each: for 16 rows and a
    vocabulary of 49,152, 1.4 s instead of 5 ms. The products are equal to the bit.
    """
    if inputs and inputs[0].itemsize == 2:
        return (inputs[0].contiguous(), *inputs[1:])
    return None


def needs_token_types(model: Any) -> bool:
    """Whether the positions of the architecture depend on token types."""
    positions = getattr(model.base_model, "get_rope_index", None)
    return positions is not None and "mm_token_type_ids" in inspect.signature(positions).parameters


def keep_columns(logits: Tensor, columns: Tensor | int) -> Tensor:
    """`logits_to_keep` for a class that returns all logits: the last columns (0: all), or the columns in a tensor."""
    return logits[:, columns] if isinstance(columns, Tensor) else logits[:, -columns:]


def stack_left_padded(parts: Sequence[Tensor], width: int) -> Tensor:
    """Stack tensors [..., T] to [..., R, W], with zeros on the left."""
    return torch.stack([torch.nn.functional.pad(part, (width - part.shape[-1], 0)) for part in parts], -2)


TOLERANCE = 1e-2
"""Maximum difference, as a share of the standard deviation of the logits."""


class EarlyExitHead:
    """The output layer of a model, applied to its early layers.

    The early layers are the even ones below the last, where 0 is the embeddings. Layer 0 is left out if the output
    layer shares its matrix with the embeddings, because it would then predict the token that was read. As in the
    released code of DoLa, hidden states are used without the final norm. A check makes sure once that the output layer
    is a plain matrix: applied to the last hidden state, it must give the logits.
    """

    def __init__(self, model: Any) -> None:
        self.head = model.get_output_embeddings()
        self.name = type(model).__name__
        if self.head is None:
            raise ModelError(f"{self.name} has no output layer, which early exits need.")
        self.tied = self.head.weight is model.get_input_embeddings().weight
        self.checked = False

    def with_early_logits(self, logits: Tensor, states: Sequence[Tensor]) -> Tensor:
        """Logits of the last and the early layers: [R, T, 1 + early layers, V].

        Args:
            logits: [R, T, V] of the last layer.
            states: [R, T, D] after each layer, the embeddings first.

        Raises:
            ModelError: The model has no early layers, or its output layer is not a plain matrix.
        """
        if not self.checked:
            self._check(logits, states[-1])
        early = [self.head(states[layer]) for layer in range(2 if self.tied else 0, len(states) - 1, 2)]
        if not early:
            raise ModelError(f"{self.name} has {len(states) - 1} layers, too few for early exits.")
        return torch.stack([logits, *(one.to(logits.device) for one in early)], -2)

    def _check(self, logits: Tensor, last: Tensor) -> None:
        gap = float((self.head(last).to(logits.device) - logits).abs().max() / logits.float().std().clamp(min=1e-6))
        if gap > TOLERANCE * (1 if logits.dtype == torch.float32 else 10):
            raise ModelError(
                f"the output layer of {self.name} does more than its matrix (a cap, a scale), so early-exit "
                "logits cannot be computed. Use another strategy."
            )
        self.checked = True


Chunk = tuple[int, tuple[int, ...]]
"""A row, and the tokens to append to it."""


def option_logprobs(
    rows: HFSession, suffixes: Sequence[Sequence[Sequence[int]]], early_exits: bool = False
) -> list[list[Tensor]]:
    """Log-probabilities as in `Session.suffix_logprobs`: for each row and suffix [len(suffix), V] float32.

    With `early_exits`, [len(suffix), 1 + early layers, V]; the session must have been opened with them.

    A row's own logits score the first token, and an option's last token is only a target. So an option of n tokens
    costs n - 1 tokens, single-token options cost nothing, and options with a common beginning share it. Each row is
    repeated once for each distinct beginning. The repeated cache is discarded, so padding behind a chunk can stay: the
    causal mask hides it. Batches are limited by the tokens of the repeated cache and by the number of logits, because
    vocabularies are large.
    """
    first = (rows.layer_logits if early_exits else rows.logits).log_softmax(-1)
    chunks = dict.fromkeys(
        (row, tuple(suffix[:-1])) for row, own in enumerate(suffixes) for suffix in own if len(suffix) > 1
    )
    width, runner = first.numel() // len(first), rows.runner
    scored = run_within_limit(
        lambda batch: _scored(rows, batch, early_exits),
        sorted(chunks, key=lambda chunk: len(chunk[1])),
        runner.option_limit,
        "options",
        size=lambda batch: len(batch) * rows.width,
        may_join=lambda batch: len(batch) * len(batch[-1][1]) * width <= runner.max_scores,
    )
    rest: dict[Chunk, Tensor] = dict(scored)
    return [
        [
            torch.cat([first[row : row + 1], rest[row, tuple(suffix[:-1])]])
            if len(suffix) > 1
            else first[row : row + 1]
            for suffix in own
        ]
        for row, own in enumerate(suffixes)
    ]


def _scored(rows: HFSession, chunks: Sequence[Chunk], early_exits: bool) -> list[tuple[Chunk, Tensor]]:
    each = rows.take(torch.tensor([row for row, _ in chunks]))
    tokens, lengths = pad_chunks([chunk for _, chunk in chunks], rows.position.device)
    rows.runner.counters.suffix_tokens += sum(lengths)
    if each.is_stepwise:
        steps_logits = []
        for column in tokens.unbind(1):
            each.advance(column)
            steps_logits.append(each.layer_logits if early_exits else each.logits)
        scores = torch.stack(steps_logits, 1).log_softmax(-1)
        return [(chunk, scores[i, : len(chunk[1])]) for i, chunk in enumerate(chunks)]
    steps = torch.arange(tokens.shape[1], device=tokens.device)
    ends = copied_to_device([[length] for length in lengths], torch.long, tokens.device)
    mask = torch.cat([each.mask, (steps < ends).long()], 1)
    edits = ForwardEdits.place(each.edits, each.lengths, lengths)
    logits = rows.runner.forward(
        tokens, mask, each.position + 1 + steps, each.cache, keep=0, early_exits=early_exits, edits=edits
    )
    scores = logits.float().log_softmax(-1)
    return [(chunk, scores[i, : len(chunk[1])]) for i, chunk in enumerate(chunks)]
