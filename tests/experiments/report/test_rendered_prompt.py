"""The prompt that a processor writes, from an experiment file and from a run."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.api import run
from experiments.report.rendered_prompt import print_prompt
from experiments.results import Run
from icl.errors import ConfigError, DataError
from icl.models.hf.model import HF

FILE = """
task: {name: binding, ways: 2, queries: 3}
grid:
  shots: [1, 2]
  composer: [chat, interleaved]
"""


def _printed(source: Path, query: str = "", **arm: str) -> str:
    console = Console(record=True, width=200)
    print_prompt(source, query, arm, None, console, trust=True)
    return console.export_text()


def test_a_file_s_prompt_is_what_the_checkpoint_s_template_writes(tmp_path: Path) -> None:

    path = tmp_path / "x.yaml"
    path.write_text(FILE + "model: {name: hf, path: tiny}\n")
    text = _printed(path, composer="interleaved")
    slot = HF(path="tiny").renderer.slot
    assert text.count(slot) == 3  # two demonstrations and the query, no matter how many tokens an image takes
    assert "Answer:" in text
    assert "demo[0].image[0]" in text
    assert "tokens of " in text
    assert "demo[1].image[0]" not in _printed(path, shots="1")


@pytest.fixture(scope="module")
def done(mapping: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(mapping(seeds=[0, 1]), runs=tmp_path_factory.mktemp("prompts"), quiet=True)


def test_a_run_s_prompt_is_the_one_that_was_recorded(done: Run) -> None:
    sample = next(s for s in done.samples().to_dict("records") if s["seed"] == 0)
    assert str(sample["prompt"]) in _printed(done.path, str(sample["query"]))


def test_missing_cells_and_queries_are_errors(done: Run) -> None:
    with pytest.raises(DataError, match="there is no query 'zzz'"):
        _printed(done.path, "zzz")
    assert "retriever random" in _printed(done.path, retriever="random")
    with pytest.raises(ConfigError, match="no arm has shots '7'"):
        _printed(done.path, shots="7")
    with pytest.raises(ConfigError, match=r"no axis 'shot'\. Did you mean 'shots'"):
        _printed(done.path, shot="2")


def test_the_head_names_every_axis_and_is_folded(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(FILE + "model: {name: hf, path: tiny}\n")
    console = Console(record=True, width=60)
    print_prompt(path, "", {"composer": "interleaved"}, None, console)
    lines = console.export_text().splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if line.startswith("query  "))]
    assert max(map(len, head)) <= 60
    assert " ".join(map(str.strip, head)).startswith(
        "arm    task binding · 2-way, model tiny, shots 2, retriever random, order reversed, composer interleaved, "
    )
    assert " ".join(head).endswith("seed 0")
    assert "prompt, as the model's processor writes it, a placeholder for each image" in lines


def test_an_arm_may_be_named_without_its_parameters(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(FILE + "model: {name: hf, path: tiny}\n")
    path.write_text(
        path.read_text().replace("[chat, interleaved]", "[{name: blocks, order: qap}, {name: blocks}, chat]")
    )
    assert "composer blocks(order=" in " ".join(_printed(path, composer="blocks").split())


def test_every_branch_of_the_arm_is_shown_with_what_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    contrast = (
        "{name: contrast, label: mine, weights: [2, -0.5, -0.3, -0.2], branches: "
        "[{change: noise, step: 700, images: all}, {change: instruction, text: Guess wildly.}, no_image]}"
    )
    path.write_text(
        "task: {name: binding, ways: 2, queries: 3}\nshots: 2\nmodel: {name: hf, path: tiny}\n"
        f"grid: {{decoding: [greedy, code, {contrast}]}}\n"
    )
    text = _printed(path, decoding="mine")
    assert "branch 0, weight 2: the prompt above" in text
    noise = "demo[0].image[0], demo[1].image[0], query.image[0] edited by noise {step: 700}"
    assert f"branch 1, weight -0.5: {noise}\n" in text  # its text is the prompt's
    assert "branch 2, weight -0.3: text changed:" in text
    assert text.count("Guess wildly.") == 1
    assert "branch 3, weight -0.2: without query.image[0]; text changed:" in text
    slot = HF(path="tiny").renderer.slot
    assert text.rpartition("text changed:")[2].count(slot) == 2
    assert "branch" not in _printed(path, decoding="greedy")
    assert "the words 'a red square'" in _printed(path, decoding="code")
