"""The trained parts: a projector from features to input embeddings, and LoRA on the attention of the language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.tuning.objectives import IGNORED, distillation_loss
from icl.models.small.assemble import PLACES, WIDTH
from lab.small.episodes import TrainingTurn

RANK, ALPHA = 16, 32
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class TrainingBatch:
    """Padded sequences.

    Attributes:
        embeddings: [sequences, T, d], the input embeddings.
        labels: [sequences, T], the token at each place; IGNORED where no loss stands.
    """

    embeddings: Tensor
    labels: Tensor


class SmallModel(nn.Module):
    """The language model with an adapter, behind a projector of image features.

    Args:
        language_model: LlamaForCausalLM; its own weights are frozen.
        tokenizer: Its tokenizer.
        scale: Standard deviation of the features.
        lora: Whether the language model has an adapter. Without it the projector alone is trained, as in MAPL (Manas et
            al., EACL 2023) and Frozen (Tsimpoukelli et al., NeurIPS 2021).
    """

    def __init__(self, language_model: Any, tokenizer: Any, scale: float, lora: bool = True) -> None:
        super().__init__()
        language_model.requires_grad_(False)
        language_model.to(torch.bfloat16)
        self.table: Tensor = language_model.model.embed_tokens.weight
        self.norm = float(self.table.float().std())
        self.scale, self.tokenizer = scale, tokenizer
        width = self.table.shape[1]
        self.projector = nn.Sequential(nn.Linear(WIDTH, width), nn.GELU(), nn.Linear(width, width))
        self.language_model = _with_adapter(language_model) if lora else language_model

    @property
    def base(self) -> Any:
        """The LlamaForCausalLM, with the adapter's layers if there is one."""
        has_adapter = hasattr(self.language_model, "peft_config")
        return self.language_model.get_base_model() if has_adapter else self.language_model

    def project(self, features: Tensor) -> Tensor:
        """[images, PLACES, WIDTH] -> input embeddings [images, PLACES, d]."""
        projected: Tensor = self.projector(features.float() / self.scale)
        return projected * self.norm

    def batch(
        self, sequences: Sequence[Sequence[TrainingTurn]], features: Tensor, channels: Tensor | None = None
    ) -> TrainingBatch:
        """The sequences in the form of the chat template (`icl.models.small.assemble.TEMPLATE`).

        Args:
            sequences: Turns of each sequence.
            features: Features of all drawings, [drawings, PLACES, WIDTH].
            channels: [WIDTH]; each feature is multiplied by its channel's number (dropout of whole channels).
        """
        chosen = features[[turn.image for turns in sequences for turn in turns]]
        images = iter(self.project(chosen if channels is None else chosen * channels).bfloat16())
        embeddings, labels = [], []
        for turns in sequences:
            parts: list[Tensor] = []
            tokens: list[int] = []
            for turn in turns:
                question = self.token_ids(f"{turn.question}\nAnswer:")
                answer = self.token_ids(f" {turn.answer}\n")
                parts += [next(images), self.table[question + answer]]
                tokens += [IGNORED] * (PLACES + len(question))
                tokens += answer if turn.counts else [IGNORED] * len(answer)
            embeddings.append(torch.cat(parts))
            labels.append(torch.tensor(tokens))
        longest = max(map(len, embeddings))
        return TrainingBatch(
            torch.stack([functional.pad(one, (0, 0, 0, longest - len(one))) for one in embeddings]),
            torch.stack([functional.pad(one, (0, longest - len(one)), value=IGNORED) for one in labels]),
        )

    def token_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Mean cross-entropy of the answers' tokens, in nats."""
        logits, targets = self.answer_logits(batch)
        return functional.cross_entropy(logits.float(), targets)

    def answer_logits(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """(logits, tokens) at the places of answers: [places, vocabulary] and [places]."""
        base = self.base
        states = base.model(inputs_embeds=batch.embeddings).last_hidden_state[:, :-1]
        places = batch.labels[:, 1:] != IGNORED
        # A flat contiguous matrix: from a slice, the bfloat16 product copies the weight for each row.
        return base.lm_head(states[places].contiguous()), batch.labels[:, 1:][places]

    def drift(self, token_ids: Tensor) -> Tensor:
        """KL divergence from the language model without adapter, mean over the tokens of plain text, in nats."""
        with torch.no_grad(), self.language_model.disable_adapter():
            before = self.language_model(input_ids=token_ids).logits
        after = self.language_model(input_ids=token_ids).logits
        return distillation_loss(after, before, token_ids) / token_ids.numel()


def _with_adapter(language_model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), lora_dropout=0.0)
    return get_peft_model(language_model, config)
