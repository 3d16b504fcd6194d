"""Tests of `hub` on local data sets of five kinds."""

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage

from experiments.grid.feasibility import data_digests
from icl.errors import ConfigError, DataError, ImageError
from icl.loading import component_search_folder
from icl.metrics.hallucination import ChairI
from icl.registry import build, describe
from icl.tasks.base import connected_components
from icl.types import Generation
from retrievers.base import EXCLUDE_LEAKS

COLORS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 128, 0), "black": (0, 0, 0)}
COLUMNS = {"question": "ask", "image": "image", "answer": "said"}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def painted(name: str, size: int = 8) -> PILImage.Image:
    return PILImage.new("RGB", (size, size), COLORS[name])


def png(name: str) -> bytes:
    buffer = io.BytesIO()
    painted(name).save(buffer, "PNG")
    return buffer.getvalue()


def rows(*names: str) -> dict[str, list]:
    return {
        "ask": [f"which color is number {i}?" for i in range(len(names))],
        "image": [painted(name) for name in names],
        "said": list(names),
    }


def dataset(*names: str) -> Dataset:
    return Dataset.from_dict(rows(*names), features=Features(ask=Value("string"), image=Image(), said=Value("string")))


def task(path, **more):
    return build("task", {"name": "hub", "path": str(path), "columns": COLUMNS, **more}, "x.yaml:2")


def check_colors(loaded, pool_too: bool = True) -> None:
    every = [*loaded.queries, *(loaded.pool("").examples if pool_too else ())]
    assert every
    for example in every:
        assert example.images[0].open().getpixel((3, 3)) == COLORS[example.answer]
        assert example.question.startswith("which color is number ")


def test_reads_a_folder_saved_to_disk_with_splits(tmp_path):
    DatasetDict(train=dataset("red", "blue", "green"), test=dataset("black", "red")).save_to_disk(tmp_path / "d")
    loaded = task(tmp_path / "d", split="test", pool_split="train")
    check_colors(loaded)
    assert (len(loaded.queries), loaded.pool_size) == (2, 3)
    assert [e.id for e in loaded.queries] == ["test-000000", "test-000001"]


def test_reads_parquet_files_of_a_folder_and_a_single_one(tmp_path):
    dataset("red", "blue", "green").to_parquet(tmp_path / "train.parquet")
    dataset("black", "red").to_parquet(tmp_path / "test.parquet")
    folder = task(tmp_path, split="test", pool_split="train")
    files = task(tmp_path / "test.parquet", pool_path=str(tmp_path / "train.parquet"))
    for loaded in (folder, files):
        check_colors(loaded)
        assert (len(loaded.queries), loaded.pool_size) == (2, 3)
    assert not {e.id for e in files.queries} & set(files.pool("").by_id)


def test_reads_an_image_folder_with_one_question_for_all(tmp_path):
    for split in ("train", "test"):
        for name in ("red", "blue"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                painted(name, 8 + i + 10 * (split == "test")).save(folder / f"{i}.png")
    loaded = build(
        "task",
        {
            "name": "hub",
            "path": str(tmp_path),
            "pool_split": "train",
            "columns": {"image": "image", "answer": "label", "label": "label"},
            "question": "What is this?",
            "options": ["red", "blue"],
        },
    )
    assert {e.question for e in loaded.queries} == {"What is this?"}
    assert sorted(e.answer for e in loaded.queries) == ["blue"] * 3 + ["red"] * 3
    for example in (*loaded.queries, *loaded.pool("").examples):
        assert example.images[0].open().getpixel((3, 3)) == COLORS[example.answer]
        assert example.label == example.answer
        assert example.options == ("red", "blue")


def test_reads_json_lines_whose_images_are_paths_from_their_folder(tmp_path):
    (tmp_path / "pics").mkdir()
    for name in COLORS:
        painted(name).save(tmp_path / "pics" / f"{name}.png")
    lines = [{"ask": "which color is number 0?", "image": f"pics/{name}.png", "said": name} for name in COLORS]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    loaded = task(tmp_path / "test.jsonl", pool_fraction=0.5)
    check_colors(loaded)
    assert (len(loaded.queries), loaded.pool_size) == (2, 2)


def test_reads_several_images_of_one_column_and_of_several_columns(tmp_path):
    features = Features(images=List(Image()), more=Image(), ask=Value("string"), said=Value("string"))
    data = Dataset.from_dict(
        {
            "images": [[painted("red"), painted("blue")], [painted("green")]],
            "more": [painted("black"), None],
            "ask": ["?", "?"],
            "said": ["a", "b"],
        },
        features=features,
    )
    data.to_parquet(tmp_path / "d.parquet")
    loaded = task(
        tmp_path / "d.parquet",
        columns={"question": "ask", "image": ["images", "more"], "answer": "said"},
        pool_fraction=0,
    )
    first, second = sorted(loaded.queries, key=lambda e: e.id)
    assert [p.open().getpixel((0, 0)) for p in first.images] == [COLORS[n] for n in ("red", "blue", "black")]
    assert second.images[0].open().getpixel((0, 0)) == COLORS["green"]
    assert len(second.images) == 1  # of several columns, a row may leave some empty


def test_an_unreadable_image_fails_when_it_is_opened_and_not_before(tmp_path):
    data = Dataset.from_dict(
        {
            "ask": ["?", "?"],
            "image": [{"bytes": png("red"), "path": None}, {"bytes": png("blue")[:40], "path": None}],
            "said": ["red", "blue"],
        },
        features=Features(ask=Value("string"), image=Image(decode=False), said=Value("string")),
    )
    data.save_to_disk(tmp_path / "d")
    good, bad = task(tmp_path / "d", pool_fraction=0).queries
    assert good.images[0].open().size == (8, 8)
    with pytest.raises(ImageError, match=r"d\[test\] row 1, column 'image'"):
        bad.images[0].open()


def test_a_missing_image_file_is_named_when_it_is_opened(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"ask": "?", "image": "no.png", "said": "red"}\n')
    (query,) = task(tmp_path / "t.jsonl", pool_fraction=0).queries
    with pytest.raises(ImageError, match=r"no\.png .* does not exist"):
        query.images[0].open()


def test_a_missing_column_is_an_error_with_the_columns_there_are(tmp_path):
    dataset("red", "blue").to_parquet(tmp_path / "d.parquet")
    wrong = task(tmp_path / "d.parquet", columns=COLUMNS | {"image": "imag"})
    with pytest.raises(ConfigError, match=r"columns\.image: .* no column 'imag'\. Did you mean 'image'\? Columns: ask"):
        _ = wrong.queries
    with pytest.raises(ConfigError, match=r"question: .* no column 'object'"):
        _ = task(tmp_path / "d.parquet", question="is there {object}?").queries


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"columns": {"image": "image", "anser": "said"}}, "columns has no 'anser'. Did you mean 'answer'?"),
        ({"columns": {"question": "ask", "image": "image"}}, "columns has no 'answer'"),
        ({"columns": {"image": "image", "answer": "said"}}, "no question"),
        ({"columns": COLUMNS | {"id": ["a", "b"]}}, "columns.id is one column"),
        ({"pool_split": "test"}, "pool_split 'test' is also the split of the queries"),
        ({"answer_is": "letter"}, "answer_is: letter needs options"),
        (
            {"question": "what is {ask?"},
            "question: expected '}' before end of string. Write {{ and }} for literal braces",
        ),
        ({"question": "what is ask}?"}, "question: Single '}' encountered in format string. Write {{ and }}"),
        ({"question": "what is {}?"}, "question: {} has no column name in the braces."),
        ({"columns": {"answer": None}}, "task 'hub', columns.answer: no value. Write one after the colon"),
    ],
)
def test_a_wrong_map_is_refused_before_any_data_is_read(change, says):
    with pytest.raises(ConfigError) as error:
        task("/nowhere", **change)
    assert says in str(error.value)
    assert str(error.value).startswith("x.yaml:2: task 'hub'")


