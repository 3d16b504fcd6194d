"""Benchmarks with supports of their own: episodes of rows, tables of classes, and MMLongBench's sets."""

import json
from pathlib import Path

import pytest
from PIL import Image as PILImage

from icl.errors import ConfigError, DataError
from icl.registry import build
from icl.testing import check_task


def paint(path, level: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.new("RGB", (8, 8), (level % 256, 9, 255 - level % 256)).save(path)
    return path.name


@pytest.fixture
def smmile(tmp_path):
    """Three problems of 2, 3 and 4 rows out of order, and one without a demonstration."""
    rows = [
        {"problem_id": p, "order": place, "question": f"{p} {place}?", "answer": f"a{(p + place) % 2}",
         "image": paint(tmp_path / f"{p}{place}.png", 40 * p + place)}
        for p, count in ((1, 2), (2, 3), (3, 4), (4, 1)) for place in range(count)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows[::-1])))
    return {"name": "episodes", "preset": "smmile", "path": str(tmp_path / "rows.jsonl")}


def test_the_last_row_of_an_episode_is_asked_with_the_others_as_its_pool(smmile) -> None:
    task = build("task", smmile)
    check_task(task)
    assert sorted(q.question for q in task.queries) == ["1 1?", "2 2?", "3 3?"]
    assert task.pool_size == 1
    for query in task.queries:
        problem, last = query.question.rstrip("?").split()
        assert [e.question for e in task.pool(query.id).examples] == [f"{problem} {i}?" for i in range(int(last))]
    assert all(not q.options for q in task.queries)
    choices = build("task", {**smmile, "answers_as_options": True})
    assert {q.options for q in choices.queries} <= {("a0", "a1"), ("a1", "a0")}
    assert len(build("task", {**smmile, "queries": 2}).queries) == 2


def test_a_missing_column_is_a_sentence(smmile) -> None:
    with pytest.raises(DataError, match=r"episode: .* has no column 'problem'\. Did you mean 'problem_id'"):
        _ = build("task", {**smmile, "episode": "problem"}).queries
    with pytest.raises(ConfigError, match="columns has no 'answer'"):
        build("task", {**smmile, "columns": {"question": "question"}})
    with pytest.raises(DataError, match="queries: 9 is more than the 3 episodes"):
        _ = build("task", {**smmile, "queries": 9}).queries


@pytest.fixture
def tables(tmp_path):
    for split, count, level in (("demo", 4, 0), ("test", 2, 10)):
        names = [paint(tmp_path / "images" / f"{split}{i}.jpeg", 30 * i + level) for i in range(count)]
        lines = [",beach,forest", *(f"{name},{1.0 - i % 2},{i % 2}.0" for i, name in enumerate(names))]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    return tmp_path


def test_a_table_of_classes_has_its_own_demonstrations(tables) -> None:
    task = build("task", {"name": "many_icl", "path": str(tables)})
    check_task(task)
    assert [q.answer for q in task.queries] == ["beach", "forest"]
    assert [e.answer for e in task.pool("").examples] == ["beach", "forest"] * 2
    assert {q.options for q in task.queries} == {("beach", "forest")}
    assert build("task", {"name": "many_icl", "path": str(tables), "pool_size": 3}).pool_size == 3
    (tables / "test.csv").write_text(",beach,forest\nx.jpeg,1\n")
    with pytest.raises(DataError, match=r"test\.csv:2 has not a number for each of the 2 classes"):
        _ = build("task", {"name": "many_icl", "path": str(tables)}).queries
    with pytest.raises(DataError, match="cannot be read as a table"):
        _ = build("task", {"name": "many_icl", "path": str(tables / "none")}).queries


@pytest.fixture
def sets(tmp_path):
    content = {
        domain: {
            "exemplar_list": [[[{"image": paint(tmp_path / f"{domain}{s}{r}{k}.png", 7 * s + 60 * r + 3 * k), "id": k}
                                for k in range(2)] for r in range(3)] for s in range(2)],
            "test_example": [{"image": paint(tmp_path / f"{domain}t{k}.png", 200 + k), "answer": k} for k in range(2)],
        }
        for domain in ("cars", "food")
    }  # fmt: skip
    (tmp_path / "icl.json").write_text(json.dumps(content))
    return {"name": "mmlongbench_icl", "path": str(tmp_path / "icl.json"), "images": str(tmp_path)}


def test_a_query_of_mmlongbench_has_one_set_of_its_domain_shuffled_in_rounds(sets) -> None:
    task = build("task", sets)
    check_task(task)
    assert [q.answer for q in task.queries] == ["0", "1"] * 2
    used = set()
    for query in task.queries:
        names = [e.images[0].origin.split()[1] for e in task.pool(query.id).examples]
        assert {name[:4] for name in names} == {query.domain}
        assert len({name[4] for name in names}) == 1
        assert [int(name[5]) for name in names] == [0, 0, 1, 1, 2, 2]
        assert [e.answer for e in task.pool(query.id).examples] == [name[6] for name in names]
        used.add(tuple(name[4:7] for name in names))
    assert len(used) > 1
    assert task.pool_size == 6
    Path(sets["path"]).write_text('{"cars": {}}')
    with pytest.raises(DataError, match="must map domains"):
        _ = build("task", {**sets, "seed": 1}).queries


def test_an_episode_with_a_missing_image_is_left_out_and_counted(smmile, tmp_path) -> None:
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for row in lines:
        if (row["problem_id"], row["order"]) == (3, 1):
            row["image"] = None
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = build("task", smmile)
    assert sorted(q.question for q in task.queries) == ["1 1?", "2 2?"]
    (note,) = task.notes
    assert note.startswith("1 of 4 episodes of ")
    assert note.endswith("rows.jsonl[test] are left out: an image is missing, for example in '3'.")
