"""The test split of the easy-vqa package, which neither training nor the choice of a checkpoint uses."""

from collections.abc import Iterator
from pathlib import Path

import easy_vqa
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch.nn import functional as F

from lab.tiny.evaluate import count_right, embeddings
from lab.tiny.layout import PromptLayout, TokenTurn
from lab.tiny.runner import CheckpointRunner
from lab.tiny.vocabulary import encode

Rows = list[tuple[int, str, str]]  # image (an index), question, answer
FEW = 1500  # number of test questions with demonstrations


def _split(
    paths: dict[int, str], questions: tuple[list[str], list[str], list[int]], first: int
) -> tuple[NDArray[np.uint8], Rows]:
    keys = sorted(paths)
    place = {key: first + i for i, key in enumerate(keys)}
    images = np.stack([np.asarray(PILImage.open(paths[key]).convert("RGB")) for key in keys])
    return images, [(place[i], q, a) for q, a, i in zip(*questions, strict=True)]


def easy_figures(runner: CheckpointRunner, encoder: Path | None) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """(name, shots, (right, of)): all test questions without demonstrations, then some with random and nearest ones."""
    train, pool = _split(easy_vqa.get_train_image_paths(), easy_vqa.get_train_questions(), 0)
    test, queries = _split(easy_vqa.get_test_image_paths(), easy_vqa.get_test_questions(), len(train))
    images = np.concatenate([train, test])
    features = runner.features(images)

    def turn(row: tuple[int, str, str]) -> TokenTurn:
        return TokenTurn(row[0], encode(row[1]), encode(row[2]))

    alone = [[turn(row)] for row in queries]
    logits = runner.logits(alone, features, PromptLayout(), 256)
    yes_no = [row[2] in ("yes", "no") for row in queries]
    for name, keep in (("all", [True] * len(alone)), ("yes/no", yes_no), ("other", [not y for y in yes_no])):
        indices = [i for i, k in enumerate(keep) if k]
        yield name, 0, count_right(logits[indices], [alone[i] for i in indices], False)
    rng = np.random.default_rng(3)
    test_queries = [queries[i] for i in rng.permutation(len(queries))[:FEW]]
    unit = F.normalize(embeddings(encoder, images), dim=-1) if encoder is not None else None
    where = torch.tensor([row[0] for row in pool])
    demo_indices = [rng.permutation(len(pool))[:16] for _ in test_queries]
    for shots in (2, 4, 8, 16):
        some = [
            [*(turn(pool[i]) for i in d[:shots]), turn(row)] for d, row in zip(demo_indices, test_queries, strict=True)
        ]
        yield "random demonstrations", shots, count_right(runner.logits(some, features, PromptLayout()), some, False)
        if unit is None:
            continue
        some = []
        for row in test_queries:
            near = (unit @ unit[row[0]])[where].argsort(descending=True, stable=True)[:shots].flip(0).tolist()
            some.append([*(turn(pool[i]) for i in near), turn(row)])
        yield "nearest demonstrations", shots, count_right(runner.logits(some, features, PromptLayout()), some, False)