def test_an_unknown_split_and_an_unknown_path_are_errors_with_a_remedy(tmp_path):
    DatasetDict(train=dataset("red"), test=dataset("black")).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match=r"no split 'tset'\. Did you mean 'test'\? Splits: train, test\."):
        _ = task(tmp_path / "d", split="tset").queries
    (tmp_path / "d.txt").write_text("")
    with pytest.raises(DataError, match=r"a file is one of \.parquet"):
        _ = task(tmp_path / "d.txt").queries


def rows_of_splits(path: Path, **counts: int) -> Path:
    """JSON lines without images: `counts` rows of each split."""
    lines = [
        {"ask": f"which color is {split} {i}?", "said": list(COLORS)[i % 4], "split": split}
        for split, count in counts.items()
        for i in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_the_column_split_of_a_file_names_the_split_of_each_row(tmp_path):
    path = rows_of_splits(tmp_path / "d.jsonl", train=8, test=4)
    columns = {"question": "ask", "answer": "said"}
    loaded = task(path, columns=columns, split="test", pool_split="train")
    assert [e.question for e in loaded.queries] == [f"which color is test {i}?" for i in range(4)]
    assert [e.question for e in loaded.pool("").examples] == [f"which color is train {i}?" for i in range(8)]
    by_default = task(path, columns=columns, pool_split="train")
    assert by_default.queries == loaded.queries
    divided = task(path, columns=columns, split="train")
    questions = [e.question for e in (*divided.queries, *divided.pool("").examples)]
    assert sorted(questions) == [f"which color is train {i}?" for i in range(8)]
    undivided = task(path, columns=columns)
    assert len(undivided.queries) + undivided.pool_size == 12


@pytest.mark.parametrize("keys", [{"split": "validation"}, {"split": "test", "pool_split": "dev"}])
def test_a_split_that_no_row_of_a_file_has_is_refused(tmp_path, keys):
    path = rows_of_splits(tmp_path / "d.jsonl", train=3, test=2)
    loaded = task(path, columns={"question": "ask", "answer": "said"}, **keys)
    with pytest.raises(DataError, match=r"no row has '(validation|dev)' in the column 'split'.* Values: train, test\."):
        _ = loaded.queries, loaded.pool_size


def test_a_file_without_splits_has_only_the_one_that_its_name_contains(tmp_path):
    dataset("red", "blue", "green").to_parquet(tmp_path / "birds_train.parquet")
    loaded = task(tmp_path / "birds_train.parquet", split="train")
    assert len(loaded.queries) + loaded.pool_size == 3
    for keys in ({"split": "validation"}, {"split": "train", "pool_split": "test"}, {"pool_split": "train"}):
        refused = task(tmp_path / "birds_train.parquet", **keys)
        with pytest.raises(DataError, match="it has no column 'split', and its name does not contain '"):
            _ = refused.queries, refused.pool_size


def test_a_preset_takes_one_file_whatever_split_it_reads_on_the_hub(tmp_path):
    rows_ = {"question": ["a?", "b?", "c?", "d?"], "image": [painted(c) for c in COLORS], "answer": [0, 1, 0, 1]}
    features = Features(question=Value("string"), image=Image(), answer=Value("int64"), choices=List(Value("string")))
    data = Dataset.from_dict({**rows_, "choices": [["x", "y"]] * 4}, features=features)
    data.to_parquet(tmp_path / "d.parquet")
    loaded = build("task", {"name": "hub", "preset": "scienceqa", "path": str(tmp_path / "d.parquet")})
    assert len(loaded.queries) == loaded.pool_size == 2
    assert not {e.images[0].digest for e in loaded.queries} & {e.images[0].digest for e in loaded.pool("").examples}


def test_a_pool_of_the_rows_that_are_queries_is_refused_unless_it_is_asked_for(tmp_path):
    DatasetDict(train=dataset("red", "blue"), test=dataset("blue", "red")).save_to_disk(tmp_path / "d")
    for name in ("a", "b"):
        dataset("red", "blue").to_parquet(tmp_path / f"{name}.parquet")
    copies = task(tmp_path / "a.parquet", pool_path=str(tmp_path / "b.parquet"))
    with pytest.raises(DataError, match=r"has the same rows as the queries .* leave_one_out: true"):
        _ = copies.pool_size
    with pytest.raises(ConfigError, match="leave_one_out: true"):
        task(tmp_path / "a.parquet", pool_path=str(tmp_path / "a.parquet"))
    with pytest.raises(ConfigError, match="Remove pool_split and pool_path"):
        task(tmp_path / "d", pool_split="train", leave_one_out=True)
    loaded = task(tmp_path / "a.parquet", leave_one_out=True)
    assert [e.id for e in loaded.queries] == [e.id for e in loaded.pool("").examples]
    assert EXCLUDE_LEAKS.allowed_for(loaded.queries[0].query)(loaded.pool("").examples[1])
    assert not EXCLUDE_LEAKS.allowed_for(loaded.queries[0].query)(loaded.pool("").examples[0])


def test_one_split_is_divided_by_group_and_no_group_is_on_both_sides(tmp_path):
    names = [n for n in COLORS for _ in range(5)]
    data = dataset(*names).add_column("scene", [f"s{i // 5}" for i in range(20)])
    data.to_parquet(tmp_path / "d.parquet")
    loaded = task(tmp_path / "d.parquet", columns=COLUMNS | {"group": "scene"})
    queries, pool = {e.group for e in loaded.queries}, {e.group for e in loaded.pool("").examples}
    assert len(queries) == len(pool) == 2
    assert not queries & pool


def test_one_split_without_groups_is_divided_by_common_images(tmp_path):
    dataset(*[n for n in COLORS for _ in range(5)]).to_parquet(tmp_path / "d.parquet")
    loaded = task(tmp_path / "d.parquet")
    queries, pool = ({e.images[0].digest for e in side} for side in (loaded.queries, loaded.pool("").examples))
    assert len(queries) == len(pool) == 2
    assert not queries & pool


def test_a_split_of_one_group_cannot_be_divided(tmp_path):
    dataset("red", "red", "red").to_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"too few groups of rows \(1\)"):
        _ = task(tmp_path / "d.parquet").queries


