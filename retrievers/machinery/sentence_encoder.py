"""Sentence encoders: the vector of a text is the mean over its tokens, without padding."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from retrievers.machinery.checkpoints import BATCH, load_pretrained
from retrievers.machinery.vector_math import Vectors, stack_batches


class SentenceEncoder:
    """A loaded sentence encoder in float32, on the GPU if there is one."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        import torch

        model, self.tokenizer = load_pretrained(folder, "AutoTokenizer", "the sentence encoder")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.max_tokens = model.to(self.device), max_tokens

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
