"""Presets of multiple-choice benchmarks on rows with their columns, from the file to the score."""

import json

import pytest
from datasets import Dataset, Features, Image, List
from PIL import Image as PILImage

from icl.errors import DataError
from icl.metrics.base import ScoredSample
from icl.registry import build
from icl.tasks.columns import group_name
from icl.testing import check_task


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def painted(level: int) -> PILImage.Image:
    return PILImage.new("RGB", (8, 8), (level, 255 - level, 7))


def parquet(path, rows, images=("image",)):
    plain = Dataset.from_list([{k: v for k, v in row.items() if k not in images} for row in rows])
    listed = isinstance(rows[0][images[0]], list)
    features = {**plain.features, **{name: List(Image()) if listed else Image() for name in images}}
    path.parent.mkdir(exist_ok=True)
    Dataset.from_list(rows, features=Features(features)).to_parquet(path)
    return path


def hub(preset, path, **more):
    return build("task", {"name": "hub", "preset": preset, "path": str(path), **more})


def test_mmmu_has_several_images_and_open_questions(tmp_path) -> None:
    none = {f"image_{i}": None for i in range(1, 8)}
    rows = [
        {"id": "a", "question": "<image 1> which?", "options": "['one', \"two's\"]", "answer": "B",
         "question_type": "multiple-choice", **none, "image_1": painted(1), "image_2": painted(2)},
        {"id": "b", "question": "how much?", "options": "[]", "answer": "$14", "question_type": "open", **none,
         "image_1": painted(3)},
    ]  # fmt: skip
    path = parquet(tmp_path / "d.parquet", rows, tuple(none))
    one, other = sorted(hub("mmmu", path, pool_fraction=0).queries, key=lambda e: e.id)
    assert (one.options, one.answer, len(one.images)) == (("one", "two's"), "two's", 2)
    assert (other.options, other.answer, len(other.images)) == ((), "$14", 1)
    assert one.images[1].open().getpixel((0, 0)) == (2, 253, 7)


def test_mmbench_leaves_missing_options_out(tmp_path) -> None:
    rows = [
        {"index": i, "question": "which?", "hint": "nan", "A": "cat", "B": "dog", "C": ("cow", "nan")[i % 2],
         "D": "nan", "answer": "B", "category": "x", "L2-category": "y", "image": painted(i)} for i in range(4)
    ]  # fmt: skip
    task = hub("mmbench", parquet(tmp_path / "d.parquet", rows))
    assert {len(e.options) for e in (*task.queries, *task.pool("").examples)} == {2, 3}
    assert {e.answer for e in task.queries} == {"dog"}


@pytest.mark.parametrize(
    ("preset", "options", "answer", "more"),
    [
        ("scienceqa", {"choices": ["red", "blue"]}, {"answer": 1}, {}),
        ("a_okvqa", {"choices": ["red", "blue"]}, {"correct_choice_idx": 1}, {"rationales": ["because"]}),
    ],
)
def test_a_benchmark_with_its_own_support_uses_it(tmp_path, preset, options, answer, more) -> None:
    for split, level in (("train", 100), ("test", 10), ("validation", 20)):
        rows = [{"question": "which?", "question_id": f"{split}{i}", **options, **answer, **more,
                 "image": painted(level + i)} for i in range(3)]  # fmt: skip
        parquet(tmp_path / "data" / f"{split}.parquet", rows)
    task = hub(preset, tmp_path / "data", config=None)
    assert len(task.queries) == len(task.pool("").examples) == 3
    assert {e.answer for e in task.queries} == {"blue"}
    pool_levels = {e.images[0].open().getpixel((0, 0))[0] for e in task.pool("").examples}
    assert pool_levels == {100, 101, 102}
    check_task(task)


def test_textvqa_keeps_every_annotator(tmp_path) -> None:
    for split in ("train", "validation"):
        rows = [{"question": "what?", "question_id": i, "answers": ["stop"] * 7 + ["go"] * 3,
                 "image": painted(i + 9 * (split == "train"))} for i in range(2)]  # fmt: skip
        parquet(tmp_path / "data" / f"{split}.parquet", rows)
    query = hub("textvqa", tmp_path / "data").queries[0]
    assert query.answers == ("stop", "go")
    assert len(query.secret["votes"]) == 10


def test_seed_bench_has_frames(tmp_path) -> None:
    rows = [
        {"question": "what?", "question_id": str(i), "choice_a": "a cat", "choice_b": "a dog", "choice_c": "a cow",
         "choice_d": "a pig", "answer": "C", "data_type": "video", "image": [painted(i), painted(i + 10)]}
        for i in range(2)
    ]  # fmt: skip
    (query,) = hub("seed_bench", parquet(tmp_path / "d.parquet", rows)).queries
    assert (query.answer, len(query.images), query.meta["data_type"]) == ("a cow", 2, "video")


def test_gqa_reads_its_questions_by_id(tmp_path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(4):
        painted(i).save(tmp_path / "images" / f"n{i}.jpg")
    rows = {f"0{i}": {"question": "Is it red?", "answer": "yes", "imageId": f"n{i // 2}"} for i in range(8)}
    (tmp_path / "q.json").write_text(json.dumps(rows))
    task = hub("gqa", tmp_path / "q.json")
    assert {e.group for e in task.queries}.isdisjoint({e.group for e in task.pool("").examples})
    assert all(e.images[0].open().size == (8, 8) for e in task.queries)


def hallusion_rows():
    keys = [(s, q, f) for s in range(3) for q in range(2) for f in range(2)]
    return [
        {"question": f"q{q}?", "gt_answer": str((q + f) % 2), "category": "VD", "subcategory": "chart",
         "set_id": str(s), "question_id": str(q), "figure_id": str(f), "image": painted(10 * s + f)} for s, q, f in keys
    ]  # fmt: skip


def test_hallusion_bench_groups_by_question_and_by_figure(tmp_path) -> None:
    task = hub("hallusion_bench", parquet(tmp_path / "d.parquet", hallusion_rows()), pool_fraction=0)
    assert {e.group for e in task.queries} == {f"VD / chart / {s}" for s in range(3)}
    assert len(hub("hallusion_bench", tmp_path / "d.parquet", pool_fraction=0, queries=5).queries) == 4
    wrong = [e for e in task.queries if (e.meta["set_id"], e.meta["question_id"]) == ("0", "1")]
    samples = [ScoredSample(e.id, float(e not in wrong), e.group, meta=e.meta) for e in task.queries]
    question, figure = (build("metric", name).run_level(samples) for name in ("question_accuracy", "figure_accuracy"))
    assert question.counted.all()
    assert question.statistic == pytest.approx(5 / 6)
    assert figure.statistic == pytest.approx(4 / 6)


def test_a_group_can_have_several_columns() -> None:
    assert group_name([]) is group_name([None]) is None
    assert group_name(["a", 1]) == "a / 1"


def test_a_letter_outside_the_options_is_still_refused(tmp_path) -> None:
    rows = [{"id": str(i), "question": "?", "options": "['a', 'b']", "answer": "E", "question_type": "x",
             **{f"image_{n}": painted(i) for n in range(1, 8)}} for i in range(2)]  # fmt: skip
    path = parquet(tmp_path / "d.parquet", rows, tuple(f"image_{n}" for n in range(1, 8)))
    with pytest.raises(DataError, match="'E' is not the letter of one of its 2 options"):
        _ = hub("mmmu", path).queries
