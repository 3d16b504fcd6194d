"""All figures of one checkpoint as plain data: counts of right answers, from which intervals follow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from lab.tiny.captions import caption_scores
from lab.tiny.index import PoolIndex
from lab.tiny.layout import PromptLayout, TokenTurn
from lab.tiny.pool import make_pool
from lab.tiny.probes import cells, support
from lab.tiny.runner import CheckpointRunner

Counts = tuple[int, int]  # right, of
Figures = dict[str, dict[str, dict[str, Counts]]]  # group -> name -> shots -> counts


def count_right(logits: Tensor, sequences: Sequence[Sequence[TokenTurn]], among: bool) -> Counts:
    """logits [N, V]; the first answer token against the vocabulary, or against the options' first tokens."""
    right = 0
    for turns, row in zip(sequences, logits, strict=True):
        options = sorted({option[0] for option in turns[-1].options}) if among else []
        best = options[int(row[options].argmax())] if options else int(row.argmax())
        right += best == turns[-1].answer[0]
    return right, len(sequences)


def embeddings(encoder: Path, images: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """Image features of the encoder checkpoint, [N, d]."""
    model, processor = AutoModel.from_pretrained(encoder).eval(), AutoProcessor.from_pretrained(encoder)
    out = []
    with torch.no_grad():
        for i in range(0, len(images), 500):
            pixels = processor.image_processor(list(images[i : i + 500]), return_tensors="pt")["pixel_values"]
            out.append(model.get_image_features(pixel_values=pixels).pooler_output)
    return torch.cat(out)


def evaluate(vlm: Path, encoder: Path | None, n: int = 200, easy: bool = False) -> Figures:
    """Figures on generated images; with `encoder` also retrieval, with `easy` also easy-vqa's test split."""
    runner, pool = CheckpointRunner(vlm), make_pool(30_001, 8000)
    index, features = PoolIndex(pool), runner.features(pool.images)
    figures: Figures = {}

    def note(group: str, name: str, shots: object, counts: Counts) -> None:
        figures.setdefault(group, {}).setdefault(name, {})[str(shots)] = counts

    for cell in cells(index):
        sequences = cell.sequences(n * cell.times)
        logits = runner.logits(sequences, features, cell.layout)
        note(cell.group, cell.name, cell.shots, count_right(logits, sequences, cell.among))
    for name, counts in caption_scores(runner, index, features, n).items():
        note("captions", name, "", counts)
    if encoder is not None:
        image_embeddings = embeddings(encoder, pool.images)
        for shots in (2, 4, 8):
            for name in ("random", "nearest"):
                sequences = support(index, image_embeddings, shots, name == "nearest", n)
                note(
                    "retrieval, 8 concepts",
                    name,
                    shots,
                    count_right(runner.logits(sequences, features, PromptLayout()), sequences, True),
                )
    if easy:
        from lab.tiny.easy import easy_figures

        for name, shots, counts in easy_figures(runner, encoder):
            note("easy-vqa test", name, shots, counts)
    return figures