def test_rows_are_connected_through_others():
    assert connected_components([["a"], ["b"], ["c"], ["b", "c"], ["c", "d"], ["e"], []]) == [0, 1, 1, 1, 1, 5, 6]


def test_questions_about_one_image_are_a_group_without_a_group_column(tmp_path):
    DatasetDict(train=dataset("red"), test=dataset("red", "blue", "red", "green")).save_to_disk(tmp_path / "d")
    groups = [e.group for e in task(tmp_path / "d", pool_split="train").queries]
    assert groups[0] == groups[2]
    assert len(set(groups)) == 3


def test_limits_are_nested_choices_that_do_not_depend_on_each_other(tmp_path):
    names = [list(COLORS)[i % 4] for i in range(40)]
    data = dataset(*names).add_column("scene", [f"s{i}" for i in range(40)])
    data.to_parquet(tmp_path / "d.parquet")

    def ids(**more):
        return [e.id for e in task(tmp_path / "d.parquet", columns=COLUMNS | {"group": "scene"}, **more).queries]

    assert ids(queries=4) == ids(queries=9, pool_size=3)[:4]
    assert set(ids(queries=9)) < set(ids())
    assert ids(queries=9) != ids(queries=9, seed=1)


def test_answers_are_read_as_text_mapped_and_pointed_to(tmp_path):
    features = Features(
        number=Value("int64"), flag=Value("bool"), kind=ClassLabel(names=["cat", "dog"]), some=List(Value("string")),
        votes=List({"answer": Value("string")}), choices=List(Value("string")), letter=Value("string"),
        half=Value("float64"),
    )  # fmt: skip
    row = {
        "number": 1, "flag": True, "kind": 1, "some": ["two", "2", "two"], "votes": [{"answer": "x"}, {"answer": "y"}],
        "choices": ["red", "blue"], "letter": "B", "half": 3.0,
    }  # fmt: skip
    Dataset.from_list([row], features=features).to_parquet(tmp_path / "d.parquet")

    def answers(column, **more):
        columns = {"answer": column} | more.pop("extra", {})
        loaded = build("task", {"name": "hub", "path": str(tmp_path / "d.parquet"), "columns": columns, "question": "?",
                               "pool_fraction": 0, **more})  # fmt: skip
        return loaded.queries[0].answers

    assert answers("number") == ("1",)
    assert answers("flag") == ("yes",)
    assert answers("kind") == ("dog",)
    assert answers("half") == ("3",)
    assert answers("some") == ("two", "2")
    assert answers("votes") == ("x", "y")
    assert answers("number", answer_map={0: False, 1: True}, options=[True, False]) == ("yes",)
    assert answers("kind", answer_map={"dog": "hound", "cat": "tom"}) == ("hound",)
    assert answers("number", answer_is="index", extra={"options": "choices"}) == ("blue",)
    assert answers("letter", answer_is="letter", extra={"options": "choices"}) == ("blue",)
    with pytest.raises(DataError, match=r"row 0: answer_map has no '1'\. It has: 0\."):
        answers("number", answer_map={0: "no"})
    with pytest.raises(DataError, match="row 0: the answer 'B' is not the letter of one of its 1 options"):
        answers("letter", answer_is="letter", options=["a"])


def test_a_row_without_an_answer_is_named(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"ask": "?", "said": "a"}\n{"ask": "?", "said": null}\n')
    with pytest.raises(DataError, match=r"row 1 has no answer in column 'said'"):
        _ = task(tmp_path / "t.jsonl", columns={"question": "ask", "answer": "said"}, pool_fraction=0).queries


