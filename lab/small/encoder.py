"""The maps of the embedder `efficientnet_minilm`: a drawing and its title near each other, in one space.

Contrastive training of two linear maps on stored features (InfoNCE in both directions, as in CLIP, Radford et al., ICML
2021); the encoders stay as they are. Stamps of tuxpaint (GPL) and drawings with a held-out noun are in no training, as
in that of the model. For the figures on authors and folders, other maps are trained without those of the test.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.stats.formatting import format_estimate, format_signed
from experiments.stats.intervals import Estimate, estimate_mean
from icl.streams import StreamKey
from icl.tasks.drawings.table import DrawingRecord
from lab.small.drawings_data import DrawingSet, for_training
from retrievers.base import Vectors, normalize_rows
from retrievers.embedders.efficientnet import EfficientNetMiniLM, map_vectors, sentence_vectors
from retrievers.machinery.trained_heads import save_head

DIMENSIONS, STEPS, BATCH, RATE, NOISE = 128, 400, 256, 2e-3, 0.01
SEEDS, GALLERY, TOP = (0, 1, 2), 400, 10
TEST_BITS = 2
"""One author, or folder, in four is for the test of maps that were trained without it."""
FILE, CARD = "efficientnet_minilm.safetensors", "efficientnet_minilm.md"

Maps = Mapping[str, Vectors]


@dataclass(frozen=True)
class EncoderData:
    """Drawings with the unit vectors of their images and texts."""

    data: DrawingSet

    @cached_property
    def images(self) -> Vectors:
        """[drawings, 1280], unit rows; the mean over places."""
        return normalize_rows(self.data.features[:-1].float().mean(1).numpy())

    @cached_property
    def texts(self) -> list[tuple[str, ...]]:
        """What each drawing is called: its title, its title with keywords, its noun."""
        return [_texts_of(one) for one in self.data.drawings]

    @cached_property
    def text_vectors(self) -> dict[str, Vectors]:
        """Text -> MiniLM's unit vector, [384]."""
        distinct = sorted({text for texts in self.texts for text in texts})
        return dict(zip(distinct, sentence_vectors(distinct, EfficientNetMiniLM(device="cpu")), strict=True))

    @cached_property
    def train(self) -> list[int]:
        """Drawings for training that have a title."""
        return [i for i in for_training(self.data.drawings, self.data.test) if self.texts[i]]

    def gallery(self, indices: Sequence[int]) -> list[int]:
        """At most GALLERY of the drawings, each with another title."""
        by_title = {self.texts[i][0]: i for i in sorted(indices, reverse=True) if self.texts[i]}
        candidates = sorted(by_title.values())
        return sorted(Random(0).sample(candidates, min(GALLERY, len(candidates))))


def _texts_of(drawing: DrawingRecord) -> tuple[str, ...]:
    title = " ".join(re.sub(r"[_\W]+", " ", drawing.title.lower()).split())
    with_keywords = ", ".join(dict.fromkeys((title, *drawing.keywords)))
    return tuple(dict.fromkeys(text for text in (title, with_keywords, drawing.noun) if text)) if title else ()


def train_maps(data: EncoderData, indices: Sequence[int], seed: int) -> Maps:
    """The two maps and the centers of their inputs.

    Args:
        data: The drawings.
        indices: Those that train.
        seed: Of the initial maps, the batches, the choice of a drawing's text and the noise.
    """
    torch.manual_seed(seed)
    rng = Random(seed)
    images = torch.from_numpy(data.images)
    rows = {text: row for row, text in enumerate(data.text_vectors)}
    vectors = torch.from_numpy(np.stack(list(data.text_vectors.values())))
    image_center = images[list(indices)].mean(0)
    text_center = vectors[[rows[data.texts[i][0]] for i in indices]].mean(0)
    of_image, of_text = (nn.Linear(matrix.shape[1], DIMENSIONS, bias=False) for matrix in (images, vectors))
    scale = nn.Parameter(torch.tensor(2.3))
    optimizer = torch.optim.AdamW([of_image.weight, of_text.weight, scale], lr=RATE, weight_decay=1e-2)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        batch = rng.sample(list(indices), min(BATCH, len(indices)))
        texts = [rng.choice(data.texts[i]) for i in batch]
        noisy = images[batch] - image_center + NOISE * torch.randn(len(batch), images.shape[1])
        by_image = functional.normalize(of_image(noisy), dim=1)
        by_text = functional.normalize(of_text(vectors[[rows[text] for text in texts]] - text_center), dim=1)
        names = [data.data.drawings[i].noun or text for i, text in zip(batch, texts, strict=True)]
        loss = contrastive_loss(by_image @ by_text.T * scale.exp().clamp(max=50), names)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        optimizer.step()
    matrices = [of_image.weight.detach().numpy(), of_text.weight.detach().numpy()]
    centers = image_center.numpy(), text_center.numpy()
    return dict(zip(("image", "text", "image_center", "text_center"), (*matrices, *centers), strict=True))


