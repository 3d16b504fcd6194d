"""Presets of benchmarks that were added together, on rows with the columns of their release."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from data_hub import parquet_bytes
from documented_rows import write_documented_rows
from PIL import Image as PILImage

from experiments.results.data_columns import column_values
from icl.errors import ConfigError, DataError
from icl.metrics.base import ScoredSample
from icl.registry import build
from icl.testing import check_task
from icl.types import Example, Generation


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def painted(level: int, size: int = 8) -> PILImage.Image:
    return PILImage.new("RGB", (size, size), (level % 256, 255 - level % 256, 7))


def table(folder: Path, rows: list[dict[str, Any]], *images: str) -> Path:
    path = folder / "rows.parquet"
    path.write_bytes(parquet_bytes(rows, images or ("image",)))
    return path


def hub(preset: str, path: Path, **more: Any) -> Any:
    return build("task", {"name": "hub", "preset": preset, "path": str(path), **more}, "x.yaml:2")


def score(metric: str | Mapping[str, Any], text: str, example: Example) -> float | None:
    value: float | None = build("metric", metric).score(Generation(text=text), example)
    return value


def test_mmstar_has_its_options_in_the_question_and_scores_letters(tmp_path: Path) -> None:
    rows = [
        {"index": i, "question": f"Which? {i}\nOptions: A: red, B: blue, C: one, D: two", "answer": "ABCD"[i],
         "category": "math", "l2_category": "geometry", "image": painted(i)} for i in range(4)
    ]  # fmt: skip
    task = hub("mmstar", table(tmp_path, rows), pool_fraction=0)
    second = next(e for e in task.queries if e.id == "1")
    assert (second.answer, second.options, second.listing) == ("B", (), None)
    more = {"options": ["A", "B", "C", "D"], "list_options": "none"}
    assert [e.options for e in hub("mmstar", tmp_path / "rows.parquet", **more).queries] == [(*"ABCD",)] * 2
    assert [score("lenient", text, second) for text in ("B", "(B) blue", "The answer is B.", "C", "A or B")] == [
        1, 1, 1, 0, 0,
    ]  # fmt: skip


def naturalbench_rows() -> list[dict[str, Any]]:
    """Two groups of two questions with two images each, in the order of the release."""
    rows = []
    for group, (kind, answers) in enumerate((("yes_no", "Yes No No Yes"), ("multiple_choice", "A B B A"))):
        for place, answer in enumerate(answers.split()):
            rows.append(
                {"Index": 4 * group + place, "Question": f"g{group} q{place // 2}? Option: A:a; B:b;", "Answer": answer,
                 "Question_Type": kind, "Image": painted(20 * group + place % 2)}
            )  # fmt: skip
    return rows


@pytest.mark.parametrize("wrong", [(), (0,), (1, 4), (0, 1, 2, 3), (0, 3, 5, 6)])
def test_naturalbench_counts_groups_questions_and_images_as_released(tmp_path: Path, wrong: tuple[int, ...]) -> None:
    task = hub("naturalbench", table(tmp_path, naturalbench_rows(), "Image"), pool_fraction=0)
    assert sorted({e.group for e in task.queries}) == ["rows from 0", "rows from 4"]
    outputs = [
        e.answer if int(e.id) not in wrong else {"Yes": "No", "No": "Yes", "A": "B", "B": "A"}[e.answer]
        for e in task.queries
    ]
    # the released formula: 1 for "yes" and "A"; question 0 wants 1, 0 and question 1 wants 0, 1
    ones = {int(e.id): outputs[i] in ("Yes", "A") for i, e in enumerate(task.queries)}
    groups = [[ones[4 * g + i] for i in range(4)] for g in range(2)]
    questions = [(q[0] and not q[1]) + (q[3] and not q[2]) for q in groups]
    images = [(q[0] and not q[2]) + (q[3] and not q[1]) for q in groups]
    expected = {
        "group": sum(a == b == 2 for a, b in zip(questions, images, strict=True)) / 2,
        "question": sum(questions) / 4,
        "image": sum(images) / 4,
    }
    for of, value in expected.items():
        metric = build("metric", {"name": "naturalbench", "of": of})
        samples = [
            ScoredSample(e.id, metric.score(Generation(text=text), e), e.group, meta=e.stored_meta)
            for e, text in zip(task.queries, outputs, strict=True)
        ]
        assert metric.run_level(samples).statistic == pytest.approx(value), of


def test_mathvista_has_options_or_numbers(tmp_path: Path) -> None:
    rows = [
        {"pid": "1", "question": "Which?", "image": "images/1.jpg", "decoded_image": painted(1),
         "choices": ["Yes", "No"], "unit": None, "precision": None, "answer": "No", "question_type": "multi_choice",
         "answer_type": "text",
         "metadata": {"task": "vqa"}, "query": "Hint: ..."},
        {"pid": "2", "question": "How much?", "image": "images/2.jpg", "decoded_image": painted(2), "choices": None,
         "unit": None, "precision": 1.0, "answer": "1.2", "question_type": "free_form", "answer_type": "float",
         "metadata": {"task": "vqa"}, "query": "Hint: ..."},
    ]  # fmt: skip
    one, other = sorted(
        hub("mathvista", table(tmp_path, rows, "decoded_image"), pool_fraction=0).queries, key=lambda e: e.id
    )
    assert (one.options, one.answer, one.meta["metadata"]["task"]) == (("Yes", "No"), "No", "vqa")
    assert (other.options, other.answer) == ((), "1.2")
    assert (score("lenient", "(B) No", one), score("lenient", "It is 1.2 in all.", other)) == (1, 1)


def test_aro_asks_about_the_part_of_the_image_in_the_box(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    whole = painted(10, 20)
    whole.paste((0, 0, 200), (5, 6, 9, 12))
    rows = []
    for i in range(4):
        whole.save(tmp_path / "images" / f"{i}.png")
        rows.append(
            {"image_path": f"{i}.png", "true_caption": "the dog is on it", "false_caption": "it is on the dog",
             "bbox_x": 5, "bbox_y": 6, "bbox_w": 4, "bbox_h": 6, "relation_name": "on"}
        )  # fmt: skip
    path = tmp_path / "visual_genome_relation.json"
    path.write_text(json.dumps(rows))
    query = hub("aro", path).queries[0]
    part = query.images[0].open()
    assert (part.size, part.getcolors()) == ((4, 6), [(24, (0, 0, 200))])
    assert (query.options, query.answer) == (
        ("the dog is on it", "it is on the dog"),
        "the dog is on it",
    )
    assert query.images[0].identity.endswith("box (5, 6, 9, 12)")
    path.write_text(json.dumps([{**row, "bbox_w": 40} for row in rows]))
    with pytest.raises(ValueError, match=r"the box \(5, 6, 45, 12\) is not inside its 20 x 20 pixels"):
        hub("aro", path).queries[0].images[0].load()
    path.write_text(json.dumps([{**row, "bbox_w": None} for row in rows]))
    with pytest.raises(DataError, match=r"row \d: the box \[5, 6, None, 6\] is not four numbers"):
        _ = hub("aro", path).queries
    with pytest.raises(ConfigError, match=r"columns\.box is four columns"):
        hub("aro", path, columns={"options": ["true_caption"], "answer": "true_caption", "box": ["bbox_x"]})


def test_cmmmu_has_one_or_several_right_options_judgments_and_blanks(tmp_path: Path) -> None:
    none = {f"image_{i}": None for i in range(2, 6)}
    options = {f"option{i}": f"选{i}" for i in range(1, 5)}
    rows = [
        {"id": i, "type": kind, "question": f"问{i}", "answer": answer, "category": "x", "subcategory": "y",
         "image_1": painted(i), **none, **(options if kind == "选择" else dict.fromkeys(options))}
        for i, (kind, answer) in enumerate((("选择", "B"), ("选择", "ACD"), ("判断", "对"), ("填空", "甲")))
    ]  # fmt: skip
    path = table(tmp_path, rows, *(f"image_{i}" for i in range(1, 6)))
    one, several, judged, blank = sorted(hub("cmmmu", path, pool_fraction=0).queries, key=lambda e: e.id)
    assert (one.answer, several.answer, judged.answer, blank.answer) == ("选2", "ACD", "对", "甲")
    assert [len(e.options) for e in (one, several, judged, blank)] == [4, 4, 0, 0]
    assert [
        score("lenient", text, e) for text, e in (("B", one), ("ACD", several), ("AC", several), ("错", judged))
    ] == [1, 1, 0, 0]
    with pytest.raises(DataError, match="'BX' is not the letter of one of its 4 options"):
        _ = hub(
            "cmmmu",
            table(tmp_path, [{**row, "answer": "BX"} for row in rows[:2]], *(f"image_{i}" for i in range(1, 6))),
        ).queries


@pytest.mark.parametrize(
    ("preset", "folder", "name", "columns"),
    [
        ("encyclopedic_vqa", "M2KR_Images/EVQA", "inat/val/a.jpg",
         {"img_path": "inat/val/a.jpg", "question_type": "automatic"}),
        ("infoseek_open", "M2KR_Images/Infoseek", "oven_00000001.JPEG",
         {"image_id": "oven_00000001", "question_type": "String", "data_split": "val_unseen_entity"}),
    ],
)  # fmt: skip
def test_questions_on_knowledge_read_images_from_a_folder(
    tmp_path: Path, preset: str, folder: str, name: str, columns: dict[str, str]
) -> None:
    (tmp_path / folder / name).parent.mkdir(parents=True)
    painted(3).save(tmp_path / folder / name)
    rows = [{"question_id": str(i), "question": "When?", "answers": ["1912", "in 1912"], **columns} for i in range(2)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    query = hub(preset, tmp_path / "rows.jsonl", pool_fraction=0).queries[0]
    assert query.answers == ("1912", "in 1912")
    assert query.images[0].open().size == (8, 8)


def test_mmhal_has_a_judge_that_looks_for_what_is_made_up(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{i}?", "question_type": "attribute", "question_topic": "food", "gt_answer": "Two cats.",
         "image_id": str(i), "image_content": ["cat"], "image_src": "x", "model_answer": "", "image": painted(i)}
        for i in range(2)
    ]  # fmt: skip
    query = hub("mmhal", table(tmp_path, rows), pool_fraction=0).queries[0]
    assert query.meta["question_type"] == "attribute"
    judge = build(
        "metric",
        {"name": "judge", "judge": {"name": "hf", "path": "tiny"}, "prompt": "mmhal.txt"},
    )
    prompt = judge.request("One cat.", query).texts
    assert (prompt["gold"], prompt["answer"]) == ("Two cats.", "One cat.")
    rating = build("metric", {"name": "judge_rating", "judge": {"name": "hf", "path": "tiny"}})
    with pytest.raises(DataError, match=r"needs image_content of query .* Add image_content to `columns\.meta`"):
        rating.request("One cat.", query)
    columns = {"question": "question", "image": "image", "answer": "gt_answer", "meta": ["image_content"]}
    (query,) = hub("mmhal", table(tmp_path, rows), pool_fraction=0, columns=columns, queries=1).queries
    assert "What the image shows: cat\n" in rating.request("One cat.", query).prompt.text


def test_mmvp_is_corrected_in_the_copy_with_images(tmp_path: Path) -> None:
    rows = [
        {"Index": i, "Question": "?", "Options": "(a) Long (b) Short", "image": painted(i),
         "Correct Answer": "(b)" if i % 2 else "(a)"}
        for i in range(1, 9)
    ]  # fmt: skip
    task = hub("mmvp_corrected", table(tmp_path, rows), pool_fraction=0, queries=2)
    assert [e.answer for e in task.queries] == ["Short", "Long"]
    assert task.queries[0].group == task.queries[1].group


def test_mmbench_writes_a_hint_before_the_question_and_options_behind(tmp_path: Path) -> None:
    rows = [
        {"index": str(i), "question": "which?", "hint": ("Look left.", "nan", None, "Look.")[i], "A": "cat",
         "B": "dog", "C": "nan", "D": "nan", "answer": "B", "category": "x", "L2-category": "y", "image": painted(i)}
        for i in range(4)
    ]  # fmt: skip
    task = hub("mmbench", table(tmp_path, rows), pool_fraction=0)
    assert {e.id: e.question for e in task.queries} == {
        "0": "Hint: Look left.\nwhich?", "1": "which?", "2": "which?", "3": "Hint: Look.\nwhich?",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "columns", "file"),
    [
        ("koniq10k", {"image_name": "{i}.jpg", "MOS": "3.91047619"}, "1024x768/{i}.jpg"),
        (
            "kadid10k",
            {"dist_img": "I01_0{i}_01.png", "ref_img": "I{i}.png", "dmos": "3.91047619"},
            "images/I01_0{i}_01.png",
        ),
        ("ava", {"image_id": "{i}", "score": "3.91047619"}, "images/{i}.jpg"),
        ("scut_fbp5500", {"file": "CF{i}.jpg", "score": "3.91047619"}, "Images/CF{i}.jpg"),
    ],
)
def test_sets_of_numbers_read_their_tables_and_round(
    tmp_path: Path, preset: str, columns: dict[str, str], file: str
) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(columns))
        writer.writeheader()
        for i in range(4):
            writer.writerow({name: value.format(i=i) for name, value in columns.items()})
            (tmp_path / file.format(i=i)).parent.mkdir(exist_ok=True)
            painted(i).save(tmp_path / file.format(i=i))
    task = hub(preset, tmp_path / "rows.csv")
    check_task(task)
    assert {e.answer for e in task.queries} == {"3.91"}
    assert all(e.images[0].open().size == (8, 8) for e in task.queries)


def test_an_age_is_a_number_and_another_answer_is_an_error_with_row_and_column(tmp_path: Path) -> None:
    rows = [{"age": age, "gender": "Male", "ethnicity": "Black", "image": painted(age)} for age in (30, 41)]
    task = hub("utkface", table(tmp_path, rows), pool_fraction=0)
    assert sorted(e.answer for e in task.queries) == ["30", "41"]
    path = table(tmp_path, [{**row, "age": age} for row, age in zip(rows, ("30", "young"), strict=True)])
    with pytest.raises(DataError, match=r"row 1: the answer 'young' in column 'age' is not a number\. Correct it"):
        _ = hub("utkface", path, pool_fraction=0).queries
    with pytest.raises(ConfigError, match="decimals needs answer_is: number"):
        hub("utkface", path, answer_is="text", decimals=2)


def test_mmvm_has_two_images_and_the_released_choices_as_options(tmp_path: Path) -> None:
    path = write_documented_rows("mmvm", tmp_path)
    task = hub("mmvm", path, pool_fraction=0)
    check_task(task)
    second = next(e for e in task.queries if e.id == "1")
    assert second.options == ("1", "None of the above")
    assert [image.origin.split(" (")[0].rpartition("/")[2] for image in second.images] == [
        "FRAME00.jpg", "FRAME01_CAND.jpg",
    ]  # fmt: skip
    assert len({image.digest for image in second.images}) == 2
    assert (second.answer, second.question) == ("None of the above", "Which?")
    assert [score("lenient", text, second) for text in ("B", "B. None of the above", "A", "1")] == [1, 1, 0, 0]
    facts = pd.DataFrame({"query": [e.id for e in task.queries], "meta": [e.query.meta for e in task.queries]})
    cues = dict(zip(facts["query"], column_values(facts, "match_type"), strict=True))
    assert all(cues[query] == (1 + int(query) % 2, 5) for query in facts["query"])  # released as text: "[1, 5]"


def test_mmir_scores_the_numbers_of_an_answer_as_released(tmp_path: Path) -> None:
    task = hub("mmir", write_documented_rows("mmir", tmp_path), pool_fraction=0)
    both = next(e for e in task.queries if e.answers == ("1", "2"))
    one = next(e for e in task.queries if e.answers == ("1",))
    outputs = ("3 of 5 agree. <ans>1, 2</ans>", "<ans>1</ans>", "<ans></ans> 1", "1 and 2", "none")
    assert [score("mmir", text, both) for text in outputs] == [1, 0.5, 0, 1, 0]
    assert [score("mmir", text, one) for text in outputs] == [0.5, 1, 0, 0.5, 0]
    with pytest.raises(ConfigError, match="has no column 'question'"):
        _ = hub("mmir", write_documented_rows("mmir", tmp_path, ["question"])).queries
