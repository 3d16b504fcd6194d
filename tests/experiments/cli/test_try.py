"""`icl try DATA --model M`: guesses, a picture of one prompt, what helped, and a study that `icl run` repeats."""

import json
import shutil
import sys
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from datasets import Dataset, DatasetDict
from PIL import Image

from experiments.api import load_run
from icl.tasks.presets import FOLDER
from icl.types import Prompt

ICL = Callable[..., Any]
COLORS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 210)}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setenv("COLUMNS", "1000")


def write(folder: Path, count: int = 24, *, images: bool = True, **changes: Any) -> str:
    """rows.jsonl with questions on images of one color. changes: columns with other values; None leaves one out."""
    rows = []
    for i in range(count):
        color = [*COLORS][i * 7 % 3]
        image = Image.new("RGB", (16, 16), COLORS[color])
        image.putpixel((i % 16, i // 16), (0, 0, 0))
        image.save(folder / f"{i}.png")
        row = {"image": f"{i}.png", "question": "Which color?", "answer": color, "kind": "ab"[i % 2]} | changes
        rows.append({key: value for key, value in row.items() if value is not None and (images or key != "image")})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "rows.jsonl"


def samples(folder: Path) -> list[dict[str, Any]]:
    frame = load_run(folder).samples()
    names = ["cell", "query", "shots", "decoding", "demos", "output", "lenient"]
    return json.loads(frame[names].sort_values(["cell", "query"]).to_json(orient="records"))


def test_the_written_study_has_the_same_samples(icl: ICL, tmp_path: Path) -> None:
    done = icl("try", write(tmp_path), "--model", "tiny", "max_new_tokens=2")
    assert done.status == 0, done.err
    labels = [line.split()[0] for line in done.out.splitlines()]
    assert labels == ["columns", "unused", "rows", "prompt", "answer", "answer", "answer", "queries", "run", "written"]
    assert "image -> image, question -> question, answer -> answer" in done.out
    assert "12 queries, 12 for demonstrations" in done.out
    assert all("[" in line and "p " in line for line in done.out.splitlines()[4:7]), "each answer has its interval"
    study = yaml.safe_load((tmp_path / "try" / "rows.yaml").read_text())
    assert study["grid"] == {"shots": [0, 4, 8], "decoding": ["greedy", "vcd"]}
    assert (study["model"], study["max_new_tokens"]) == ({"name": "hf", "path": "tiny"}, 2)
    assert icl("run", "try/rows.yaml", "--quiet").out.startswith("nothing to do (72 samples present)")
    assert icl("run", "try/rows.yaml", "--quiet", "--runs", "elsewhere").status == 0
    computed = samples(tmp_path / "elsewhere" / "try-rows")
    assert len(computed) == 72
    assert computed == samples(tmp_path / "runs" / "try-rows")


def test_the_page_has_the_images_and_texts_of_a_prompt(icl: ICL, tmp_path: Path) -> None:
    done = icl("try", write(tmp_path), "--model", "fake-copy")
    assert "prompt       try/rows.prompt.html   (4 demonstrations" in done.out
    page = (tmp_path / "try" / "rows.prompt.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 5
    assert page.count("Which color?") == 5
    assert "<script" not in page


def test_a_notebook_shows_the_prompt(icl: ICL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    displayed: list[Any] = []
    fake, display = ModuleType("IPython"), ModuleType("IPython.display")
    fake.get_ipython = lambda: SimpleNamespace(kernel=1)  # type: ignore[attr-defined]
    display.display = lambda one, **_: displayed.append(one)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    icl("try", write(tmp_path), "--model", "fake-copy")
    assert sum("<img" in one._repr_html_() for one in displayed if isinstance(one, Prompt)) == 1


def test_a_large_file_has_a_hundred_queries_and_a_small_one_fewer_shots(icl: ICL, tmp_path: Path) -> None:
    assert "100 queries" in icl("try", write(tmp_path, 202), "--model", "fake-copy").out
    assert yaml.safe_load((tmp_path / "try" / "rows.yaml").read_text())["task"]["queries"] == 100
    (tmp_path / "try" / "rows.yaml").unlink()
    done = icl("try", write(tmp_path, 10), "--model", "fake-copy", "--runs", "small")
    assert done.status == 0, done.err
    assert yaml.safe_load((tmp_path / "try" / "rows.yaml").read_text())["grid"]["shots"] == [0, 4, 5]


def test_a_model_without_logits_is_tried_without_the_strategy(icl: ICL, tmp_path: Path) -> None:
    done = icl("try", write(tmp_path), "--model", "fake-copy")
    assert done.status == 0
    assert "vcd is left out: the model gives no next-token logits." in done.out
    assert "vcd help" not in done.out


def test_an_answer_that_nothing_can_tell_comes_with_its_reason(icl: ICL, tmp_path: Path) -> None:
    done = icl("try", write(tmp_path), "--model", "fake-gold")
    assert "cannot tell: see the notes." in done.out
    assert "ceiling effect: every arm scores 1.000" in " ".join(done.out.split())


def test_data_without_images_name_the_key_of_images(icl: ICL, tmp_path: Path) -> None:
    done = icl("try", write(tmp_path, images=False), "--model", "tiny", "max_new_tokens=2")
    assert done.status == 0, done.err
    assert "No column has images, so the study asks without images. Else set `columns.image`." in done.out
    assert "vcd is left out: it edits images, and 12 of 12 queries have no image." in done.out


def test_vcd_is_not_chosen_where_a_query_has_no_image_and_groups_are_counted(icl: ICL, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (tmp_path / write(tmp_path, 40)).read_text().splitlines()]
    rows = [row | {"image": rows[i - i % 2]["image"] if i > 5 else None} for i, row in enumerate(rows)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = icl("try", "rows.jsonl", "--model", "tiny", "max_new_tokens=2")
    assert (done.status, "samples failed" in done.err) == (0, False), done.err
    (left_out,) = [line for line in done.out.splitlines() if "vcd" in line]
    queries = int(done.out.split("rows         ")[1].split()[0])
    assert left_out.startswith("note         vcd is left out: it edits images, and ")
    assert left_out.endswith(f" of {queries} queries have no image.")
    (needed,) = [line for line in done.out.splitlines() if line.startswith("queries")]
    assert f" groups with a common image; these {queries} queries are " in needed


def test_a_file_of_vlmevalkit_is_tried_by_its_task(icl: ICL, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (tmp_path / write(tmp_path)).read_text().splitlines()]
    lines = [
        "\t".join(
            [str(i), b64encode((tmp_path / row["image"]).read_bytes()).decode(), "Which?", "red", "blue", "AB"[i % 2]]
        )
        for i, row in enumerate(rows)
    ]
    (tmp_path / "bench.tsv").write_text("\n".join(["index\timage\tquestion\tA\tB\tanswer", *lines]) + "\n")
    assert "is read by task.name=vlmevalkit." in icl("data", "check", "bench.tsv").out
    done = icl("data", "check", "bench.tsv", "task.name=vlmevalkit")
    assert (done.status, "image        24 of 24 rows" in done.out) == (0, True), done.out + done.err
    done = icl("try", "bench.tsv", "--model", "fake-copy", "task.name=vlmevalkit")
    assert (done.status, "unused" in done.out) == (0, False), done.err
    assert yaml.safe_load((tmp_path / "try" / "bench.yaml").read_text())["task"] == {
        "name": "vlmevalkit", "path": "../bench.tsv"
    }  # fmt: skip
    done = icl("data", "check", "bench.tsv", "task.columns.image=image")
    assert (done.status, "The task vlmevalkit reads a TSV file" in done.out) == (1, True), done.out
    assert max(map(len, done.out.splitlines())) < 300


@pytest.mark.parametrize(
    ("count", "changes", "sentence"),
    [
        (
            24,
            {"answer": None, "hue": "red"},
            "no column of answers was found among image, question, kind, hue. Write the one that has them: "
            "task.columns.answer=COLUMN.\n",
        ),
        (
            1,
            {},
            "too few groups of rows (1) for both queries and a pool with pool_fraction 0.5. Add rows, set",
        ),
        (24, {"options": ["a", "b"]}, "Spell them alike, or set answer_is"),
    ],
)
def test_data_that_cannot_be_tried_name_the_key_and_write_nothing(
    icl: ICL, tmp_path: Path, count: int, changes: dict[str, Any], sentence: str
) -> None:
    done = icl("try", write(tmp_path, count, **changes), "--model", "fake-copy")
    assert done.status == 2
    assert sentence in done.err
    assert not [*(tmp_path / "try").iterdir()]
    assert not (tmp_path / "runs").exists()


def test_a_key_corrects_a_guess(icl: ICL, tmp_path: Path) -> None:
    data = write(tmp_path, answer=None, hue="red", question=None)
    done = icl("try", data, "--model", "fake-copy", "task.columns.answer=hue", "task.question=Which hue?")
    assert done.status == 0, done.err
    task = yaml.safe_load((tmp_path / "try" / "rows.yaml").read_text())["task"]
    assert (task["columns"], task["question"]) == ({"image": "image", "answer": "hue"}, "Which hue?")
    assert "unused       kind" in done.out


def test_a_column_of_questions_that_is_not_found_names_its_key(icl: ICL, tmp_path: Path) -> None:
    done = icl("try", write(tmp_path, question=None), "--model", "fake-copy")
    assert "No column has questions, so every row is asked the same: change `question`" in done.out
    assert "or set `columns.question`" in done.out


def test_a_study_that_is_there_is_never_replaced(icl: ICL, tmp_path: Path) -> None:
    data = write(tmp_path)
    icl("try", data, "--model", "fake-copy")
    first = (tmp_path / "try" / "rows.yaml").read_text()
    refused = icl("try", data, "--model", "fake-vote")
    sentence = "try/rows.yaml is another study, which is not replaced. Name a new file: --out FILE.yaml.\n"
    assert (refused.status, refused.err) == (2, sentence)
    assert (tmp_path / "try" / "rows.yaml").read_text() == first
    assert icl("try", data, "--model", "fake-vote", "--out", "try/vote.yaml").status == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"try-rows", "try-vote"}
    assert icl("try", data, "--model", "fake-copy").status == 0, "the first one again"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("none.jsonl", "--model", "tiny"), "there is no file or folder none.jsonl"),
        (("rows.jsonl", "--model", "nowhere/at-all"), "nowhere/at-all"),
        (("rows.jsonl", "--model", "{name: hff}"), "no model named 'hff'. Did you mean 'hf'?"),
        (("rows.jsonl", "--model", "tiny", "shotz=3"), "no key 'shotz'"),
        (("rows.jsonl",), "Missing option '--model'"),
    ],
)
def test_wrong_words_are_a_sentence(icl: ICL, tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    write(tmp_path)
    done = icl("try", *words)
    assert (done.status, sentence in done.err) == (2, True), done.err


def test_data_check_says_what_is_empty_or_unused(icl: ICL, tmp_path: Path) -> None:
    done = icl("data", "check", write(tmp_path))
    assert done.status == 0, done.err
    assert done.out.splitlines() == [
        "question     24 of 24 rows   column question",
        "image        24 of 24 rows   column image",
        "options      0 of 24 rows",
        "answer       24 of 24 rows   column answer",
        "unused       kind",
        "opened       the images of 10 rows; --rows 24 opens all",
    ]
    done = icl("data", "check", write(tmp_path, options=[]))
    assert (done.status, done.out.splitlines()[-2].split(":")[0]) == (1, "empty        options")
    done = icl("data", "check", "popee")
    assert (done.status, "there is no file, folder or preset 'popee'. Did you mean 'pope'?" in done.err) == (2, True)
    done = icl("data", "check", write(tmp_path, answer=None, hue="red"))
    assert (done.status, "icl data check rows.jsonl task.columns.answer=COLUMN." in done.err) == (2, True)
    done = icl("data", "check", "rows.jsonl", "task.columns.answer=hue", "--rows", "24")
    assert (done.status, done.out.splitlines()[-1]) == (0, "unused       kind")
    assert "Remove grid." in icl("data", "check", "rows.jsonl", "task.columns.answer=hue", "grid.shots=[1]").err


def test_data_check_counts_the_rows_that_cannot_be_used_for_each_reason(icl: ICL, tmp_path: Path) -> None:
    lines = [f"{i}?,{'' if i % 7 == 0 else i}" if i % 11 else f",{i}" for i in range(1, 41)]
    (tmp_path / "gaps.csv").write_text("\n".join(["question,answer", *lines]) + "\n")
    done = icl("data", "check", "gaps.csv")
    assert done.status == 1
    assert [line for line in done.out.splitlines() if "note" not in line][:5] == [
        "unusable     5 of 40 rows, such as: gaps.csv[test] row 6 has no answer in column 'answer'. Remove the row, or "
        "name another column.",
        "unusable     3 of 40 rows, such as: gaps.csv[test] row 10 has no question in column 'question'. Remove the "
        "row, or set `question`.",
        "question     32 of 32 usable rows   column question",
        "image        0 of 32 usable rows",
        "options      0 of 32 usable rows",
    ]
    options = {"options": ["red", "green"], "question": "?"}
    lines = [json.dumps({**options, "answer": "red" if i % 4 else "white"}) for i in range(12)]
    (tmp_path / "words.jsonl").write_text("\n".join(lines))
    done = icl("data", "check", "words.jsonl")
    assert done.status == 1
    assert (
        "unusable     3 of 12 rows, such as: the answer 'white' of 'test-000000' is not among its options" in done.out
    )


def test_letters_beside_open_questions_are_guessed_and_tried(icl: ICL, tmp_path: Path) -> None:
    choices = ["red", "green", "blue"]
    rows = [
        {"question": f"{i}?", "options": str(choices if i % 6 else []), "answer": "ABC"[i % 3] if i % 6 else "red"}
        for i in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = icl("data", "check", "rows.jsonl")
    assert (done.status, "options      20 of 24 rows" in done.out) == (0, True), done.out
    assert icl("try", "rows.jsonl", "--model", "fake-copy").status == 0
    task = yaml.safe_load((tmp_path / "try" / "rows.yaml").read_text())["task"]
    assert task["answer_is"] == "letter"


def test_conversations_are_found_and_literal_image_marks_are_counted(icl: ICL, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (tmp_path / write(tmp_path)).read_text().splitlines()]
    talks = [
        {"image": row["image"], "conversations": [{"from": "human", "value": f"<image>\n{row['question']}"},
                                                  {"from": "gpt", "value": row["answer"]}]}
        for row in rows
    ]  # fmt: skip
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    done = icl("data", "check", "talks.json")
    assert (done.status, "question     24 of 24 rows   column conversations" in done.out) == (0, True), done.out
    done = icl("try", "talks.json", "--model", "fake-copy")
    assert (done.status, "conversations -> question, conversations -> answer" in done.out) == (0, True), done.err
    assert "<image>" not in done.out
    write(tmp_path, question="<image> Which color?")
    sentence = "12 of 12 questions contain the text <image>, such as 'test-0000"
    done = icl("try", "rows.jsonl", "--model", "fake-copy")
    assert sentence in done.out
    assert sentence in icl("plan", "try/rows.yaml").out


def test_data_check_reads_what_a_small_file_has_and_every_image(icl: ICL, tmp_path: Path) -> None:
    done = icl("data", "check", write(tmp_path, count=12, **{"odd\x1b[31m": "1"}))
    assert done.status == 0, done.err
    assert done.out.splitlines()[0] == "question     12 of 12 rows   column question"
    assert done.out.splitlines()[-2] == "unused       kind, odd�[31m"
    data = write(tmp_path, count=12)
    for image in tmp_path.glob("*.png"):
        image.unlink()
    done = icl("data", "check", data)
    assert (done.status, done.out.splitlines()[-2].split(":")[0]) == (1, "unopened     10 images, such as")
    assert done.out.splitlines()[-2].endswith("does not exist.")
    done = icl("data", "check", "")
    assert (done.status, done.err) == (2, "'' cannot be a path: name a file or folder.\n")


def test_data_check_of_a_preset_says_what_the_data_gained_and_lost(
    icl: ICL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = shutil.copytree(FOLDER, tmp_path / "presets")
    monkeypatch.setattr("icl.tasks.presets.FOLDER", folder)
    monkeypatch.setattr("icl.tasks.presets.CHECKS", {})

    def pope(**more: object) -> None:
        rows = [{"question": f"q{i}", "answer": "no", "image_source": str(i), "category": "popular", "id": i,
                 "image": Image.new("RGB", (8, 8), (i, 1, 2)), **more} for i in range(24)]  # fmt: skip
        data = Dataset.from_list([{key: value for key, value in row.items() if value is not None} for row in rows])
        shutil.rmtree("lmms-lab-encoder", ignore_errors=True)
        DatasetDict({"test": data}).save_to_disk("lmms-lab-encoder/POPE")

    pope()
    done = icl("data", "check", "pope", "--record")
    assert done.status == 0, done.err
    assert done.out.splitlines()[-2:] == [
        "unused       id",
        f"recorded     | `pope` | lmms-lab-encoder/POPE | – | {datetime.now(UTC):%Y-%m-%d}, local files |",
    ]
    assert "id" in json.loads((folder / "checks.json").read_text())["pope"]["columns"]
    pope(id=None, image_source=None, image_id="7")
    done = icl("data", "check", "pope")
    assert (done.status, done.out.splitlines()) == (
        1,
        [
            "absent       image_source (columns.group): the data do not have what is mapped. Set these keys.",
            "unused       image_id",
            "new          image_id",
            "gone         image_source, id",
        ],
    )
    assert (
        "preset 'amber' reads your own files, not a data set of the hub: add --path FILE."
        in icl("data", "check", "amber").err
    )
    for option in (("--record",), ("--path", "x")):
        assert "--record and --path need a preset" in icl("data", "check", write(tmp_path), *option).err