def contrastive_loss(logits: Tensor, names: Sequence[str]) -> Tensor:
    """Cross-entropy in both directions. Pairs with equal names share the probability of the target.

    Args:
        logits: [images, texts], pairs on the diagonal.
        names: What each pair shows.
    """
    codes = torch.tensor([names.index(name) for name in names])
    targets = (codes[:, None] == codes[None]).float()
    targets = targets / targets.sum(1, keepdim=True)
    return functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)


def recall(data: EncoderData, maps: Maps, gallery: Sequence[int]) -> dict[str, list[float]]:
    """Whether the own drawing is among a title's TOP nearest images, and the own title among an image's texts."""
    images = map_vectors(data.images[gallery], maps["image_center"], maps["image"])
    titles = np.stack([data.text_vectors[data.texts[i][0]] for i in gallery])
    scores = map_vectors(titles, maps["text_center"], maps["text"]) @ images.T
    own = scores.diagonal()
    ahead = {"text to image": (scores > own[:, None]).sum(1), "image to text": (scores > own[None]).sum(0)}
    return {direction: (places < TOP).astype(float).tolist() for direction, places in ahead.items()}


def nearest_in_other_style(
    data: EncoderData, vectors: Vectors, by_noun: Mapping[str, Sequence[int]]
) -> dict[int, float]:
    """Drawing -> whether the nearest drawing of another style has its noun. Only nouns with several styles count."""
    drawings = data.data.drawings
    usable = [indices for indices in by_noun.values() if len({drawings[i].style for i in indices}) > 1]
    every = sorted(i for indices in usable for i in indices)
    rows = vectors[every]
    scores = rows @ rows.T
    styles = np.array([drawings[i].style for i in every])
    scores[styles[:, None] == styles[None]] = -2
    nearest = [every[j] for j in scores.argmax(1)]
    return {i: float(drawings[i].noun == drawings[j].noun) for i, j in zip(every, nearest, strict=True)}


def measure(data: EncoderData) -> tuple[Maps, dict[str, Estimate]]:
    """(the maps of the first seed, name -> figure over all seeds). A drawing is a cluster of an interval."""
    by_maps: dict[str, list[tuple[int, float]]] = {}
    shipped: Maps = {}
    held_out = [i for indices in data.data.held_out.values() for i in indices]
    tested = [i for indices in data.data.test.values() for i in indices]
    for seed in SEEDS:
        maps = train_maps(data, data.train, seed)
        shipped = shipped or maps
        sets = [("held-out drawings", maps, tested), ("held-out nouns", maps, held_out)]
        for name, key in PARTS.items():
            train, test = without_part(data, key)
            sets.append((f"held-out {name}", train_maps(data, train, seed), test))
        for name, of_set, indices in sets:
            gallery = data.gallery(indices)
            for direction, right in recall(data, of_set, gallery).items():
                by_maps.setdefault(f"{direction}, {name}", []).extend(zip(gallery, right, strict=True))
        mapped = map_vectors(data.images, maps["image_center"], maps["image"])
        for name, by_noun in (("held-out nouns", data.data.held_out), ("training nouns", data.data.test)):
            plain = nearest_in_other_style(data, data.images, by_noun)
            own = nearest_in_other_style(data, mapped, by_noun)
            by_maps.setdefault(f"nearest across styles, {name}: maps", []).extend(own.items())
            by_maps.setdefault(f"nearest across styles, {name}: EfficientNet", []).extend(plain.items())
            difference = [(i, own[i] - plain[i]) for i in own]
            by_maps.setdefault(f"nearest across styles, {name}: difference", []).extend(difference)
    return shipped, {
        name: estimate_mean([value for _, value in pairs], [i for i, _ in pairs]) for name, pairs in by_maps.items()
    }


