"""Sentence encoders: the vector of a text is the mean over its tokens, without padding."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from icl.errors import ModelError
from icl.models.checkpoint_errors import FAILURES, reason
from icl.quiet_progress import hide_transformers_progress
from retrievers.machinery.dual_encoder import BATCH
from retrievers.machinery.vector_math import Vectors, stack_batches


class SentenceEncoder:
    """A loaded sentence encoder in float32, on the GPU if there is one."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        try:
            with hide_transformers_progress():
                model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except FAILURES as error:
            raise ModelError(f"the sentence encoder {folder} cannot be loaded: {reason(error)}") from error
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.max_tokens = model.eval().to(self.device), max_tokens

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """The vector of each text, [N, D], unit rows."""
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                batch = list(texts[start : start + BATCH])
                inputs = self.tokenizer(
                    batch, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
                ).to(self.device)
                states, mask = self.model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
                rows.append(((states * mask).sum(dim=1) / mask.sum(dim=1)).float().cpu().numpy())
        return stack_batches(rows)


@lru_cache(maxsize=2)
def load_sentence_encoder(folder: Path, max_tokens: int) -> SentenceEncoder:
    """The loaded encoder of a folder, shared by all users."""
    return SentenceEncoder(folder, max_tokens)
