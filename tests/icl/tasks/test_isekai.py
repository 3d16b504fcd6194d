"""ISEKAI's lines become queries with a pool of both classes."""

import json

import pytest
from PIL import Image as PILImage

from icl.errors import DataError
from icl.registry import build
from icl.testing import check_task


@pytest.fixture
def lines(tmp_path):
    def image(name: str, level: int) -> str:
        PILImage.new("RGB", (8, 8), (level, 7, 255 - level)).save(tmp_path / name)
        return name

    rows = [
        {
            "image_name": image(f"q{q}.png", q),
            "label_name": ("octagon", "cactus")[q % 2],
            "positive_list": [image(f"p{q}{i}.png", 20 + 10 * q + i) for i in range(4)],
            "positive_promt": "octagon",
            "negative_list": [image(f"n{q}{i}.png", 120 + 10 * q + i) for i in range(4)],
            "negative_promt": "cactus",
        }
        for q in range(4)
    ]
    path = tmp_path / "isekai.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def task(path, **more):
    return build("task", {"name": "isekai", "path": str(path), "images": str(path.parent), **more})


def test_a_shot_is_one_image_of_each_class(lines) -> None:
    isekai = task(lines)
    check_task(isekai)
    assert [q.answer for q in isekai.queries] == ["octagon", "cactus"] * 2
    firsts = set()
    for query in isekai.queries:
        pool = isekai.pool(query.id).examples
        assert len(pool) == 8
        assert all({a.answer, b.answer} == set(query.options) for a, b in zip(pool[::2], pool[1::2], strict=True))
        assert all(e.images[0].origin.split()[1][0] == {"octagon": "p", "cactus": "n"}[e.answer] for e in pool)
        firsts |= {e.answer for e in pool[::2]}
    assert firsts == {"octagon", "cactus"}
    assert len(task(lines, queries=2).queries) == 2


def test_a_wrong_file_is_a_sentence(lines) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        _ = task(lines.parent / "none.jsonl").queries
    lines.write_text('{"image_name": "a"}')
    with pytest.raises(DataError, match=r"isekai\.jsonl:1 has no 'label_name'"):
        _ = task(lines).queries
    lines.write_text("{")
    with pytest.raises(DataError, match=r"isekai\.jsonl:1 is not JSON"):
        _ = task(lines).queries
