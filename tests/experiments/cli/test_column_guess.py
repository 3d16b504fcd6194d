"""`icl new study --data` maps the columns of files as people write them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from experiments.config.config import load_config
from experiments.grid.feasibility import check_data
from experiments.grid.grid import expand

ICL = Callable[..., Any]
COLORS = ("red", "green", "blue", "yellow")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def rows(folder: Path, count: int = 16) -> list[dict[str, Any]]:
    """Questions about images of one color, as paths."""
    for i in range(count):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
    return [{"img": f"{i}.png", "query": f"Which color is {i}?", "label": COLORS[i % 4]} for i in range(count)]


def guessed(icl: ICL, folder: Path, data: str) -> tuple[dict[str, Any], str]:
    """The task of a new study, which has to be usable, and what the command prints."""
    done = icl("new", "study", "mine", "--data", data)
    assert done.status == 0, done.err
    config = load_config(folder / "mine.yaml")
    (folder / "mine.yaml").rename(folder / "seen.yaml")
    return dict(config.task), done.out


def test_json_lines_with_paths_of_images(icl: ICL, tmp_path: Path) -> None:
    lines = [
        {**row, "kind": "ab"[i % 2], "split": "train" if i < 8 else "test"} for i, row in enumerate(rows(tmp_path))
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task, out = guessed(icl, tmp_path, "d.jsonl")
    assert task["columns"] == {"image": "img", "question": "query", "answer": "label"}
    assert (task["path"], task["split"], task["pool_split"]) == ("d.jsonl", "test", "train")
    text = (tmp_path / "seen.yaml").read_text()
    assert "# by: [kind]" in text
    assert "No column" not in out
    check_data(expand(load_config(tmp_path / "seen.yaml")))


def test_a_table_with_options_in_columns_and_letters(icl: ICL, tmp_path: Path) -> None:
    with (tmp_path / "d.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(["id", "img", "question", "A", "B", "C", "D", "answer"])
        table.writerows([i, row["img"], row["query"], *COLORS, "ABCD"[i % 4]] for i, row in enumerate(rows(tmp_path)))
    task, _ = guessed(icl, tmp_path, "d.csv")
    assert task["columns"]["options"] == ["A", "B", "C", "D"]
    assert (task["columns"]["id"], task["answer_is"]) == ("id", "letter")
    assert "answer_is: letter  # guess: answers are such as A" in (tmp_path / "seen.yaml").read_text()
    check_data(expand(load_config(tmp_path / "seen.yaml")))


@pytest.mark.parametrize(
    ("choices", "answers", "expected"),
    [
        (["3", "1", "2"], [1, 2, 3], (None, ["1", "2", "3"])),
        ([4, 5, 2], [2, 5, 4], (None, ["2", "5", "4"])),
        (["B", "C", "A"], ["A", "B", "C"], (None, ["A", "B", "C"])),
        (["a dog", "a cat", "no"], ["2", "0", "1"], ("index", ["no", "a dog", "a cat"])),
        (["a dog", "a cat", "no"], ["(c)", "(a)", "(b)"], ("letter", ["no", "a dog", "a cat"])),
    ],
)
def test_answers_are_texts_if_they_are_options_and_else_point_to_one(
    icl: ICL, tmp_path: Path, choices: Any, answers: Any, expected: tuple[str | None, list[str]]
) -> None:
    answer_is, gold = expected
    lines = [row | {"label": answers[i % 3], "choices": choices} for i, row in enumerate(rows(tmp_path, 12))]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert guessed(icl, tmp_path, "d.jsonl")[0].get("answer_is") == answer_is
    task = expand(load_config(tmp_path / "seen.yaml")).tasks[0]
    examples = [*task.queries, *task.pool(task.queries[0].id).examples]
    assert {e.question: e.answer for e in examples} == {f"Which color is {i}?": gold[i % 3] for i in range(12)}


def test_a_study_without_images_is_usable(icl: ICL, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("question,answer\n" + "".join(f"{i} + 1?,{i + 1}\n" for i in range(12)))
    guessed(icl, tmp_path, "d.csv")
    grid = expand(load_config(tmp_path / "seen.yaml"))
    check_data(grid)
    assert {cell.labels["decoding"] for cell in grid.cells} >= {"greedy"}


@pytest.mark.parametrize("line_break", ["\n", "\u2028", "\x85"])
def test_names_and_values_of_the_data_write_no_key_of_the_study(icl: ICL, tmp_path: Path, line_break: str) -> None:
    key = f"{line_break}seeds: [7]"
    lines = [row | {"split": "test", key: "x"} for row in rows(tmp_path, 12)]
    lines[0] |= {"split": f"train{key}"}
    for row in lines:
        del row["label"]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert icl("new", "study", "mine", "--data", "d.jsonl").status == 0
    study = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert (study["seeds"], study["task"]["split"]) == ([0, 1], "test")


def test_parquet_and_a_saved_folder_with_embedded_images(icl: ICL, tmp_path: Path) -> None:
    features = Features(photo=ImageFeature(), question=Value("string"), answer=Value("string"))
    made = [{"photo": str(tmp_path / r["img"]), "question": r["query"], "answer": r["label"]} for r in rows(tmp_path)]
    data = Dataset.from_list(made, features=features)
    data.to_parquet(tmp_path / "d.parquet")
    DatasetDict(train=data.select(range(8)), test=data.select(range(8, 16))).save_to_disk(tmp_path / "saved")
    task, _ = guessed(icl, tmp_path, "d.parquet")
    assert task["columns"] == {"image": "photo", "question": "question", "answer": "answer"}
    task, _ = guessed(icl, tmp_path, "saved")
    assert (task["split"], task["pool_split"]) == ("test", "train")
    check_data(expand(load_config(tmp_path / "seen.yaml")))


def test_a_folder_of_classes(icl: ICL, tmp_path: Path) -> None:
    for i, color in enumerate(COLORS * 4):
        (tmp_path / "birds" / color).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "birds" / color / f"{i}.png")
    task, out = guessed(icl, tmp_path, "birds")
    assert (task["columns"], task["answer_is"]) == ({"image": "image", "answer": "label"}, "class")
    assert "every row is asked the same" in out
    check_data(expand(load_config(tmp_path / "seen.yaml")))


@pytest.mark.parametrize(
    ("answer", "answer_is"),
    [
        (str, "index"),
        (float, "index"),
        (lambda i: ["ABCD"[i]], "letter"),
        (COLORS.__getitem__, None),
    ],
)
def test_answers_that_point_to_options(icl: ICL, tmp_path: Path, answer: Any, answer_is: str | None) -> None:
    lines = [{**row, "options": COLORS, "label": answer(i % 4)} for i, row in enumerate(rows(tmp_path))]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task, _ = guessed(icl, tmp_path, "d.jsonl")
    assert task.get("answer_is") == answer_is
    check_data(expand(load_config(tmp_path / "seen.yaml")))


def test_names_of_options_need_no_key(icl: ICL, tmp_path: Path) -> None:
    named = dict(zip("1234", COLORS, strict=True))
    lines = [{**row, "options": named, "label": i % 4 + 1} for i, row in enumerate(rows(tmp_path))]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task, out = guessed(icl, tmp_path, "d.jsonl")
    assert "answer_is" not in task
    assert "cannot be used" not in out
    check_data(expand(load_config(tmp_path / "seen.yaml")))


def test_a_folder_with_validation_takes_demonstrations_from_train(icl: ICL, tmp_path: Path) -> None:
    for i in range(16):
        folder = tmp_path / "birds" / ("val" if i < 4 else "train") / COLORS[i % 4]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
    task, _ = guessed(icl, tmp_path, "birds")
    assert (task["split"], task["pool_split"]) == ("validation", "train")


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([{"question": f"{i}?", "answer": "x"} for i in range(9)], "No column has images"),
        (
            [{"question": f"{i}?", "thing": [i]} for i in range(9)],
            "No column of answers was found among question, thing",
        ),
        ([{"question": "a?", "answer": "x"}], "The data has one row"),
        (
            [{"question": f"{i}?", "image": "iVBORw0KGgo", "answer": "x"} for i in range(9)],
            "The column 'image' has no images and no paths of images: 'iVBORw0KGgo'",
        ),
        ([{"id": 1, "question": f"{i}?", "answer": "x"} for i in range(9)], "Several rows have the same 'id'"),
        (
            [{"split": "eval", "question": f"{i}?", "answer": "x"} for i in range(9)],
            "The column 'split' has eval: set `split`",
        ),
    ],
)
def test_what_cannot_be_guessed_is_a_sentence(icl: ICL, tmp_path: Path, lines: Any, sentence: str) -> None:
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = icl("new", "study", "mine", "--data", "d.jsonl")
    assert (done.status, sentence in done.out) == (0, True), done.out + done.err
    assert (tmp_path / "mine.yaml").is_file()


def test_data_that_are_none_are_an_error_and_no_study_is_written(icl: ICL, tmp_path: Path) -> None:
    done = icl("new", "study", "mine", "--data", "none.jsonl")
    assert (done.status, "no file or folder none.jsonl" in done.err) == (2, True)
    assert not (tmp_path / "mine.yaml").exists()
    done = icl("new", "metric", "mine", "--data", "none.jsonl")
    assert (done.status, "--data is the data of a study" in done.err) == (2, True)