def test_a_number_that_is_none_is_no_answer(tmp_path):
    Dataset.from_dict({"ask": ["?", "?"], "said": [1.0, float("nan")]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"row 1 has no answer in column 'said'"):
        _ = task(tmp_path / "t.parquet", columns={"question": "ask", "answer": "said"}, pool_fraction=0).queries


def test_a_row_without_a_question_is_named(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"ask": "?", "said": "a"}\n{"ask": null, "said": "b"}\n')
    with pytest.raises(DataError, match=r"row 1 has no question in column 'ask'"):
        _ = task(tmp_path / "t.jsonl", columns={"question": "ask", "answer": "said"}, pool_fraction=0).queries


def test_a_question_that_does_not_fit_its_column_is_named(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"ask": "?", "said": "a"}\n')
    with pytest.raises(DataError, match=r"row 0: the question 'what is \{ask:d\}' cannot be filled in"):
        _ = task(tmp_path / "t.jsonl", columns={"answer": "said"}, question="what is {ask:d}", pool_fraction=0).queries


def test_a_cell_that_is_no_image_fails_when_it_is_opened(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"ask": "?", "image": 7, "said": "red"}\n')
    (query,) = task(tmp_path / "t.jsonl", pool_fraction=0).queries
    with pytest.raises(ImageError, match="7 is neither an image nor the path of one"):
        query.images[0].open()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.jsonl", "", r"there is nothing in it\."),
        ("t.json", "[]", r"there is nothing in it\."),
        ("t.csv", "ask,said\n", r"there is nothing in it\."),
        ("t.jsonl", '{"ask": "?", "said": "a"}\n{garbage\n', r"line 2 is not JSON \(Expecting"),
        ("t.json", '[{"ask": "?"},\n{"ask"', r"line 2 is not JSON \(Expecting ':' delim.*complete\?"),
    ],
)
def test_a_file_that_is_no_data_says_why(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"data set .*{name}, split 'test': {says}"):
        _ = task(tmp_path / name, columns={"question": "ask", "answer": "said"}).queries


def test_a_table_without_rows_says_so(tmp_path):
    pd.DataFrame({"ask": [], "said": []}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"there is nothing in it\."):
        _ = task(tmp_path / "t.parquet", columns={"question": "ask", "answer": "said"}).queries


def test_a_folder_with_a_script_is_refused_and_the_script_does_not_run(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(DataError, match=r"scripts are no longer supported, but found mine\.py"):
        _ = task(folder, columns={"question": "ask", "answer": "said"}).queries
    assert not (tmp_path / "ran").exists()


def rows_of(folder, rows, **keys):
    """The task of own rows with options."""
    (folder / "t.jsonl").write_text("\n".join(json.dumps({"ask": "?", **row}) for row in rows))
    columns = {"question": "ask", "options": "options", "answer": "said"}
    return task(folder / "t.jsonl", columns=columns, pool_fraction=0, **keys)


@pytest.mark.parametrize("option", [["cat"], {"label": "A", "text": "cat"}])
def test_an_option_that_is_no_text_is_refused(tmp_path, option):
    loaded = rows_of(tmp_path, [{"options": [option, option], "said": "cat"}])
    with pytest.raises(DataError, match=r"row 0: an option in column 'options' is not a text"):
        _ = loaded.queries


@pytest.mark.parametrize("answer_is", ["text", "letter", "index"])
def test_an_answer_may_be_the_name_of_an_option(tmp_path, answer_is):
    numbered = [{"options": {str(i): f"thing {i}" for i in range(1, 12)}, "said": str(i)} for i in (1, 2, 10)]
    loaded = rows_of(tmp_path, numbered, answer_is=answer_is)
    assert [query.answers for query in loaded.queries] == [("thing 1",), ("thing 2",), ("thing 10",)]
    assert loaded.queries[0].options == tuple(f"thing {i}" for i in range(1, 12))
    gap = rows_of(tmp_path, [{"options": {"A": "cat", "B": None, "C": "dog"}, "said": "C."}], answer_is=answer_is)
    assert (gap.queries[0].answers, gap.queries[0].options) == (("dog",), ("cat", "dog"))


def test_a_text_that_is_also_the_name_of_another_option_is_read_as_a_text(tmp_path):
    (query,) = rows_of(tmp_path, [{"options": {"A": "B", "B": "A"}, "said": "A"}]).queries
    assert query.answers == ("A",)


def test_options_that_are_listed_by_letters_lose_letters_of_their_own(tmp_path):
    row = {"options": ["A. cat", "B. a dog"], "said": "B. a dog"}
    (query,) = rows_of(tmp_path, [row]).queries
    assert (query.options, query.answers) == (("cat", "a dog"), ("a dog",))
    (query,) = rows_of(tmp_path, [row], list_options="none").queries
    assert query.options == ("A. cat", "B. a dog")
    (query,) = rows_of(tmp_path, [{"options": ["A. Lincoln", "J. Adams"], "said": "J. Adams"}]).queries
    assert query.options == ("A. Lincoln", "J. Adams")


def test_an_index_outside_the_options_says_where_they_begin(tmp_path):
    with pytest.raises(DataError, match=r"the answer 2 is not the index of one of its 2 options \(0 is the first\)"):
        _ = rows_of(tmp_path, [{"options": ["cat", "dog"], "said": 2}], answer_is="index").queries


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("https://example.com/a.png", "is an address"),
        ("data:image/png;base64,iVBORw0KGgo=", "not a path"),
        ("i" * 5000, "not a path"),
    ],
)
def test_an_address_or_encoded_image_is_a_sentence(tmp_path, image, says):
    (tmp_path / "t.jsonl").write_text(json.dumps({"ask": "?", "image": image, "said": "red"}))
    with pytest.raises(DataError, match=f"row 0: the image .* {says}"):
        _ = task(tmp_path / "t.jsonl", pool_fraction=0).queries


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("name", ["t.jsonl", "t.csv"])
def test_text_that_is_not_utf8_is_a_sentence(tmp_path, name, encoding):
    text = '{"ask": "Größe?", "said": "a"}\n' if name == "t.jsonl" else "ask,said\nGröße?,a\n"
    (tmp_path / name).write_text(text, encoding=encoding)
    with pytest.raises(DataError, match=rf"{name}, .* its text is not UTF-8. Save it as UTF-8"):
        _ = task(tmp_path / name, columns={"question": "ask", "answer": "said"}).queries


