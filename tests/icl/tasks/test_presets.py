"""Published data sets by preset: rows with their columns, from the file to the published score."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

import icl
from icl.errors import ConfigError, DataError
from icl.models.base import Request
from icl.registry import build
from icl.tasks.presets import PRESETS
from icl.testing.conformance import check_task


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def painted(level: int) -> PILImage.Image:
    return PILImage.new("RGB", (8, 8), (level, 255 - level, 7))


def parquet(path, rows, image="image"):
    kinds = {str: Value("string"), int: Value("int64")}
    features = {key: kinds.get(type(value)) for key, value in rows[0].items() if key != image}
    data = Dataset.from_list([{k: v for k, v in row.items() if k != image} for row in rows])
    all_features = {k: f or data.features[k] for k, f in features.items()}
    Dataset.from_list(rows, features=Features(**all_features, **{image: Image()})).to_parquet(path)
    return path


def images(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        painted(10 * i).save(folder / name)


def hub(preset, path, **more):
    return build("task", {"name": "hub", "preset": preset, "path": str(path), **more}, "x.yaml:2")


def every(task):
    return sorted((*task.queries, *task.pool("").examples), key=lambda e: e.id)


def test_every_preset_is_a_map_that_the_task_takes():
    assert len(PRESETS) >= 14
    for name in PRESETS:
        task = hub(name, "/nowhere")
        assert task.columns == PRESETS[name]["columns"]
        with pytest.raises(KeyError):
            PRESETS["none"]


def test_what_is_written_beside_a_preset_counts_first():
    assert hub("pope", "/nowhere", split="validation").split == "validation"
    with pytest.raises(ConfigError, match=r"'hub' has no preset 'popee'\. Did you mean 'pope'\?"):
        hub("popee", "/nowhere")


def test_a_preset_of_local_files_asks_for_the_path():
    with pytest.raises(ConfigError, match="path"):
        build("task", {"name": "hub", "preset": "amber"}, "x.yaml:2")


def yes(request: Request) -> str:
    return "yes"


def ran(tmp_path, task, metrics, says="yes", score="generate"):
    config = {
        "name": "t",
        "task": task,
        "model": {"name": "fake-scripted", "answer": f"{__file__}:{says}"},
        "metrics": metrics,
        "answer_mode": score,
    }
    return icl.run(config, runs=tmp_path / "runs", quiet=True).samples()


POPE = [("a", "dog", "yes"), ("a", "cat", "no"), ("b", "dog", "yes"), ("b", "cat", "no"), ("c", "dog", "no"),
        ("c", "cat", "no")]  # fmt: skip


def test_pope_from_rows_to_its_scores(tmp_path):
    rows = [
        {"question": f"Is there a {what}?", "answer": answer, "image_source": of, "category": "popular",
         "image": painted(ord(of))} for of, what, answer in POPE
    ]  # fmt: skip
    path = parquet(tmp_path / "test.parquet", rows)
    node = {"name": "hub", "preset": "pope", "path": str(path), "pool_fraction": 0}
    frame = ran(tmp_path, node, ["lenient", "precision", "recall", "f1", "yes_ratio"])
    means = frame[["lenient", "precision", "recall", "f1", "yes_ratio"]].mean()
    assert list(means) == pytest.approx([2 / 6, 2 / 6, 1, 2 * 2 / (6 + 2), 1])
    assert frame["group"].nunique() == 3
    assert hub("pope", path).queries[0].domain == "popular"


def test_mme_keeps_both_questions_of_an_image_and_scores_them_together(tmp_path):
    rows = [
        {"question": f"Is it {answer}?", "answer": answer, "question_id": f"{kind}/{i}.png", "category": kind,
         "image": painted(40 * i + len(kind))}
        for kind in ("color", "count") for i in range(4) for answer in ("Yes", "No")
    ]  # fmt: skip
    path = parquet(tmp_path / "test.parquet", rows)
    task = hub("mme", path, queries=5, pool_fraction=0.25)
    assert len(task.queries) == 4
    assert set(Counter(e.group for e in task.queries).values()) == {2}
    node = {"name": "hub", "preset": "mme", "path": str(path), "pool_fraction": 0}
    frame = ran(tmp_path, node, ["lenient", "group_accuracy", "mme"])
    assert list(frame[["lenient", "group_accuracy"]].mean()) == [0.5, 0]
    assert frame["mme"].mean() * 200 * 2 == pytest.approx(50 + 0 + 50 + 0)
    with pytest.raises(DataError, match="queries: 1 is smaller than every group"):
        _ = hub("mme", path, queries=1, pool_fraction=0.25).queries


def left(request: Request) -> str:
    return request.options[0]


def test_mmvp_reads_its_table_and_counts_pairs(tmp_path):
    images(tmp_path / "MMVP Images", *(f"{i}.jpg" for i in range(1, 9)))
    with (tmp_path / "Questions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Index", "Question", "Options", "Correct Answer"])
        for i in range(1, 9):
            table.writerow([i, "Are the wings open?", "(a) Open (b) Half closed", "(a)" if i in (1, 2, 3) else "(b)"])
    node = {"name": "hub", "preset": "mmvp", "path": str(tmp_path / "Questions.csv"), "pool_fraction": 0}
    task = build("task", node)
    assert [e.options for e in task.queries] == [("Open", "Half closed")] * 8
    assert [e.answer for e in task.queries] == ["Open"] * 3 + ["Half closed"] * 5
    assert task.queries[0].group == task.queries[1].group != task.queries[2].group
    assert task.queries[4].images[0].open().size == (8, 8)
    frame = ran(tmp_path, node, ["lenient", "group_accuracy"], "left")
    assert list(frame[["lenient", "group_accuracy"]].mean()) == [3 / 8, 1 / 4]


def test_amber_reads_json_lines_and_looks_for_no(tmp_path):
    images(tmp_path / "image", "AMBER_1.jpg", "AMBER_2.jpg")
    rows = [
        {"id": 1005 + i, "image": f"AMBER_{1 + i % 2}.jpg", "query": "Is the sky sunny?", "type": kind, "truth": truth}
        for i, (kind, truth) in enumerate([("state", "yes"), ("state", "no"), ("relation", "no"), ("relation", "yes")])
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    node = {"name": "hub", "preset": "amber", "path": str(tmp_path / "q.jsonl"), "pool_fraction": 0}
    frame = ran(tmp_path, node, ["lenient", {"name": "recall", "positive": "no"}])
    assert list(frame[["lenient", "recall"]].mean()) == [0.5, 0]
    assert {e.domain for e in build("task", node).queries} == {"state", "relation"}


@pytest.mark.parametrize("preset", ["viquae", "infoseek"])
def test_four_options_by_letter(tmp_path, preset):
    images(tmp_path / "images", "a.jpg", "b.jpg")
    choices = {"A": "1971", "B": "1973", "C": "1974", "D": "1976"}
    rows = [
        {"id": name, "question": "When did it open?", "image": f"{name}.jpg", "multiple_choices": choices,
         "multiple_choices_answer": letter} for name, letter in (("a", "B"), ("b", "D"))
    ]  # fmt: skip
    (tmp_path / "mc.json").write_text(json.dumps(rows))
    task = hub(preset, tmp_path / "mc.json", pool_fraction=0.5)
    first, second = every(task)
    assert first.options == second.options == ("1971", "1973", "1974", "1976")
    assert (first.answer, second.answer) == ("1973", "1976")
    check_task(task)


@pytest.mark.parametrize(
    ("preset", "answers"),
    [
        ("vqav2", [{"answer": a, "answer_id": i} for i, a in enumerate(["2"] * 3 + ["3"] * 7)]),
        ("ok_vqa", ["2"] * 3 + ["3"] * 7),
        ("vizwiz", ["2"] * 3 + ["3"] * 7),
    ],
)  # fmt: skip
def test_soft_accuracy_keeps_every_annotator(tmp_path, preset, answers):
    rows = [
        {"question": "how many?", "question_id": i, "image_id": i, "answer_type": "number", "question_type": "x",
         "category": "number", "answers": answers, "image": painted(i)} for i in range(2)
    ]  # fmt: skip
    path = parquet(tmp_path / "d.parquet", rows)
    (query,) = hub(preset, path).queries
    assert query.answers == ("2", "3")
    assert Counter(query.secret["votes"]) == {"2": 3, "3": 7}
    node = {"name": "hub", "preset": preset, "path": str(path), "pool_fraction": 0}
    assert ran(tmp_path, node, ["vqa"], "two")["vqa"].mean() == pytest.approx(0.9)


def two(request: Request) -> str:
    return "two"


@pytest.mark.parametrize(("preset", "column", "key"), [("flickr30k", "caption", "img_id"),
                                                       ("coco_captions", "answer", "question_id")])  # fmt: skip
def test_captions_have_their_references(tmp_path, preset, column, key):
    captions = [["a red dog runs", "the dog is red"], ["two cats sleep", "cats on a bed"]]
    rows = [{column: texts, key: str(i), "image": painted(i)} for i, texts in enumerate(captions)]
    path = parquet(tmp_path / "d.parquet", rows)
    node = {"name": "hub", "preset": preset, "path": str(path), "pool_fraction": 0}
    assert [list(e.answers) for e in build("task", node).queries] == captions
    frame = ran(tmp_path, node, ["cider", "caption_length"], "gold")
    assert frame["cider"].mean() > 3
    assert frame["caption_length"].mean() == 3.5


def gold(request: Request) -> str:
    return request.gold[0]


def test_hateful_memes_ask_with_the_text_and_score_an_area(tmp_path):
    images(tmp_path / "img", *(f"{i}.png" for i in range(4)))
    rows = [{"id": i, "img": f"img/{i}.png", "label": int(i < 2), "text": f"text {i}"} for i in range(4)]
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    node = {"name": "hub", "preset": "hateful_memes", "path": str(tmp_path / "dev.jsonl"), "pool_fraction": 0}
    task = build("task", node)
    assert task.queries[0].question == 'The image is a meme with the text "text 0". Is it hateful?'
    assert [e.answer for e in task.queries] == ["yes", "yes", "no", "no"]
    assert ran(tmp_path, node, ["auc"], "gold", "options")["auc"].mean() == 1
    assert ran(tmp_path / "b", node, ["auc"], "yes", "options")["auc"].mean() == 0.5


def test_cub_classes_are_called_without_number_and_lines(tmp_path):
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "010.Red_winged_Blackbird"]
    for i, name in enumerate(names):
        images(tmp_path / "train" / name, *(f"{i}{k}.png" for k in range(2)))
        for k in range(2):
            painted(80 * i + 9 * k).save(tmp_path / "train" / name / f"{i}{k}.png")
    task = hub("cub", tmp_path, split="train")
    options = ("Black footed Albatross", "Laysan Albatross", "Red winged Blackbird")
    examples = every(task)
    assert {e.options for e in examples} == {options}
    assert Counter(e.answer for e in examples) == dict.fromkeys(options, 2)
    assert all(e.label == e.answer for e in examples)
    check_task(task)


def test_sugarcrepe_is_a_file_of_objects_by_name(tmp_path):
    images(tmp_path / "val2017", "1.jpg", "2.jpg")
    rows = {str(i): {"filename": f"{i + 1}.jpg", "caption": f"a dog {i}", "negative_caption": "a cat"} for i in (0, 1)}
    (tmp_path / "replace_obj.json").write_text(json.dumps(rows))
    task = hub("sugarcrepe", tmp_path / "replace_obj.json", pool_fraction=0)
    assert [(e.answer, e.options) for e in task.queries] == [(f"a dog {i}", (f"a dog {i}", "a cat")) for i in (0, 1)]
    assert all(np.asarray(e.images[0].open()).shape == (8, 8, 3) for e in task.queries)