PARTS: Mapping[str, Callable[[DrawingRecord], str]] = {
    "authors": lambda one: one.author,
    "folders": lambda one: one.folder,
}
"""Parts of openclipart that are left out of a training."""


def without_part(data: EncoderData, key: Callable[[DrawingRecord], str]) -> tuple[list[int], list[int]]:
    """(drawings for training, drawings for the test): no author, or folder, of the test is in the training."""
    parts = [key(data.data.drawings[i]) if data.data.drawings[i].style == "openclipart" else "" for i in data.train]
    in_test = [part != "" and StreamKey(0, part).number("encoder/held out", TEST_BITS) == 0 for part in parts]
    train = [i for i, is_test in zip(data.train, in_test, strict=True) if not is_test]
    return train, [i for i, is_test in zip(data.train, in_test, strict=True) if is_test]


def train_encoder(data: DrawingSet, out: Path) -> None:
    """Trains the maps, measures them, and writes both with a card. To ship them: retrievers/embedders/maps."""
    encoder_data = EncoderData(data)
    maps, figures = measure(encoder_data)
    out.mkdir(parents=True, exist_ok=True)
    save_head(out / FILE, maps, {"trained on": f"{len(encoder_data.train)} drawings"})
    (out / CARD).write_text(card(figures, len(encoder_data.train)), encoding="utf-8")
    print(card(figures, len(encoder_data.train)))


def card(figures: Mapping[str, Estimate], drawings: int) -> str:
    """The card of the maps, with every figure."""
    rows = [
        f"| {name} | {format_estimate(one.mean, one.low, one.high)} | {one.clusters} |"
        for name, one in figures.items()
        if not name.endswith(": difference")
    ]
    rows += [
        f"| {name} | {format_signed(one.mean)} [{format_signed(one.low)}, {format_signed(one.high)}] | {one.clusters} |"
        for name, one in figures.items()
        if name.endswith(": difference")
    ]
    return CARD_TEXT.format(drawings=drawings, rows="\n".join(rows), top=TOP, seeds=len(SEEDS), gallery=GALLERY)


CARD_TEXT = """# The maps of `efficientnet_minilm`

Two linear maps take EfficientNet-Lite0's mean features of an image and MiniLM's vector of a text into one space of 128
dimensions. The encoders come from their packages (Apache-2.0); the maps (Apache-2.0, as the toolkit) are all that was
trained. This page and the file are written by

    python -m lab.small encoder --out runs/small/encoder

Trained on {drawings} drawings with their titles, keywords and nouns: openclipart (public domain) and three emoji styles
(Noto, Apache-2.0; Twemoji, CC-BY-4.0; Fluent, MIT). Stamps of tuxpaint (GPL-2+), held-out nouns, also as a word of a
title or a keyword, and one drawing in five of each frequent noun had no part in it.

| figure | mean over {seeds} seeds, 95 % interval | drawings |
|---|---|---|
{rows}

Lines with a direction are recall@{top}: whether the own drawing (or title) is among the {top} nearest of a gallery of
as many drawings as the last column says, at most {gallery}, each with another title. Chance is {top} divided by that
number. A held-out drawing may have a twin in training, such as the same emoji in another style, or one by its author.
A line on held-out authors or folders is of maps that were trained without them. "Nearest across styles": whether the
nearest drawing of another style shows the same noun, among all drawings of nouns that several styles have; the
difference is that of the maps from EfficientNet, in pairs. Intervals are over drawings, not over trainings.

## Use

- Retrieval between images and texts: `i2t`, `t2i`, `ra_cm3`, `mmices`, `late_interaction`. For images alone, use
  `efficientnet`: on nouns that no training saw, the maps find less of the class.
- English titles of a few words. Other texts, photos and other languages were not measured.
- EfficientNet was trained on ImageNet: a held-out noun of this training may be one of its 1,000 classes.
"""