def test_a_folder_of_other_files_is_a_sentence(tmp_path):
    (tmp_path / "a.json").write_text('{"ask": "?", "said": "red"}')
    (tmp_path / "b.json").write_text('{"version": [1, 2]}')
    with pytest.raises(DataError, match=r"its files have different columns\. Use one of them as the path"):
        _ = task(tmp_path).queries


def test_a_table_of_a_spreadsheet_has_a_byte_order_mark_and_semicolons(tmp_path):
    (tmp_path / "t.csv").write_text("ask;said\nWhat, please?;red, green\n", encoding="utf-8-sig")
    (query,) = task(tmp_path / "t.csv", columns={"question": "ask", "answer": "said"}, pool_fraction=0).queries
    assert (query.question, query.answers) == ("What, please?", ("red, green",))


def written_cells(path: Path, *cells: str) -> dict[str, str]:
    """Question -> answer of a CSV file with these answers."""
    path.write_text("\n".join(["ask,said", *(f"{i}?,{cell}" for i, cell in enumerate(cells))]) + "\n")
    queries = task(path, columns={"question": "ask", "answer": "said"}, pool_fraction=0).queries
    return {query.question: query.answer for query in queries}


@pytest.mark.parametrize(
    "cells",
    [
        ("00501", "10001"),
        ("0.50", "2.50"),
        ("0.50", "free"),
        ("None", "NA"),
        ("null", "n/a", "nan"),
        ("1e3", "12345678901234567890"),
        ("3.0", "4"),
        ("True", "unknown"),
    ],
)
@pytest.mark.parametrize("is_folder", [False, True])
def test_cells_of_a_csv_file_are_answers_as_they_are_written(tmp_path, cells, is_folder):
    (path := tmp_path / "test.csv").touch()
    assert [*written_cells(path, *cells).values()] == list(cells)
    if is_folder:
        (tmp_path / "train.csv").write_text("ask,said\n?,1\n")
        loaded = task(tmp_path, columns={"question": "ask", "answer": "said"}, pool_split="train")
        assert [query.answer for query in loaded.queries] == list(cells)


def test_true_and_false_stay_as_they_are_beside_other_options(tmp_path):
    (tmp_path / "t.csv").write_text("ask,a,b,c,said\nq,True,False,Neither,True\np,True,False,Neither,Neither\n")
    columns = {"question": "ask", "options": ["a", "b", "c"], "answer": "said"}
    queries = task(tmp_path / "t.csv", columns=columns, pool_fraction=0).queries
    assert [query.options for query in queries] == [("True", "False", "Neither")] * 2
    assert sorted(query.answers for query in queries) == [("Neither",), ("True",)]


def test_a_row_with_more_cells_than_names_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("ask,said\n1,2,3\n4,5,6\n")
    with pytest.raises(DataError, match="its first row has more cells than the header has names"):
        _ = task(tmp_path / "t.csv", columns={"question": "ask", "answer": "said"}).queries


def test_truth_values_of_a_csv_file_are_yes_and_no_and_empty_cells_are_missing(tmp_path):
    assert [*written_cells(tmp_path / "t.csv", "True", "False").values()] == ["yes", "no"]
    with pytest.raises(DataError, match="row 1 has no answer in column 'said'"):
        written_cells(tmp_path / "t.csv", "True", "")
    with pytest.raises(DataError, match="row 0 has no answer in column 'said'"):
        written_cells(tmp_path / "t.csv", "", "0.50")


def test_numbers_of_a_csv_file_are_read_where_numbers_are_needed(tmp_path):
    painted("red").save(tmp_path / "red.png")
    (tmp_path / "t.csv").write_text(
        "image,n,x,y,w,h,score,place,level,code,options\n"
        "red.png,1.50,1.0,0,2.5,4,0.50,1.0,0.50,00501,\"['3.0', '4']\"\n"
        "red.png,2.25,0,0,1,1,2.50,0,3,00502,\"['5', '6']\"\n"
    )
    columns = {"image": "image", "answer": "score", "box": ["x", "y", "w", "h"], "meta": ["n"]}
    more = {"question": "{n:.1f} of {score}?", "pool_fraction": 0}
    first, second = task(tmp_path / "t.csv", columns=columns, answer_is="number", **more).queries
    assert [first.answer, second.answer, first.question, second.question] == [
        "0.5",
        "2.5",
        "1.5 of 0.50?",
        "2.2 of 2.50?",
    ]
    assert first.images[0].open().size == (2, 4)
    assert (first.meta["n"], first.columns["level"], second.columns["level"]) == (1.5, 0.5, 3)
    assert first.columns["code"] == "00501"
    pointed = task(tmp_path / "t.csv", columns={"answer": "place", "options": "options"}, answer_is="index", **more)
    assert [query.answer for query in pointed.queries] == ["4", "5"]
    mapped = task(tmp_path / "t.csv", columns={"answer": "place"}, answer_map={0: "no", 1: True}, **more)
    assert [query.answer for query in mapped.queries] == ["yes", "no"]


