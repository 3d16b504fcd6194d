"""The image world: equal bytes from a seed, true facts, held-out concepts."""

import hashlib
import re

import numpy as np
import pytest

from icl.tasks.generated.wording import caption, plural
from icl.tasks.generated.world import (
    CONCEPTS,
    HELD_OUT_CONCEPTS,
    KINDS,
    SHAPES,
    SIDE,
    TRAINING_CONCEPTS,
    ShapeGroup,
    companion,
    draw,
)
from lab.tiny.curriculum import SHARES, draw_batch
from lab.tiny.index import PoolIndex
from lab.tiny.layout import words
from lab.tiny.pool import make_pool

DIGESTS = {
    "single": "515224df132ecb10",
    "plain": "9f9ef6858e80e957",
    "count": "96d42b0a81ec3250",
    "scene": "ccd224cd6dcf408e",
    "digits": "6eecc979bf8c62ea",
}


def digest(kind: str) -> str:
    rng = np.random.default_rng(5)
    return hashlib.sha256(b"".join(draw(rng, kind)[0].tobytes() for _ in range(20))).hexdigest()[:16]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_the_same_bytes_from_a_seed(kind: str) -> None:
    assert digest(kind) == digest(kind) == DIGESTS[kind]


def test_fixed_facts_are_drawn_and_reported() -> None:
    rng = np.random.default_rng(0)
    image, facts = draw(rng, "single", color="red", shape="star", texture="hollow", size="large", place="top left")
    assert image.size == (SIDE, SIDE)
    assert image.mode == "RGB"
    assert (facts.color, facts.shape, facts.texture, facts.size) == ("red", "star", "hollow", "large")
    assert facts.place == "top left"
    _, facts = draw(rng, "count", shape="circle", count=4)
    assert facts.count == facts.number(shape="circle") == 4
    _, facts = draw(rng, "digits", left=7, right=2)
    assert (facts.left, facts.right, facts.count) == (7, 2, None)


def test_a_scene_shows_its_groups() -> None:
    groups = (ShapeGroup("blue", "star", 1), ShapeGroup("red", "circle", 2))
    image, facts = draw(np.random.default_rng(0), "scene", groups=groups)
    assert facts.groups == groups
    colors = {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}
    assert {(255, 0, 0), (0, 0, 255)} <= colors
    assert facts.number(color="red") == 2
    assert facts.number(color="red", shape="star") == 0
    assert caption(groups) == "there are two red circles and one blue star in the picture"


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="no concept"):
        draw(np.random.default_rng(0), "plain", color="orange")
    with pytest.raises(ValueError, match="1 to 9"):
        draw(np.random.default_rng(0), "scene", groups=[ShapeGroup("red", "star", 10)])


def test_held_out_and_training_concepts_partition_the_world() -> None:
    assert len(HELD_OUT_CONCEPTS) == 16
    assert not set(HELD_OUT_CONCEPTS) & set(TRAINING_CONCEPTS)
    assert set(HELD_OUT_CONCEPTS) | set(TRAINING_CONCEPTS) == set(CONCEPTS)
    assert all(companion(concept) in CONCEPTS for concept in CONCEPTS)


def test_training_shows_and_names_no_held_out_concept() -> None:
    pool = make_pool(1, 1500, concepts=TRAINING_CONCEPTS)
    index, rng = PoolIndex(pool), np.random.default_rng(2)
    assert not any(group[:2] in HELD_OUT_CONCEPTS for groups in index.groups for group in groups)
    named = re.compile("|".join(rf"\b{c} ({s}|{plural(s)})\b" for c, s in HELD_OUT_CONCEPTS))
    for lesson in SHARES:
        for _ in range(12):
            batch = draw_batch(rng, index, lesson)
            assert not any(named.search(words(row)) for row in batch.rows), lesson


def test_captions_are_8_to_20_words() -> None:
    index = PoolIndex(make_pool(3, 400, {"scene": 1.0}))
    lengths = [len(re.findall(r"\w+", caption([ShapeGroup(*g) for g in groups]))) for groups in index.groups]
    assert min(lengths) >= 8
    assert max(lengths) <= 20
    assert plural("arch") == "arches"
    assert plural("cross") == "crosses"
    assert plural(SHAPES[0], 1) == "circle"
