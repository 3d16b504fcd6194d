"""What breaks every sample of a model is one error before the first sample."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from safetensors.numpy import load_file, save_file

from experiments.config.config import load_config
from experiments.grid.grid import Cell, expand
from experiments.running.preflight import Preflight
from experiments.running.run import run
from experiments.store.store import Store
from icl.errors import ModelError
from icl.models.hf.checkpoint import Checkpoint
from icl.models.hf.memory import RequestSize
from icl.models.hf.model import HF
from prompts.budget import ContextTooShortError

Mapping = Callable[..., dict[str, Any]]

ANSWERS = """
from pathlib import Path

def answer(request):
    with (Path(__file__).parent / "asked").open("a") as file:
        file.write(request.prompt.key.query + "\\n")
    if {condition}:
        raise ValueError("no")
    return "yes"
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny_models

    return tiny_models.save("idefics3", tmp_path_factory.mktemp("idefics3"))


def _changed(checkpoint: Path, folder: Path, template: str) -> str:
    shutil.copytree(checkpoint, folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(template)
    return str(folder / "model")


def _stored(folder: Path) -> int:
    return sum(len(file.read_bytes().splitlines()) for file in (folder / "t" / "cells").rglob("*.jsonl"))


def _scripted(mapping: Mapping, folder: Path, condition: str, **more: Any) -> dict[str, Any]:
    (folder / "mine.py").write_text(ANSWERS.format(condition=condition))
    return mapping(model={"name": "fake-scripted", "answer": f"{folder / 'mine.py'}:answer"}, **more)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for message in messages %}{{ message.content.text }", "TemplateSyntaxError|unexpected"),
        ("{{ raise_exception('only one turn') }}", "does not accept these turns .*: only one turn"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("the same for every prompt", "0 image placeholders .* for 3 images; the chat template omits some"),
    ],
)
def test_a_broken_chat_template_ends_the_run_before_the_weights_are_read(
    template: str, says: str, mapping: Mapping, checkpoint: Path, tmp_path: Path
) -> None:
    config = mapping(model={"name": "hf", "path": _changed(checkpoint, tmp_path, template)}, max_new_tokens=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "weights", lambda *_, **__: pytest.fail("the weights were read"))
        with pytest.raises(ModelError, match=rf"'chat', 2 shots: no prompt can be written: .*({says}).*") as error:
            run(load_config(config), tmp_path)
    assert str(error.value).endswith(". Nothing was computed.")
    assert _stored(tmp_path) == 0


