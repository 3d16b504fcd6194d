"""Sentence encoders: the vector of a text is the mean over its tokens, without padding."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from retrievers.machinery.checkpoints import BATCH, load_pretrained
from retrievers.machinery.embedder_device import EmbedderPlacement
from retrievers.machinery.vector_math import Vectors, stack_batches


class SentenceEncoder:
    """A loaded sentence encoder."""

    def __init__(self, folder: Path, max_tokens: int, placement: EmbedderPlacement) -> None:
        self.model, self.tokenizer = load_pretrained(folder, "AutoTokenizer", "the sentence encoder", placement)
        self.max_tokens = max_tokens

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """The vector of each text, [N, D], unit rows."""
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                batch = list(texts[start : start + BATCH])
                inputs = self.tokenizer(
                    batch, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
                ).to(self.model.device)
                states, mask = self.model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
                rows.append(((states * mask).sum(dim=1) / mask.sum(dim=1)).float().cpu().numpy())
        return stack_batches(rows)

    def token_states(self, texts: Sequence[str], length: int) -> Vectors:
        """The states of the first `length` tokens, [N, length, D]. Special tokens and padding are zero."""
        import torch

        rows = [np.zeros((0, length, self.model.config.hidden_size), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                inputs = self.tokenizer(
                    list(texts[start : start + BATCH]),
                    padding="max_length",
                    truncation=True,
                    max_length=length + 2,  # one special token at each end
                    return_special_tokens_mask=True,
                    return_tensors="pt",
                ).to(self.model.device)
                special = inputs.pop("special_tokens_mask")[..., None].bool()
                states = self.model(**inputs).last_hidden_state.float().masked_fill(special, 0.0)
                rows.append(states[:, 1 : length + 1].cpu().numpy())
        return np.concatenate(rows)


@lru_cache(maxsize=2)
def load_sentence_encoder(folder: Path, max_tokens: int, placement: EmbedderPlacement) -> SentenceEncoder:
    """The loaded encoder of a folder, shared by all users."""
    return SentenceEncoder(folder, max_tokens, placement)
