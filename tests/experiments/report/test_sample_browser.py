import base64
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image as PILImage
from written_run import page_samples

from experiments.api import run
from experiments.report import sample_browser
from experiments.report.sample_browser import (
    choose_queries,
    coded_columns,
    collect_samples,
    image_data_uri,
    images_by_owner,
)
from experiments.results.view_run import view_run


def test_half_are_disputed_and_half_are_drawn():
    rows = [(f"q{i}", float(arm == 0 and i % 10 == 0)) for i in range(100) for arm in range(4)]
    frame = pd.DataFrame(rows, columns=["query", "lenient"])
    chosen = choose_queries(frame, "lenient", 16)
    assert len(chosen) == 16
    assert [q for q in chosen if int(q[1:]) % 10 == 0][:8] == [f"q{i}" for i in range(0, 80, 10)]
    assert chosen == sorted(chosen, key=lambda q: int(q[1:])) == choose_queries(frame, "lenient", 16)


def test_a_small_run_is_carried_whole():
    frame = pd.DataFrame({"query": ["b", "a", "b"], "lenient": [0.0, 1.0, 1.0]})
    assert choose_queries(frame, "lenient", 5) == ["b", "a"]


@pytest.mark.parametrize(
    ("images", "owners", "demos", "expected"),
    [
        ("abc", [0, 1, -1], 2, ([["a"], ["b"]], ["c"])),
        ("abcd", [0, 0, -1, -1], 2, ([["a", "b"], []], ["c", "d"])),
        ("a", [2], 4, ([[], [], ["a"], []], [])),
        ("a", [-1], 0, ([], ["a"])),
        ("", [], 2, ([[], []], [])),
    ],
)
def test_images_stand_beside_the_demonstration_that_shows_them(images, owners, demos, expected):
    assert images_by_owner(list(images), owners, demos) == expected


def test_question_and_images_of_a_sample_are_as_its_prompt_shows_them(mapping, tmp_path):
    made = run(mapping(composer="blocks", transforms=["images"]), runs=tmp_path, quiet=True)
    shelf = collect_samples(view_run(made))
    assert {context["question"] for context in shelf.contexts} == {"Which color?"}
    assert [[len(demo[-1]) for demo in context["demos"]] for context in shelf.contexts] == [[0, 0]] * 6
    assert [len(context["query"]) for context in shelf.contexts] == [1] * 6


def test_the_page_reads_each_column_that_a_sample_shows(viewed, monkeypatch):
    view = viewed(queries=6)
    more = {
        "option_scores": [{"red": -0.5}],
        "dropped": 1,
        "finish": "length",
        "thinking": "a red one",
        "meta": [{"a": 1}],
    }
    columns = {name: value * len(view.frame) if isinstance(value, list) else value for name, value in more.items()}
    full = replace(view, frame=view.frame.assign(**columns))
    chosen = collect_samples(full).json(full)
    assert {"options", "meta", "dropped", "finish", "thinking"} <= set(chosen["samples"]["columns"])
    monkeypatch.setattr(sample_browser, "FIELDS", tuple(full.frame))
    assert collect_samples(full).json(full) == chosen


def test_prompts_and_images_are_carried_once(viewed):
    view = viewed(queries=6)
    shelf = collect_samples(view)
    assert len(shelf.samples) == len(view.frame)
    prompts = {repr((row["prompt"], row["images"])) for row in view.frame.to_dict("records")}
    assert len(shelf.contexts) == len(prompts) < len(view.frame) / 3
    assert len(shelf.images) == 6
    assert all(uri.startswith("data:image/png;base64,") for uri in shelf.images.values())


def test_a_cell_carries_so_many_samples_and_no_more(viewed):
    shelf = collect_samples(viewed(queries=6), per_cell=4)
    assert shelf.query_counts == {"shapes": (4, 6), "binding, 2-way": (4, 6)}
    assert len(shelf.samples) == 2 * 4 * 2 * (3 + 2 * 2 * 3)


def test_images_beyond_the_budget_are_named_only(viewed):
    view = viewed(queries=6)
    one = len(next(iter(collect_samples(view).images.values())))
    few = collect_samples(view, budget=3 * one).images
    assert 1 <= sum(uri is not None for uri in few.values()) <= 4
    assert len(few) == 6


def test_a_missing_image_is_none(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    assert image_data_uri(tmp_path / "gone.png") is None
    assert image_data_uri(tmp_path / "broken.png") is None


def test_a_large_image_is_carried_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    PILImage.fromarray(noise).save(tmp_path / "large.png")
    head, data = image_data_uri(tmp_path / "large.png").split(",")
    assert head == "data:image/jpeg;base64"
    assert PILImage.open(io.BytesIO(base64.b64decode(data))).size == (320, 240)


def test_failed_samples_are_carried_with_their_reason(written):
    shelf = collect_samples(view_run(written(queries=3, failing={"shapes-0001": "image broken"})))
    failed = [s for s in shelf.samples if s.get("failed")]
    assert {s["failed"] for s in failed} == {"image broken"}
    assert all(s["score"] is None for s in failed)
    assert sample_browser.finite_or_none(float("nan")) is None


def test_steps_are_carried_as_long_as_there_is_room(viewed, monkeypatch):
    view = viewed(queries=4, traced=True)
    whole = collect_samples(view).samples
    assert all(sample["steps"]["changed"] == [0.0, 1.0] for sample in whole)
    monkeypatch.setattr(sample_browser, "STEPS_BUDGET", 2000)
    some = ["steps" in sample for sample in collect_samples(view).samples]
    assert some[0]
    assert not some[-1]


def test_the_columns_of_the_page_are_its_samples(viewed):
    samples = collect_samples(viewed(queries=4)).samples
    columns = coded_columns(samples)
    assert page_samples(columns) == samples
    assert len(columns["columns"]["query"][0]) < len(samples)
