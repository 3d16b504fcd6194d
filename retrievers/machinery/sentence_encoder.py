"""A loaded sentence encoder: the mean over its tokens, padding left out."""

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
    """Float32, on the GPU where there is one."""

    def __init__(self, folder: Path, longest: int) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        try:
            with hide_transformers_progress():
                model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except FAILURES as error:
            raise ModelError(f"the sentence encoder {folder} cannot be loaded: {reason(error)}") from error
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.longest = model.eval().to(self.device), longest

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """[N, D] unit rows."""
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                some = list(texts[start : start + BATCH])
                given = self.tokenizer(
                    some, padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
                ).to(self.device)
                states, real = self.model(**given).last_hidden_state, given["attention_mask"][..., None]
                rows.append(((states * real).sum(dim=1) / real.sum(dim=1)).float().cpu().numpy())
        return stack_batches(rows)


@lru_cache(maxsize=2)
def load_sentence_encoder(folder: Path, longest: int) -> SentenceEncoder:
    """The loaded encoder of a folder, shared by all that name it."""
    return SentenceEncoder(folder, longest)
