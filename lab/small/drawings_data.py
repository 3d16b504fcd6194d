"""The drawings of training and test, and their EfficientNet-Lite0 features, which are computed once.

Nothing learned from GPL images is shipped: stamps of tuxpaint are in no training set. A drawing whose title or keywords
contain a held-out noun is in no training set either.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional

from icl.models.small.assemble import SIDE
from icl.models.small.efficientnet import load_network, pixels_of
from icl.tasks.drawings.table import SOURCES, DrawingRecord, drawings_folder, is_held_out, read_drawings
from lab.tiny.state import load, save

TRAINING_STYLES = ("openclipart", "noto", "twemoji", "fluent")
BATCH = 32
NEIGHBORS = 8


@dataclass(frozen=True)
class DrawingSet:
    """Drawings with their features.

    Attributes:
        features: float16 of [drawings + 1, PLACES, WIDTH]. The last row is a white image.
        train: Indices of drawings for training, by noun.
        similar: Drawing for training, with a noun or without -> its NEIGHBORS most similar ones by their features.
        held_out: Indices of drawings whose noun no training drawing has, by noun; all styles.
        test: Indices of drawings of training nouns that no training saw, by noun.
    """

    drawings: tuple[DrawingRecord, ...]
    features: Tensor
    train: dict[str, list[int]]
    similar: dict[int, list[int]]
    held_out: dict[str, list[int]]
    test: dict[str, list[int]]

    @property
    def blank(self) -> int:
        """The index of the white image."""
        return len(self.drawings)

    @classmethod
    def load(cls, cache: Path) -> "DrawingSet":
        """The installed drawings. Features are read from `cache`, or computed and stored there."""
        drawings = read_drawings(drawings_folder())
        features = _features(drawings, cache)
        train, held_out, test = split(drawings)
        return cls(drawings, features, train, most_similar(features, for_training(drawings, test)), held_out, test)


def split(
    drawings: tuple[DrawingRecord, ...],
) -> tuple[dict[str, list[int]], dict[str, list[int]], dict[str, list[int]]]:
    """(train, held out, test): noun -> indices. One in five drawings of a noun is for test, if it has five or more."""
    train: dict[str, list[int]] = defaultdict(list)
    held_out: dict[str, list[int]] = defaultdict(list)
    shows_held_out = _pattern_of_held_out(drawings)
    for i, one in enumerate(drawings):
        if one.noun and is_held_out(one.noun):
            held_out[one.noun].append(i)
        elif one.noun and _may_train(one, shows_held_out):
            train[one.noun].append(i)
    test: dict[str, list[int]] = {}
    for noun, indices in train.items():
        if len(indices) >= 5:
            test[noun] = indices[::5]
            train[noun] = [i for i in indices if i not in test[noun]]
    return dict(train), dict(held_out), test


def for_training(drawings: tuple[DrawingRecord, ...], test: Mapping[str, Sequence[int]]) -> list[int]:
    """Indices of all drawings that training may show, with a noun or without."""
    shows_held_out = _pattern_of_held_out(drawings)
    tested = {i for indices in test.values() for i in indices}
    return [i for i, one in enumerate(drawings) if i not in tested and _may_train(one, shows_held_out)]


def most_similar(features: Tensor, indices: Sequence[int]) -> dict[int, list[int]]:
    """Each drawing -> its NEIGHBORS most similar others, by the cosine of their centered mean features."""
    vectors = features[list(indices)].float().mean(1)
    vectors = functional.normalize(vectors - vectors.mean(0), dim=1)
    neighbors = min(NEIGHBORS, len(indices) - 1)
    nearest = (vectors @ vectors.T).fill_diagonal_(-2).topk(neighbors).indices
    return {i: [indices[j] for j in row] for i, row in zip(indices, nearest.tolist(), strict=True)}


def _pattern_of_held_out(drawings: tuple[DrawingRecord, ...]) -> re.Pattern[str]:
    nouns = sorted({one.noun for one in drawings if one.noun and is_held_out(one.noun)})
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, nouns))})(?:s|es)?\b") if nouns else re.compile(r"(?!)")


def _may_train(drawing: DrawingRecord, shows_held_out: re.Pattern[str]) -> bool:
    words = " ".join((drawing.title.lower(), *drawing.keywords))
    return drawing.style in TRAINING_STYLES and not shows_held_out.search(words)


def _features(drawings: tuple[DrawingRecord, ...], cache: Path) -> Tensor:
    sources = (drawings_folder() / SOURCES).read_text(encoding="utf-8")  # with the checksums of the packages
    facts = {"ids": [one.id for one in drawings], "sources": sources}
    if cache.exists():
        stored, notes = load(cache)
        if notes == facts:
            return stored["features"]
    out = []
    network = load_network()
    with torch.inference_mode():
        for begin in range(0, len(drawings), BATCH):
            images = [pixels(one) for one in drawings[begin : begin + BATCH]]
            maps = network.extract_features(torch.stack(images))
            out.append(maps.flatten(2).transpose(1, 2).half())
        white = torch.from_numpy(pixels_of(PILImage.new("RGB", (SIDE, SIDE), "white"), SIDE))
        out.append(network.extract_features(white[None]).flatten(2).transpose(1, 2).half())
    features = torch.cat(out)
    save(cache, {"features": features}, facts)
    return features


def pixels(drawing: DrawingRecord) -> Tensor:
    """float32 of [3, SIDE, SIDE], normalized as the processor of the assembled checkpoint does."""
    return torch.from_numpy(pixels_of(drawing.image(drawings_folder()).open(), SIDE))