def test_the_digest_of_a_csv_file_is_that_of_earlier_releases_unless_a_cell_read_differently(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def digests(*cells: str) -> dict[str, str]:
        lines = [f"{i},{i}?,{cell},{i % 2 == 0},{i / 4}" for i, cell in enumerate(cells)]
        Path("t.csv").write_text("\n".join(["id,ask,said,even,level", *lines]) + "\n")
        return data_digests(task("t.csv", columns={"id": "id", "question": "ask", "answer": "said", "label": "even"}))

    of_release = {"queries": "cc38f863ea7f04c6", "pool": "e825be1679f4016f"}  # of 0.2.0
    assert digests("1", "2.5", "3", "12") == of_release
    assert digests("1", "2.50", "3", "12") != of_release


@pytest.mark.parametrize("keys", [("from", "value", "human", "gpt"), ("role", "content", "user", "assistant")])
def test_a_conversation_is_its_first_question_and_answer(tmp_path, keys):
    speaker, text, human, model = keys
    for color in COLORS:
        painted(color).save(tmp_path / f"{color}.png")

    def row(i: int, question: str, *more: str) -> dict[str, object]:
        turns = [(human, question), (model, [*COLORS][i]), *zip((human, model), more, strict=False)]
        images = [f"{color}.png" for color in [*COLORS][: i + 1]] if i else None
        return {"id": f"q{i}", "image": images, "talk": [{speaker: one, text: words} for one, words in turns]}

    rows = [
        row(0, "What is two plus two?"),
        row(1, "<image>\nWhich color?"),
        row(2, "Which color?\n<image>", "Sure?", "Yes"),
        row(3, "First: <image> Second: <image>\nWhich?"),
    ]
    rows[3]["talk"] = [{speaker: "system", text: "Be brief."}, *rows[3]["talk"]]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    columns = {"id": "id", "image": "image", "question": "talk", "answer": "talk"}
    loaded = task(tmp_path / "t.json", columns=columns, pool_fraction=0)
    questions = ["What is two plus two?", "Which color?", "Which color?", "First: Second:\nWhich?"]
    assert [query.question for query in loaded.queries] == questions
    assert [query.answers for query in loaded.queries] == [(color,) for color in COLORS]
    assert [len(query.images) for query in loaded.queries] == [0, 2, 3, 4]
    assert loaded.queries[0].secret == {}
    assert loaded.notes == ("1 of 4 conversations go on after the first answer. The rest is left out.",)
    rows[1]["talk"] = rows[1]["talk"][:1]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="row 1 has no answer in column 'talk'"):
        _ = task(tmp_path / "t.json", columns=columns, pool_fraction=0).queries


def test_a_json_object_with_one_list_of_rows_is_these_rows(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"version": 1, "data": [{"ask": "?", "said": "a"}] * 3}))
    loaded = task(tmp_path / "t.json", columns={"question": "ask", "answer": "said"}, pool_fraction=0)
    assert len(loaded.queries) == 3


def test_the_types_of_columns_are_not_copied_for_each_row(tmp_path, monkeypatch):
    (tmp_path / "t.jsonl").write_text("\n".join(['{"ask": "?", "said": "a", "kind": "b"}'] * 50))
    read, copies = type(Dataset.from_list([{}])).features.fget, []
    monkeypatch.setattr(Dataset, "features", property(lambda self: (copies.append(1), read(self))[1]))
    assert len(task(tmp_path / "t.jsonl", columns={"question": "ask", "answer": "said"}, pool_fraction=0).queries) == 50
    assert len(copies) < 50


def test_ids_that_stand_twice_are_an_error(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"ask": "?", "said": "a", "n": 7}\n{"ask": "?", "said": "b", "n": 7}\n')
    with pytest.raises(DataError, match="rows 0 and 1 have the id '7'"):
        _ = task(
            tmp_path / "t.jsonl", columns={"question": "ask", "answer": "said", "id": "n"}, pool_fraction=0
        ).queries


def test_the_question_is_filled_in_from_columns_and_meta_is_carried(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        '{"object": "dog", "said": "yes", "kind": "popular", "source": "web", "pic": "p"}\n'
    )
    columns = {"answer": "said", "meta": ["kind"], "domain": "source", "group": "pic"}
    (query,) = task(tmp_path / "t.jsonl", columns=columns, question="Is there a {object}?", pool_fraction=0).queries
    assert query.question == "Is there a dog?"
    assert (dict(query.meta), query.domain, query.group) == ({"kind": "popular"}, "web", "p")


def test_short_columns_are_stored_without_a_name_and_a_query_does_not_have_them(tmp_path):
    short = {"kind": "popular", "year": 2020, "score": float("nan"), "sure": True, "none": None}
    rows_ = [
        {"ask": f"{i}?", "said": "red", "gold_again": "red", "long": "x" * 300, "tags": ["a"], **short} for i in (0, 1)
    ]
    Dataset.from_list(rows_).to_parquet(tmp_path / "d.parquet")
    loaded = task(tmp_path / "d.parquet", columns={"question": "ask", "answer": "said", "meta": ["tags"]})
    (query,) = loaded.queries
    assert dict(query.columns) == {"gold_again": "red", "kind": "popular", "year": 2020, "score": None, "sure": True}
    assert dict(query.meta) == dict(query.query.meta) == {"tags": ["a"]}
    assert not hasattr(query.query, "columns")