def test_images_for_a_model_that_reads_text_only_end_the_plan(
    mapping: Mapping, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.cli.main import main
    from tests.random_models.texts import save_text

    node = {"name": "hf", "path": str(save_text("llama", tmp_path / "text"))}
    for name, text, status in (("seen", [], 2), ("told", [{"name": "captions", "file": "captions.json"}], 0)):
        config = mapping(model=node, transforms=[*({**one, "where": "all"} for one in text)], max_new_tokens=2)
        examples = [*(task := expand(load_config(mapping())).tasks[0]).queries, *task.pool("").examples]
        (tmp_path / "captions.json").write_text(json.dumps({one.id: "a red square" for one in examples}))
        (tmp_path / f"{name}.yaml").write_text(json.dumps(config))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            assert main(["plan", f"{name}.yaml"]) == status
        assert ("reads text only, and the prompt has an image" in capsys.readouterr().err) is (status == 2)


def test_a_template_that_refuses_one_of_two_composers_ends_the_run(
    mapping: Mapping, checkpoint: Path, tmp_path: Path
) -> None:
    template = "{% if messages | length > 1 %}{{ raise_exception('only one turn') }}{% endif %}" + (
        checkpoint / "chat_template.jinja"
    ).read_text(encoding="utf-8")
    node = {"name": "hf", "path": _changed(checkpoint, tmp_path, template)}
    grid = {"composer": ["interleaved", "chat"]}
    with pytest.raises(ModelError, match=r"'chat', 2 shots: no prompt can be written: .* only one turn"):
        run(load_config(mapping(model=node, grid=grid, max_new_tokens=2)), tmp_path)
    assert _stored(tmp_path) == 0
    assert run(load_config(mapping(model=node, composer="interleaved", max_new_tokens=2)), tmp_path / "one").failed == 0


def test_weights_that_are_not_numbers_end_the_run_before_the_first_sample(
    mapping: Mapping, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "norm" in name and "vision" not in name)
    save_file({**weights, name: np.full_like(weights[name], np.nan)}, file, metadata={"format": "pt"})
    config = mapping(model={"name": "hf", "path": str(tmp_path / "model")}, grid={"decoding": ["greedy", "vcd"]})
    with pytest.raises(
        ModelError, match=r"2 shots: the model does not answer: .*the score of token 0 is nan\. Nothing was computed\.$"
    ):
        run(load_config(config), tmp_path)
    assert _stored(tmp_path) == 0


def test_a_request_that_cannot_fit_beside_the_weights_ends_the_run_before_they_are_read(
    mapping: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = HF().memory_needs("float32")
    free = needs.weights + needs.request(RequestSize(30, 5, 2))
    monkeypatch.setattr("icl.models.hf.memory.host_memory", lambda: (free, free))
    monkeypatch.setattr(Checkpoint, "weights", lambda *_, **__: pytest.fail("the weights were read"))
    config = mapping(model={"name": "hf"}, grid={"shots": [0, 4], "decoding": ["greedy", "vcd", "code"]})
    problem = (
        r"model tiny: one request of 2 branches with .* tokens needs .*, and the main memory has 0\.\d MiB free after"
    )
    with pytest.raises(ModelError, match=problem) as error:
        run(load_config(config), tmp_path)
    for remedy in ("fewer shots (", "of 4 shots)", "`device_map: auto` over several devices", "a device with at least"):
        assert remedy in str(error.value)
    assert _stored(tmp_path) == 0


def _smallest_memory(cells: Sequence[Cell], weights: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """Free bytes above the weights that pass the check of these cells, to about a thousandth."""
    preflight, low, high = Preflight(cells), 0.0, 8.0 * 2**20
    preflight.check_prompts()
    for _ in range(13):
        middle = (low + high) / 2
        monkeypatch.setattr("icl.models.hf.memory.host_memory", lambda free=weights + middle: (free, free))
        try:
            preflight.check_memory()
        except ModelError:
            low = middle
        else:
            high = middle
    return high


def test_the_memory_check_does_not_mix_the_sizes_of_cells(mapping: Mapping, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cell makes a contrast's branches with the long prompt of greedy decoding, if `exclude` removes it."""
    config = mapping(model={"name": "hf"}, max_new_tokens=2)
    grid = {"shots": [0, 8], "decoding": ["greedy", "vcd"]}
    cells = expand(load_config({**config, "grid": grid, "exclude": [{"shots": 8, "decoding": "vcd"}]})).cells
    assert len(cells) == 3
    weights = HF().memory_needs("float32").weights
    together = _smallest_memory(cells, weights, monkeypatch)
    assert together == max(_smallest_memory([cell], weights, monkeypatch) for cell in cells)
    every = _smallest_memory(expand(load_config({**config, "grid": grid})).cells, weights, monkeypatch)
    assert together < 0.9 * every < 7 * 2**20


def test_an_image_that_cannot_be_read_fails_its_sample_only(mapping: Mapping, tmp_path: Path) -> None:
    """It is the first query, which is tried before the run."""
    names = [f"q{i}" for i in range(6)]
    for name in names:
        PILImage.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    rows = [{"id": name, "image": f"{name}.png", "question": "What?", "answer": name} for name in names]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {name: name for name in ("id", "question", "image", "answer")}
    task = {"name": "hub", "path": str(tmp_path / "rows.jsonl"), "columns": columns}
    config = mapping(task=task, shots=0)
    first, *others = expand(load_config(config)).tasks[0].queries
    (tmp_path / f"{first.answers[0]}.png").write_text("no image")
    outcome = run(load_config(config), tmp_path)
    assert (outcome.computed, outcome.failed) == (1 + len(others), 1)
    assert others


def test_prompts_whose_images_cannot_be_read_need_no_memory(mapping: Mapping, tmp_path: Path) -> None:
    (tmp_path / "q.png").write_text("no image")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "q", "image": "q.png", "question": "?", "answer": "a"}))
    columns = {name: name for name in ("id", "question", "image", "answer")}
    task = {"name": "hub", "path": str(tmp_path / "rows.jsonl"), "columns": columns, "pool_fraction": 0.0}
    Preflight(expand(load_config(mapping(task=task, model={"name": "hf"}, shots=0))).cells).check_memory()


def test_a_context_too_short_for_a_query_ends_the_run_with_one_sentence(mapping: Mapping, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(mapping(model={"name": "fake-copy", "max_tokens": 9})))
    command = [sys.executable, "-m", "experiments.cli.main", "run", "c.json", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    message = "without any demonstration, and the model's context of 9 leaves 0 after 16 for the answer"
    assert done.stderr.count(message) == 1
    with pytest.raises(ContextTooShortError, match=message):
        run(load_config(tmp_path / "c.json"), tmp_path / "runs")
    assert _stored(tmp_path / "runs") == 0


def test_the_arm_with_most_shots_is_tried_with_one_query(mapping: Mapping, tmp_path: Path) -> None:
    config = _scripted(mapping, tmp_path, "False", grid={"shots": [1, 4], "decoding": ["greedy"]})
    outcome = run(load_config(config), tmp_path)
    assert (outcome.computed, outcome.failed) == (6 * 2, 0)
    assert len((tmp_path / "asked").read_text().splitlines()) == 1 + 6 * 2


def test_a_model_that_fails_for_three_queries_ends_the_run(mapping: Mapping, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the model does not answer: .*ValueError: no\. Nothing was computed\.$"):
        run(load_config(_scripted(mapping, tmp_path, "True")), tmp_path)
    assert len(set((tmp_path / "asked").read_text().splitlines())) == 3
    assert _stored(tmp_path) == 0


def test_a_single_query_at_fault_fails_alone(mapping: Mapping, tmp_path: Path) -> None:
    for query in range(6):
        folder = tmp_path / f"{query}"
        folder.mkdir()
        outcome = run(load_config(_scripted(mapping, folder, f"'q-000{query}' in request.prompt.key.query")), folder)
        assert (outcome.computed, outcome.failed) == (6, 1)


def test_a_finished_run_asks_nothing(mapping: Mapping, tmp_path: Path) -> None:
    config = _scripted(mapping, tmp_path, "False")
    run(load_config(config), tmp_path)
    log = (tmp_path / "asked").read_text()
    assert run(load_config(config), tmp_path).computed == 0
    assert (tmp_path / "asked").read_text() == log
    assert Store(tmp_path / "t").read_run()
