"""VLMEvalKit's data files: images, options, rotations and prompts, against what its reader and prompt give."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image as PILImage

import icl
from icl.errors import ConfigError, DataError
from icl.registry import build
from icl.testing.conformance import check_metric, check_task
from icl.types import Generation

COLUMNS = ("index", "image", "hint", "question", "A", "B", "C", "D", "answer", "category", "split")


def encoded(level: int) -> str:
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8), (level, 0, 90)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def row(index: int | str, image: str, **cells: str) -> dict[str, str]:
    usual = {"question": f"What is {index}?", "A": "cat", "B": "dog", "answer": "B", "category": "animals"}
    return {"index": str(index), "image": image, **usual, **cells}


def written(folder: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str] = COLUMNS) -> Path:
    path = folder / "MMB.tsv"
    pd.DataFrame([{key: r.get(key, "") for key in columns} for r in rows]).to_csv(path, sep="\t", index=False)
    return path


def task(path: Path, **keys):
    return build("task", {"name": "vlmevalkit", "path": str(path), **keys}, "x.yaml:2")


def every(path: Path, **keys):
    return task(path, pool_fraction=0, **keys).queries


def test_a_question_has_the_prompt_of_vlmevalkit_and_a_letter_as_answer(tmp_path: Path) -> None:
    path = written(tmp_path, [row(1, encoded(1), hint="Look.", C="a bird"), row(2, encoded(2))])
    first, second = every(path)
    assert first.question == (
        "Hint: Look.\nQuestion: What is 1?\nOptions:\nA. cat\nB. dog\nC. a bird\n"
        "Please select the correct answer from the options above. \n"
    )
    assert (first.options, first.answers) == (("A", "B", "C"), ("B", "dog"))
    assert second.question.startswith("Question: What is 2?\nOptions:\nA. cat\nB. dog\nPlease")
    assert first.meta == {"question": "1", "category": "animals"}
    assert first.images[0].open().getpixel((0, 0)) == (1, 0, 90)


def test_unlisted_options_are_texts_and_open_questions_have_none(tmp_path: Path) -> None:
    rows = [row(1, encoded(1)), row(2, encoded(2), A="", B="", answer="42")]
    closed, free = every(written(tmp_path, rows), listed=False)
    assert (closed.question, closed.options, closed.answers) == ("What is 1?", ("cat", "dog"), ("dog",))
    assert (free.question, free.options, free.answers) == ("What is 2?", (), ("42",))
    assert every(tmp_path / "MMB.tsv")[1].question == "What is 2?"


def test_the_answers_none_and_na_stay(tmp_path: Path) -> None:
    rows = [row(i, encoded(i), A="", B="", answer=text) for i, text in enumerate(("None", "NA", "nan", "007"))]
    assert [q.answer for q in every(written(tmp_path, rows))] == ["None", "NA", "nan", "007"]


def test_an_image_may_be_a_list_or_that_of_another_row(tmp_path: Path) -> None:
    both = str([encoded(5), encoded(6)])
    rows = [row(1, both), row(2, "1"), row(3, encoded(6)), row(4, encoded(7)), row(5, "")]
    queries = every(written(tmp_path, rows))
    assert [q.id for q in queries] == ["1", "2", "3", "4"]  # a row without an image is left out, as by VLMEvalKit
    levels = [[image.open().getpixel((0, 0))[0] for image in q.images] for q in queries]
    assert levels == [[5, 6], [5, 6], [6], [7]]
    assert [q.group for q in queries] == ["rows like 1"] * 3 + ["rows like 4"]


def test_rotations_of_a_question_are_one_group_and_never_on_both_sides(tmp_path: Path) -> None:
    rows = [row(i + 1_000_000 * turn, encoded(i)) for i in range(8) for turn in range(3)]
    path = written(tmp_path, rows)
    divided = task(path)
    check_task(divided)
    sides = [{e.meta["question"] for e in side} for side in (divided.queries, divided.pool("").examples)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == {str(i) for i in range(8)}
    assert len({q.group for q in divided.queries}) == 4


def test_circular_evaluation_needs_every_rotation_to_be_right(tmp_path: Path) -> None:
    from icl.metrics.base import ScoredSample

    rows = [row(i + 1_000_000 * turn, encoded(0)) for i in range(2) for turn in range(2)]
    queries = every(written(tmp_path, rows))
    circular = build("metric", {"name": "group_accuracy", "by": "question"})
    check_metric(circular)
    outputs = ["B", "B", "B", "A"]
    samples = [
        ScoredSample(q.id, circular.score(Generation(text), q), q.group, text, q.answers, q.options, q.meta)
        for q, text in zip(queries, outputs, strict=True)
    ]
    assert [s.meta["question"] for s in samples] == ["0", "0", "1", "1"]
    assert circular.run_level(samples).statistic == 0.5
    by_image = build("metric", "group_accuracy")
    assert by_image.run_level(samples).statistic == 0.0  # all four share one image


def test_splits_are_values_of_the_column(tmp_path: Path) -> None:
    rows = [row(i, encoded(i), split="dev" if i < 3 else "test") for i in range(8)]
    path = written(tmp_path, rows)
    split = task(path, split="test", pool_split="dev", queries=2)
    assert ({q.id for q in split.queries} <= {"3", "4", "5", "6", "7"}, split.pool_size) == (True, 3)
    with pytest.raises(DataError, match=r"has no split 'tst'\. Did you mean 'test'\? It has: dev, test"):
        _ = task(path, split="tst").queries
    with pytest.raises(ConfigError, match="is also the split of the queries"):
        task(path, split="dev", pool_split="dev")


def test_images_may_be_paths_beside_the_file_and_not_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    PILImage.new("RGB", (8, 8), (9, 0, 0)).save(tmp_path / "images" / "a.png")
    rows = [row(1, "", image_path="images/a.png"), row(2, "", image_path="['images/a.png', 'images/a.png']")]
    columns = ["image_path", *(c for c in COLUMNS if c != "image")]
    one, two = every(written(tmp_path, rows, columns))
    assert (len(one.images), len(two.images), one.images[0].open().getpixel((0, 0))) == (1, 2, (9, 0, 0))
    outside = written(tmp_path, [row(1, "", image_path="../secret.png")], columns)
    with pytest.raises(DataError, match=r"the path '\.\./secret\.png' points outside"):
        every(outside)


def test_indices_may_have_any_number_of_digits(tmp_path: Path) -> None:
    path = written(tmp_path, [row("9" * 5000, encoded(1)), row("7" + "9" * 5000, encoded(2)), row(2000005, encoded(3))])
    assert [q.meta["question"] for q in every(path)] == ["999999", "999999", "5"]


@pytest.mark.parametrize("cell", [r"['a\x00.png']", "[" * 5000, "[{[]: 1}]"])
def test_a_path_that_no_file_can_have_is_an_error_of_the_row(tmp_path: Path, cell: str) -> None:
    columns = ["image_path", *(c for c in COLUMNS if c != "image")]
    with pytest.raises(DataError, match="index 1, image 0"):
        every(written(tmp_path, [row(1, "", image_path=cell)], columns))[0].images[0].open()


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([row(1, encoded(1))], ("index", "image", "question"), "has no column 'answer'. Its columns: index, image"),
        ([row(1, encoded(1))], ("index", "question", "answer"), "neither a column 'image' nor 'image_path'"),
        ([row(1, encoded(1)), row(1, "1")], COLUMNS, "two rows have the same index"),
        ([row(1, "7")], COLUMNS, "index 1: its image is that of index 7, which has none"),
        ([row(1, encoded(1), answer="D")], COLUMNS, "index 1: the answer 'D' is none of the letters A, B"),
        ([row(1, encoded(1), answer="")], COLUMNS, "index 1 has no answer. Use a split with public answers"),
        ([], COLUMNS, "has no rows"),
        ([row(1, ""), row(2, "")], COLUMNS, "no row has an image. The column 'image' is empty"),
    ],
)
def test_bad_files_are_errors_with_the_row(tmp_path: Path, rows, columns, message: str) -> None:
    path = written(tmp_path, rows, columns)
    if not rows:
        path.write_text("\t".join(columns) + "\n")
    with pytest.raises(DataError, match=message):
        every(path)


def test_a_missing_file_and_a_broken_image_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*no\.tsv"):
        every(tmp_path / "no.tsv")
    (broken,) = every(written(tmp_path, [row(1, "?" * 80)]))
    with pytest.raises(DataError, match="index 1, image 0 cannot be read: it is not base64"):
        broken.images[0].open()
    with pytest.raises(ConfigError, match="the column 'answer' is the gold"):
        task(tmp_path / "MMB.tsv", meta=["answer"])
    with pytest.raises(ConfigError, match="meta: 'question' is the number of the question"):
        task(tmp_path / "MMB.tsv", meta=["question"])
    with pytest.raises(DataError, match=r"cannot be read as a TSV file: .*File name too long"):
        every(tmp_path / ("x" * 5000))


def test_a_run_on_a_file_has_demonstrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, [row(i, encoded(i), answer="AB"[i % 2]) for i in range(12)])
    monkeypatch.chdir(tmp_path)
    run = icl.run(
        {"name": "t", "task": {"name": "vlmevalkit", "path": "MMB.tsv"}, "model": "fake-vote", "shots": 2}, quiet=True
    )
    frame = run.samples()
    assert len(frame) == 6
    assert {demo[2] for demos in frame["demos"] for demo in demos} <= {"A", "B"}
    assert frame["lenient"].notna().all()
