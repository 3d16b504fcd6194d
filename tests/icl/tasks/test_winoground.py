"""Tests of Winoground on rows with its columns."""

import json

import pytest
from PIL import Image as PILImage

import icl
from icl.errors import ConfigError, DataError
from icl.models.base import Request
from icl.registry import build
from icl.testing.conformance import check_task
from icl.types import Generation


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def path(tmp_path):
    """Ten items: image 0 is the red one and caption 0 names it."""
    rows = []
    for i in range(10):
        for k, name in enumerate(("red", "blue")):
            PILImage.new("RGB", (8, 8), (250 - i, 0, 0) if k == 0 else (0, 0, 250 - i)).save(
                tmp_path / f"{i}{name}.png"
            )
        rows.append({"image_0": f"{i}red.png", "image_1": f"{i}blue.png", "caption_0": "red", "caption_1": "blue"})
    (tmp_path / "w.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "w.jsonl"


def image_color(example) -> str:
    red, _, blue = example.images[0].open().getpixel((3, 3))
    return "red" if red > blue else "blue"


def test_each_caption_is_asked_of_each_image(path):
    task = build("task", {"name": "winoground", "path": str(path)})
    assert len(task.queries) == task.pool_size == 20
    for example in (*task.queries, *task.pool("").examples):
        assert (example.answer == "yes") == (f'"{image_color(example)}"' in example.question)
    assert {(e.meta["caption"], e.meta["image"]) for e in task.queries[:4]} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert len({e.group for e in task.queries}) == 5
    check_task(task)


def test_only_the_gold_reveals_what_belongs_together(path):
    queries = build("task", {"name": "winoground", "path": str(path), "pool_fraction": 0}).queries
    same = [e.meta["caption"] == e.meta["image"] for e in queries]
    assert 0.2 < sum(a == (e.answer == "yes") for a, e in zip(same, queries, strict=True)) / len(queries) < 0.8


def answer_certainly(request: Request) -> Generation:
    """Surer of the right ones by a little, but never of the image of the first caption in every other item."""
    right = request.gold[0] == "yes"
    return Generation("yes", option_scores={"yes": -0.1 if right else -0.2, "no": -0.3})


def test_who_is_surer_of_the_right_ones_has_every_score_though_it_always_says_yes(path, tmp_path):
    config = {
        "name": "t",
        "task": {"name": "winoground", "path": str(path)},
        "model": {"name": "fake-scripted", "answer": f"{__file__}:answer_certainly"},
        "answer_mode": "options",
        "metrics": ["option", "winoground_text", "winoground_image", "winoground_group"],
    }
    frame = icl.run(config, runs=tmp_path, quiet=True).samples()
    assert list(frame[["option", "winoground_text", "winoground_image", "winoground_group"]].mean()) == [0.5, 1, 1, 1]


def test_what_is_missing_is_a_sentence(path):
    with pytest.raises(ConfigError, match=r"has \{caption\} once"):
        build("task", {"name": "winoground", "question": "is it?"})
    with pytest.raises(DataError, match="items: 6 is more than the 5 items"):
        _ = build("task", {"name": "winoground", "path": str(path), "items": 6}).queries
    path.write_text('{"image_0": "a", "caption_0": "b"}\n')
    with pytest.raises(DataError, match="no column image_1 and caption_1"):
        _ = build("task", {"name": "winoground", "path": str(path)}).queries
