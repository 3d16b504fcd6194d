"""Tests of VL-ICL's own files on data in their layout."""

import json

import pytest
from PIL import Image as PILImage

from icl.errors import ConfigError, DataError
from icl.registry import build
from icl.testing.conformance import check_task
from icl.types import Generation

CLASSES = ["dax", "wug", "blick", "fep", "toma"]


@pytest.fixture
def folder(tmp_path):
    def image(name, level):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (8, 8), (level % 256, 10, 200)).save(path)
        return name

    def write(task, queries, support):
        (tmp_path / task).mkdir(exist_ok=True)
        (tmp_path / task / "query.json").write_text(json.dumps(queries))
        (tmp_path / task / "support.json").write_text(json.dumps(support))

    queries = []
    for q in range(3):
        support = {
            name: {"images": [image(f"open_mi/{q}{name}{i}.png", 60 * q + 10 * c + i) for i in range(5)]}
            for c, name in enumerate(CLASSES)
        }
        queries.append({"image": [image(f"open_mi/q{q}.png", 240 + q)], "question": "This is a", "answer": CLASSES[q],
                        "classes": CLASSES, "support": support})  # fmt: skip
    write("open_mi", queries, [])
    sums = [{"image": [image(f"op/{i}.png", i)], "question": "Result?", "answer": [i + 1, i - 1, i]} for i in range(6)]
    query_rows = [
        {"image": image(f"op/q{k}.png", 60 + ord(k)), "question": "Result?", "answer": 7, "operator": k} for k in "+-x"
    ]
    write("operator_induction", query_rows, sums)
    pairs = [
        {key: {"image": [image(f"m/{i}{key}{k}.png", 7 * i + 2 * k + (key == "same")) for k in (0, 1)],
               "question": "Induced?", "answer": "Yes" if key == "same" else "No"} for key in ("same", "diff")}
        for i in range(12)
    ]  # fmt: skip
    matched = [{"image": ["m/qa.png", "m/qb.png"], "question": "Induced?", "answer": "No"}]
    image("m/qa.png", 250)
    image("m/qb.png", 251)
    write("matching_mi", matched, pairs)
    words = [("red", "leaf"), ("red", "box"), ("blue", "leaf"), ("blue", "car")]
    rows = [
        {"task": "color", "latent": "attribute", "attribute": a, "object": b, "question": b, "answer": [a, b],
         "image": image(f"t2i/{i}.png", 130 + i)} for i, (a, b) in enumerate(words)
    ]  # fmt: skip
    queries_ = [{**rows[0], "object": "car", "question": "car", "answer": ["red", "car"]}]
    write("cobsat", queries_, [*rows, {**rows[1], "task": "style"}])
    clevr = [{"id": i, "image": [image(f"c/{i}.png", i)], "question": "color: red", "answer": i} for i in range(8)]
    write("clevr", clevr[:3], clevr[3:])
    return tmp_path


def task(folder, name, **more):
    return build("task", {"name": "vl_icl", "path": str(folder), "task": name, **more})


def test_open_binding_has_a_pool_a_query_with_the_classes_in_turn(folder):
    loaded = task(folder, "open_mi")
    check_task(loaded)
    for query in loaded.queries:
        pool = loaded.pool(query.id).examples
        assert len(pool) == 10
        assert len(set(query.options)) == 2
        assert query.answer in query.options
        assert [e.answer for e in pool] == [*query.options] * 5
        assert {e.question for e in pool} == {"This is a"}
    assert task(folder, "open_mi", ways=5).pool_size == 25
    assert len({q.options.index(q.answer) for q in task(folder, "open_mi", ways=5).queries}) > 1


def test_supports_of_a_sum_answer_for_the_operator_of_the_query(folder):
    loaded = task(folder, "operator_induction")
    answers = {q.secret["operator"]: [e.answer for e in loaded.pool(q.id).examples] for q in loaded.queries}
    assert answers["+"] == [str(i + 1) for i in range(6)]
    assert answers["-"] == [str(i - 1) for i in range(6)]
    assert answers["x"] == [str(i) for i in range(6)]
    check_task(loaded)


def test_matching_shuffles_within_a_pair_unless_official_order_is_set(folder):
    random, official = task(folder, "matching_mi"), task(folder, "matching_mi", official_order=True)
    (query,) = random.queries
    assert (query.answer, query.options, len(query.images)) == ("no", ("yes", "no"), 2)
    assert [e.answer for e in official.pool(query.id).examples] == ["yes", "no"] * 12
    answers = [e.answer for e in random.pool(query.id).examples]
    assert answers != ["yes", "no"] * 12
    assert all({a, b} == {"yes", "no"} for a, b in zip(answers[::2], answers[1::2], strict=True))


def test_cobsat_is_described_and_its_pool_has_the_latent_word(folder):
    loaded = task(folder, "cobsat")
    check_task(loaded)
    (query,) = loaded.queries
    assert not query.images
    assert query.answer == "red car"
    assert query.meta["words"] == {"latent": ["blue", "red"], "text": ["box", "car", "leaf"]}
    assert [(e.question, e.answer, len(e.images)) for e in loaded.pool(query.id).examples] == [
        ("leaf", "red leaf", 1), ("box", "red box", 1)]  # fmt: skip
    scores = [build("metric", "cobsat").score(Generation(text), query) for text in ("a red car", "a red leaf")]
    assert scores == [1, 0]


def test_other_tasks_share_one_pool(folder):
    loaded = task(folder, "clevr", queries=2)
    assert len(loaded.queries) == 2
    assert loaded.pool(loaded.queries[0].id) is loaded.pool(loaded.queries[1].id)
    assert loaded.pool_size == 5
    with pytest.raises(DataError, match="queries: 4 is more than the 3 of VL-ICL clevr"):
        _ = task(folder, "clevr", queries=4).queries
    with pytest.raises(DataError, match="has no query 'x'"):
        loaded.pool("x")


def test_what_is_not_there_or_no_json_is_a_sentence(folder):
    with pytest.raises(DataError, match=r"there is no .*textocr.query\.json\. Its data set is ys-zong/VL-ICL"):
        _ = task(folder, "textocr").queries
    (folder / "textocr").mkdir()
    (folder / "textocr" / "query.json").write_text("{")
    with pytest.raises(DataError, match="is not valid JSON"):
        _ = task(folder, "textocr").queries


def test_a_folder_of_another_benchmark_in_this_layout_has_one_pool(folder):
    rows = [{"image": [f"c/{i}.png"], "question": "what is missing?", "answer": i} for i in range(5)]
    (folder / "sudoku").mkdir()
    (folder / "sudoku" / "query.json").write_text(json.dumps(rows[:2]))
    (folder / "sudoku" / "support.json").write_text(json.dumps(rows[2:]))
    loaded = task(folder, "sudoku")
    check_task(loaded)
    assert [q.answer for q in loaded.queries] == ["0", "1"]
    assert [e.answer for e in loaded.pool(loaded.queries[0].id).examples] == ["2", "3", "4"]
    (folder / "clock").mkdir()
    (folder / "clock" / "query.json").write_text(json.dumps([{"image": "c/0.png", "answer": 1}]))
    with pytest.raises(DataError, match=r"row 0 of query\.json has no 'question'"):
        _ = task(folder, "clock").queries


def test_tasks_that_ask_for_an_image_are_refused(folder):
    with pytest.raises(ConfigError, match="asks for an image as its answer"):
        task(folder, "open_t2i_mi")