def test_no_image_is_decoded_when_data_is_read(tmp_path, monkeypatch):
    dataset("red", "blue", "green", "black").save_to_disk(tmp_path / "d")
    opened = []
    real = PILImage.open
    monkeypatch.setattr(PILImage, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    loaded = task(tmp_path / "d")
    assert len(loaded.queries) == loaded.pool_size == 2
    assert opened == []
    assert np.asarray(loaded.queries[0].images[0].open()).shape == (8, 8, 3)
    assert len(opened) == 1


def test_its_description_is_json_with_the_keys_of_the_config(tmp_path):
    node = describe(task(tmp_path, queries=3, pool_size=5, answer_map={0: False, 1: True}))
    assert node["queries"] == 3
    assert node["pool_size"] == 5
    assert json.loads(json.dumps(node)) == node


def image_folder(tmp_path, *names):
    for name in COLORS:
        painted(name).save(tmp_path / f"{name}.png")
    lines = [json.dumps({"ask": "which color is number 0?", "image": f"{c}.png", "said": c}) for c in COLORS]
    for name in names:
        (tmp_path / name).write_text("\n".join(lines))


def test_a_folder_of_images_and_rows_is_its_rows(tmp_path):
    image_folder(tmp_path, "rows.jsonl")
    loaded = task(tmp_path)
    check_colors(loaded)
    assert len(loaded.queries) + loaded.pool_size == 4


def test_of_several_files_of_rows_the_split_names_one(tmp_path):
    image_folder(tmp_path, "train.jsonl", "test.jsonl")
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(lines[1:]))
    loaded = task(tmp_path, pool_split="train")
    check_colors(loaded)
    assert (len(loaded.queries), loaded.pool_size) == (4, 3)
    with pytest.raises(
        DataError, match=r"has images and the rows of test\.jsonl, train\.jsonl, but none for this split"
    ):
        _ = task(tmp_path, split="dev").queries
    image_folder(tmp_path, "a.jsonl", "b.jsonl")
    with pytest.raises(DataError, match=r"several files of rows \(a\.jsonl, b\.jsonl\)\. Use one of them as path"):
        _ = task(tmp_path, split="dev").queries


@pytest.mark.parametrize(("name", "mark"), [("t.csv", ","), ("t.tsv", "\t")])
def test_reads_a_table_of_text_with_images_by_path(tmp_path, name, mark):
    image_folder(tmp_path)
    rows = [f"which color is number 0?{mark}{c}.png{mark}{c}" for c in COLORS]
    (tmp_path / name).write_text("\n".join([mark.join(("ask", "image", "said")), *rows]))
    loaded = task(tmp_path / name)
    check_colors(loaded)
    assert (len(loaded.queries), loaded.pool_size) == (2, 2)


def test_more_queries_than_there_are_rows_are_refused(tmp_path):
    image_folder(tmp_path, "t.jsonl")
    with pytest.raises(DataError, match=r"queries: 3 is more than the 2 available rows of .*\. Use a smaller"):
        _ = task(tmp_path / "t.jsonl", queries=3).queries
    with pytest.raises(DataError, match=r"pool_size: 9 is more than the 2 available rows"):
        task(tmp_path / "t.jsonl", pool_size=9).pool("")


def test_images_may_be_named_by_a_path_with_columns_in_it(tmp_path):
    image_folder(tmp_path, "t.jsonl")
    loaded = task(tmp_path / "t.jsonl", columns={"question": "ask", "answer": "said"}, image="{said}.png")
    check_colors(loaded)
    assert loaded.queries[0].group != loaded.queries[1].group
    with pytest.raises(ConfigError, match="Set only one of them"):
        task(tmp_path, image="{said}.png")
    columns = {"question": "ask", "answer": "said"}
    with pytest.raises(DataError, match=r"too few groups of rows \(1\)"):  # one image for all rows
        _ = task(tmp_path / "t.jsonl", columns=columns, image="red.png").queries
    with pytest.raises(ConfigError, match=r"image: .* no column 'sayd'\. Did you mean 'said'\?"):
        _ = task(tmp_path / "t.jsonl", columns=columns, image="{sayd}.png").queries


def test_a_pipe_or_a_device_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "t.jsonl").write_text('{"ask": "?", "image": "pipe.png", "said": "red"}\n')
    (query,) = task(tmp_path / "t.jsonl", pool_fraction=0).queries
    with pytest.raises(ImageError, match="it is a pipe, a device or a folder, not a file"):
        query.images[0].open()
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="it is a pipe or a device, not a file"):
        _ = task(tmp_path / "pipe.jsonl").queries


@pytest.mark.parametrize("absolute", [True, False])
def test_a_row_names_no_image_outside_the_folder_of_the_data(tmp_path, absolute):
    (tmp_path / "data").mkdir()
    painted("red").save(tmp_path / "secret.png")
    path = str(tmp_path / "secret.png") if absolute else "../secret.png"
    (tmp_path / "data" / "t.jsonl").write_text(json.dumps({"ask": "?", "image": path, "said": "red"}) + "\n")
    with pytest.raises(
        DataError, match=r"t\.jsonl\[test\] row 0: the path '.*secret\.png' points outside the folder .*allow_outside"
    ):
        _ = task(tmp_path / "data" / "t.jsonl", pool_fraction=0).queries
    (query,) = task(tmp_path / "data" / "t.jsonl", pool_fraction=0, allow_outside=True).queries
    assert query.images[0].open().getpixel((0, 0)) == COLORS["red"]


def test_a_stored_cell_names_no_image_outside_the_folder_of_the_data(tmp_path):
    painted("red").save(tmp_path / "secret.png")
    data = Dataset.from_dict(
        {"ask": ["?"], "image": [{"bytes": None, "path": str(tmp_path / "secret.png")}], "said": ["red"]},
        features=Features(ask=Value("string"), image=Image(decode=False), said=Value("string")),
    )
    (tmp_path / "data").mkdir()
    data.to_parquet(tmp_path / "data" / "d.parquet")
    (query,) = task(tmp_path / "data" / "d.parquet", pool_fraction=0).queries
    with pytest.raises(ImageError, match="points outside the folder"):
        query.images[0].open()


@pytest.mark.parametrize("named", ["{folder}/img_{{name}}.png", "../images/img_{{name}}.png"])
def test_a_folder_that_the_config_names_may_be_anywhere_and_rows_stay_in_it(tmp_path, named):
    for folder in ("data", "images"):
        (tmp_path / folder).mkdir()
    painted("red").save(tmp_path / "images" / "img_a.png")
    painted("blue").save(tmp_path / "secret.png")
    columns = {"question": "ask", "answer": "said"}
    path = tmp_path / "data" / "t.jsonl"

    def image_of(name: str):
        path.write_text(json.dumps({"ask": "?", "name": name, "said": "red"}) + "\n")
        image = named.format(folder=tmp_path / "images")
        (query,) = task(path, columns=columns, image=image, pool_fraction=0).queries
        return query.images[0].open().getpixel((0, 0))

    assert image_of("a") == COLORS["red"]
    with pytest.raises(DataError, match="points outside the folder"):
        image_of("x/../../secret")


