"""A task of lmms-eval as a task with demonstrations. The package is a stand-in with the traps of the real one."""

import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from lmms_task import CODE, TASK, installed, write_task
from PIL import ImageFile

from experiments.config.config import load_config
from experiments.grid.grid import expand
from icl.errors import ConfigError, DataError
from icl.registry import build, component_search_folder, describe, to_config
from icl.testing.conformance import check_task

DIVIDED = TASK.replace("training_split: train\n", "").replace(", train: train.parquet", "")


@pytest.fixture(autouse=True)
def _package(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    with installed(monkeypatch):
        yield


def task(path: Path, **keys):
    return build("task", {"name": "lmms_eval", "task": str(path), "trust": True, **keys}, "x.yaml:2")


def test_rows_become_queries_and_demonstrations_of_the_splits_that_the_task_names(tmp_path: Path) -> None:
    hues = task(write_task(tmp_path))
    check_task(hues)
    assert hues.title == "hues"
    assert [q.id for q in hues.queries] == [f"test-{i:06d}" for i in range(8)]
    first = hues.queries[0]
    assert (first.question, first.answers, first.meta) == ("Is number 0 dark or light?", ("light",), {"doc_id": 0})
    assert first.images[0].open().getpixel((0, 0)) == (0, 0, 90)
    assert [e.id for e in hues.pool("").examples] == [f"train-{i:06d}" for i in range(12)]


def test_queries_about_one_image_are_one_group(tmp_path: Path) -> None:
    groups = [q.group for q in task(write_task(tmp_path)).queries]
    assert groups == [f"image of test-{i - i % 2:06d}" for i in range(8)]


def test_a_task_with_one_split_is_divided_so_that_no_image_is_on_both_sides(tmp_path: Path) -> None:
    hues = task(write_task(tmp_path, DIVIDED))
    check_task(hues)
    sides = [{e.images[0].digest for e in side} for side in (hues.queries, hues.pool("").examples)]
    assert len(hues.queries) == hues.pool_size == 4
    assert not sides[0] & sides[1]
    everything = task(tmp_path / "hues.yaml", pool_fraction=0)
    assert (len(everything.queries), everything.pool_size) == (8, 0)


def test_split_pool_split_and_sizes_are_parameters(tmp_path: Path) -> None:
    swapped = task(write_task(tmp_path), split="train", pool_split="test", queries=3, pool_size=5, meta=["kind"])
    assert {q.id.split("-")[0] for q in swapped.queries} == {"train"}
    assert (len(swapped.queries), swapped.pool_size) == (3, 5)
    assert swapped.queries[0].meta["kind"] in ("even", "odd")
    with pytest.raises(DataError, match=r"hues has no split 'tset'\. Did you mean 'test'\?"):
        _ = task(tmp_path / "hues.yaml", split="tset").queries
    with pytest.raises(DataError, match="queries: 9 is more than the 8 available rows"):
        _ = task(tmp_path / "hues.yaml", queries=9).queries
    with pytest.raises(ConfigError, match="the column 'answer' is the gold"):
        _ = task(tmp_path / "hues.yaml", meta=["answer"]).queries


def test_prompts_of_a_model_are_chosen_by_its_name(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    assert task(path, specific_kwargs="short").queries[0].question.endswith("light? One word.")
    assert task(path, specific_kwargs="unknown").queries[0].question.endswith("light?")


def test_options_may_be_the_answer_by_their_place(tmp_path: Path) -> None:
    choice = TASK.replace("doc_to_target: answer", "doc_to_target: place\ndoc_to_choice: [light, dark]")
    (query, *_) = task(write_task(tmp_path, choice)).queries
    assert (query.options, query.answers, query.label) == (("light", "dark"), ("light",), "light")


def test_accepted_answers_may_be_a_list_and_a_hidden_answer_is_an_error(tmp_path: Path) -> None:
    by_function = TASK.replace("doc_to_target: answer", "doc_to_target: !function utils.target")
    code = CODE + "\n\ndef target(doc):\n    return [doc['answer'], 'blue', doc['answer']]\n"
    assert task(write_task(tmp_path, by_function, code)).queries[0].answers == ("light", "blue")
    hidden = write_task(tmp_path / "hidden", by_function, code.replace("[doc['answer'], 'blue', doc['answer']]", "''"))
    with pytest.raises(DataError, match="row 0 has no answer: its gold is not public"):
        _ = task(hidden).queries


MESSAGES = """

def messages(doc):
    return [{"role": "user", "content": [
        {"type": "image", "url": doc["image"]}, {"type": "text", "text": "Q: "},
        {"type": "text", "text": doc["question"]}]}]
"""


def test_messages_replace_text_and_images_where_the_images_come_first(tmp_path: Path) -> None:
    by_messages = TASK + "doc_to_messages: !function utils.messages\n"
    path = write_task(tmp_path, by_messages, CODE + MESSAGES)
    assert task(path).queries[0].question == "Q: Is number 0 dark or light?"
    assert task(path).queries[0].images[0].open().getpixel((0, 0)) == (0, 0, 90)
    assert task(path, messages=False).queries[0].question == "Is number 0 dark or light?"
    inside = MESSAGES.replace(
        '{"type": "image", "url": doc["image"]}, {"type": "text", "text": "Q: "}',
        '{"type": "text", "text": "Q: "}, {"type": "image", "url": doc["image"]}',
    )
    between = write_task(tmp_path / "between", by_messages, CODE + inside)
    with pytest.raises(DataError, match=r"row 0: doc_to_messages puts images between texts\. Set messages: false"):
        _ = task(between).queries
    two = write_task(tmp_path / "two", by_messages, CODE + MESSAGES.replace('return [{"role"', 'return [{}, {"role"'))
    two.with_name("utils.py").write_text(CODE + MESSAGES.replace("return [", 'return [{"role": "system"}, '))
    with pytest.raises(DataError, match="gives turns of system, user"):
        _ = task(two).queries


def test_importing_the_package_leaves_no_global_setting(tmp_path: Path) -> None:
    filters = list(warnings.filters)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    _ = task(write_task(tmp_path)).queries
    assert "lmms_eval.api.task" in sys.modules
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert list(warnings.filters) == filters


def test_code_does_not_run_without_trust(tmp_path: Path) -> None:
    path = write_task(tmp_path, code=f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n{CODE}")
    with pytest.raises(ConfigError, match=r"hues\.yaml runs code: utils\.f1, utils\.results, utils\.text, utils"):
        task(path, trust=False)
    assert not (tmp_path / "ran").exists()
    assert not any(name.startswith("lmms_eval") for name in sys.modules)
    _ = task(path).queries
    assert (tmp_path / "ran").exists()


def test_the_digest_of_the_code_is_a_part_of_the_cell(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    before = task(path)
    assert task(path) == before
    assert build("task", to_config(before)) == before
    (tmp_path / "utils.py").write_text(CODE.replace('["question"] +', '["question"] + " " +'))
    after = task(path)
    assert describe(after) != describe(before)
    assert after.queries[0].question.endswith("light? ")
    with pytest.raises(ConfigError, match=r"were edited\. Set files to this digest, or remove it"):
        build("task", to_config(before))


def test_data_that_are_not_there_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"hues\.yaml: the data file train\.parquet does not exist"):
        _ = task(path).queries
    path.write_text(TASK.replace("dataset_path: parquet", f"dataset_path: {tmp_path}/no"))
    with pytest.raises(DataError, match=r"hues\.yaml cannot be loaded by lmms-eval: .*no.*with `include"):
        _ = task(path).queries
    path.write_text("task: x\ndataset_path: saved\ndataset_kwargs: {load_from_disk: true}\n")
    with pytest.raises(DataError, match="dataset_path is the folder saved, which does not exist"):
        _ = task(path).queries


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            ("generate_until", "generate_visual_cot"),
            "has the output type generate_visual_cot. Those that work: generate_un",
        ),
        (("dataset_kwargs:\n", "dataset_kwargs:\n  video: true\n"), "is a task about videos"),
    ],
)
def test_kinds_of_tasks_that_do_not_work_are_refused_by_name(
    tmp_path: Path, edit: tuple[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        task(write_task(tmp_path, TASK.replace(*edit)))


def test_other_media_and_errors_of_the_code_are_named_with_their_row(tmp_path: Path) -> None:
    videos = write_task(tmp_path / "a", code=CODE.replace('[doc["image"].convert("RGB")]', '["a.mp4"]'))
    with pytest.raises(DataError, match=r"hues, split 'test', row 0 has a str where an image is expected"):
        _ = task(videos).queries
    broken = write_task(tmp_path / "b", code=CODE.replace('[doc["image"]', '[doc["picture"]'))
    with pytest.raises(DataError, match=r"row 0: doc_to_visual failed: KeyError: 'picture'"):
        _ = task(broken).queries


def test_code_may_change_its_row_and_read_the_image_for_its_text(tmp_path: Path) -> None:
    code = CODE.replace('return doc["question"] +', 'return f"{doc[\'image\'].size} " + doc.pop("question") +')
    (query, *_) = task(write_task(tmp_path, code=code)).queries
    assert query.question == "(8, 8) Is number 0 dark or light?"
    popping = write_task(tmp_path / "b", code=CODE.replace('== doc["answer"])', '== doc.pop("answer"))').replace(
        '"gold": doc["answer"]', '"gold": ""'))  # fmt: skip
    document = task(popping).queries[0].secret["lmms_eval"]
    assert [document.scores(text, {})["exact"] for text in ("light", "dark", "light")] == [1.0, 0.0, 1.0]


def config(path: Path, **keys):
    node = {"name": "lmms_eval", "task": path.name, "trust": True}
    return load_config({"name": "t", "task": node, "model": "fake-vote", **keys})


def test_the_length_limit_of_the_task_is_the_default_and_other_settings_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_task(tmp_path)
    monkeypatch.chdir(tmp_path)
    grid = expand(config(path))
    assert [cell.max_new_tokens for cell in grid.cells] == [5]
    assert any("hues sets until ['\\n']: a run takes them from decoding" in warning for warning in grid.warnings)
    assert [cell.max_new_tokens for cell in expand(config(path, max_new_tokens=7)).cells] == [7]
    path.write_text(TASK.replace("generate_until", "multiple_choice"))
    assert any(
        "hues scores its options: its metrics need answer_mode: options" in w for w in expand(config(path)).warnings
    )
    both = expand(config(path, grid={"max_new_tokens": [16, 3]}))
    assert [cell.max_new_tokens for cell in both.cells] == [16, 3]


@pytest.mark.parametrize("value", ["abc", "{max_new_tokens: .inf}"])
def test_settings_of_generation_that_cannot_be_read_are_an_error_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    path = write_task(tmp_path, re.sub("generation_kwargs: .*", f"generation_kwargs: {value}", TASK))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"hues\.yaml: generation_kwargs.* is .*, and must be a"):
        expand(config(path))


def test_a_task_file_is_searched_beside_the_experiment_file(tmp_path: Path) -> None:
    write_task(tmp_path)
    with component_search_folder(tmp_path):
        hues = build("task", {"name": "lmms_eval", "task": "hues.yaml", "trust": True})
    assert len(hues.queries) == 8