def test_choices_and_divisions_follow_the_id_column_and_not_the_rows(tmp_path):
    def loaded(file, names):
        lines = [json.dumps({"key": name, "ask": f"{name}?", "said": "yes"}) for name in names]
        (tmp_path / file).write_text("\n".join(lines) + "\n")
        columns = {"question": "ask", "answer": "said", "id": "key"}
        whole = build("task", {"name": "hub", "path": str(tmp_path / file), "columns": columns})
        less = build("task", {"name": "hub", "path": str(tmp_path / file), "columns": columns, "queries": 8})
        return {e.id for e in whole.pool("").examples}, [e.id for e in less.queries]

    names = [f"key-{i:02d}" for i in range(40)]
    pool, queries = loaded("a.jsonl", names)
    assert (pool, queries) == loaded("b.jsonl", names[::-1])
    new_pool, new_queries = loaded("c.jsonl", ["new", *names])
    assert len(new_pool ^ pool) <= 2  # the new row, and the row on the border of the division
    assert len(set(new_queries) ^ set(queries)) <= 2


def test_local_data_is_searched_beside_the_experiment_file_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, answer in (("study", "right"), ("here", "wrong")):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "rows.jsonl").write_text(json.dumps({"ask": "?", "said": answer}) + "\n")
    (tmp_path / "here" / "only.jsonl").write_text('{"ask": "?", "said": "of the working directory"}\n')
    monkeypatch.chdir(tmp_path / "here")
    columns = {"question": "ask", "answer": "said"}
    with component_search_folder(tmp_path / "study"):
        made = [task(Path(path), columns=columns, pool_fraction=0) for path in ("data/rows.jsonl", "only.jsonl")]
        item = build("task", {"name": "winoground", "path": "data/rows.jsonl"})
    assert [loaded.queries[0].answers for loaded in made] == [("right",), ("of the working directory",)]
    assert task(Path("data/rows.jsonl"), columns=columns, pool_fraction=0).queries[0].answers == ("wrong",)
    with pytest.raises(DataError, match="has no column image_0"):  # the file was opened
        _ = item.queries


@pytest.mark.parametrize("path", ["data/none.jsonl", "./none", "../none", "a/b/c", "~/none-of-this-name", "none.csv"])
def test_a_missing_local_file_is_a_sentence_and_the_hub_is_not_asked(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("the hub was asked"))
    monkeypatch.chdir(tmp_path)
    with component_search_folder(tmp_path / "study"):
        loaded = build("task", {"name": "hub", "path": path, "columns": {"question": "ask", "answer": "said"}})
    with pytest.raises(DataError, match=rf"data set {re.escape(path)}: there is no such file or folder \(looked in "):
        _ = loaded.queries


@pytest.mark.parametrize("path", ["lmms-lab/POPE", "squad", "owner/data.v1_b-c"])
def test_the_id_of_a_data_set_is_left_to_the_hub(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *_: object, **__: object) -> None:
        raise ValueError(f"asked for {name}")

    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"taken for a data set of the hub\).*: asked for {path}\."):
        _ = task(Path(path)).queries


def test_a_column_of_objects_makes_captions_ready_for_chair(tmp_path):
    lines = [
        {"ask": "describe.", "said": "a bus", "present": things}
        for things in (["bus", "person"], ["hot dog"], ["cat"], ["busses"])
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines[:3])))
    columns = {"question": "ask", "answer": "said", "objects": "present"}
    loaded = task(tmp_path / "test.jsonl", columns=columns)
    for example in (*loaded.queries, *loaded.pool("").examples):
        wrong = ChairI().score(Generation("A bus."), example)
        assert wrong == float("bus" not in example.secret["objects"])
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, lines[2:])))
    bad = task(tmp_path / "bad.jsonl", columns=columns, pool_fraction=0)
    with pytest.raises(DataError, match=r"row 1: 'busses' in column 'present' is no object of COCO\. Did you mean"):
        _ = bad.queries


def test_a_pool_with_the_rows_of_the_queries_in_another_order_is_refused(tmp_path):
    data = dataset("red", "blue", "green")
    data.to_parquet(tmp_path / "a.parquet")
    data.select([2, 0, 1]).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="has the same rows as the queries"):
        _ = task(tmp_path / "a.parquet", pool_path=str(tmp_path / "b.parquet")).pool_size


def test_a_split_is_a_word_of_the_name_of_a_file(tmp_path):
    dataset("red", "blue").to_parquet(tmp_path / "contest.parquet")
    dataset("red", "blue").to_parquet(tmp_path / "a-Test_1.parquet")
    assert task(tmp_path / "a-Test_1.parquet", split="test").queries
    with pytest.raises(DataError, match="its name does not contain 'test'"):
        _ = task(tmp_path / "contest.parquet", split="test").queries


def test_an_object_with_two_lists_of_rows_is_not_read_as_one_of_them(tmp_path):
    lists = {name: [{"ask": f"{name} {i}?", "said": "a"} for i in range(3)] for name in ("train", "test")}
    (tmp_path / "t.json").write_text(json.dumps(lists))
    with pytest.raises(ConfigError, match="Columns: train, test"):
        _ = task(tmp_path / "t.json", columns={"question": "ask", "answer": "said"}).queries


def test_options_by_letters_have_the_order_of_their_letters(tmp_path):
    row = {"ask": "?", "choices": {"B": "dog", "A": "cat", "C": "owl"}, "said": "B"}
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({**row, "ask": f"{i}?"}) for i in range(4)))
    columns = {"question": "ask", "answer": "said", "options": "choices"}
    for query in task(tmp_path / "t.jsonl", columns=columns, answer_is="letter").queries:
        assert (query.options, query.answers) == (("cat", "dog", "owl"), ("dog",))
