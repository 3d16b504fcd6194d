"""How much answer tokens depend on images, on a model whose likelihoods are known and on the shipped one."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from experiments.analyses import influence, visual_correlation
from experiments.analyses.run_prompts import run_prompts, with_answer
from experiments.cli.main import main
from experiments.grid.grid import Cell
from experiments.tuning.objectives import cal_weights
from icl.errors import ConfigError, PlanError
from icl.images import Image
from icl.models.fake import FakeModel
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Example

PARTS = Path(__file__).parent / "parts.py"
READER = {"name": f"{PARTS}:Reader"}


def test_an_answer_loses_what_its_image_gives(ran: Any) -> None:
    table = visual_correlation.analyze(ran(model=READER, shots=2, seeds=[0]))
    assert list(table["answer"]) == ["demonstration 1", "demonstration 2", "query"]
    assert set(table["no_image"]) == {1.0}
    assert set(table["other_image"]) == {3.0}
    assert set(table["weight"]) == {1.0}
    assert set(table["n"]) == {6}


def test_settings_and_seeds_have_prompts_of_their_own_and_queries_limit_them(ran: Any) -> None:
    view = ran(model=READER, seeds=[0, 1], grid={"shots": [0, 2], "decoding": ["greedy"]})
    table = visual_correlation.analyze(view, queries=2)
    assert list(zip(table["shots"], table["answer"], table["n"], strict=True)) == [
        (0, "query", 4), (2, "demonstration 1", 4), (2, "demonstration 2", 4), (2, "query", 4)
    ]  # fmt: skip


def test_a_grid_of_models_has_one_loaded_at_a_time(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    view = ran(grid={"shots": [1, 2], "model": ["fake-copy", "fake-vote"]}, seeds=[0])
    events: list[str] = []
    monkeypatch.setattr(FakeModel, "unload", lambda model: events.append("unload"))
    for setting, _ in run_prompts(view, "generate", 1):
        events.append(f"{setting['model']} {setting['shots']}")
    assert events == ["fake-copy 1", "fake-copy 2", "unload", "fake-vote 1", "fake-vote 2"]


def test_the_answer_beside_a_prompt_is_that_without_an_intervention(ran: Any) -> None:
    cut = {"name": "knock_out", "layers": [0]}
    axes = {"intervene": [cut, "none"], "max_new_tokens": [1, 2]}
    task = {"name": "operators", "queries": 1}
    view = ran(model={"name": "hf", "path": "tiny"}, task=task, shots=1, seeds=[0], grid=axes)
    [(setting, [one])] = run_prompts(view, "text_logprobs", 1)
    assert (one.cell.steering, one.cell.max_new_tokens, "intervene" in setting) == (None, 1, False)
    answers = view.frame.set_index("cell")["output"]
    assert one.output == answers[one.cell.digest]
    under = replace(one, item=replace(one.item, spec=replace(one.item.spec, cells=(steered_cell(one.cell, cut),))))
    assert all(np.isnan(each.answer) and not np.isnan(each.gold) for each in influence.influences(under))


def steered_cell(cell: Cell, node: dict[str, Any]) -> Cell:
    return replace(cell, intervene=build("intervention", node))


def test_answers_with_other_tokens_without_their_image_are_counted_and_left_out(ran: Any) -> None:
    uneven = {"name": f"{PARTS}:Uneven"}
    axes = {"model": [uneven, {**uneven, "longer": ["blue"]}]}
    table = visual_correlation.analyze(ran(grid=axes, shots=0, seeds=[0]))
    assert list(table["n"]) == [4, 4], "two of six answers are red, two are blue"
    assert table.attrs["note"].endswith("; 4 answers left out: other tokens without the images")
    view = ran(name="longer", model={**uneven, "longer": ["red", "green", "blue"]}, shots=0, seeds=[0])
    with pytest.raises(ConfigError, match=r"effect could be measured \(6 answers left out: other tokens without"):
        visual_correlation.analyze(view)


def test_other_images_have_other_answers_if_there_are_any() -> None:
    def example(name: str, shade: int, answer: str) -> Example:
        return Example(name, (Image.from_pil(PILImage.new("RGB", (4, 4), (shade, 0, 0)), name),), "?", (answer,))

    own, same, other = example("own", 1, "Red"), example("same", 2, "red."), example("other", 3, "blue")

    def others(*members: Example) -> list[Image]:
        one: Any = SimpleNamespace(
            cell=SimpleNamespace(task=SimpleNamespace(pool=lambda _: Pool(members))),
            item=SimpleNamespace(example=SimpleNamespace(id="q")),
        )
        return visual_correlation._other_images(one, {own.images[0].digest}, "red")

    two = replace(other, images=(*other.images, *same.images))
    assert others(own, same, two) == list(other.images), "the first image of each"
    assert others(own, same) == list(same.images)
    assert others(own) == []


def test_a_model_that_scores_no_texts_is_refused(ran: Any) -> None:
    with pytest.raises(PlanError, match=r"reads text logprobs, which 'fake-copy' does not give"):
        visual_correlation.analyze(ran(model="fake-copy"))


def test_a_run_without_images_has_no_visual_correlation(ran: Any) -> None:
    blind = [{"name": "images", "how": "removed", "where": "all"}]
    with pytest.raises(ConfigError, match="no answer in a prompt has an image"):
        visual_correlation.analyze(ran(model=READER, transforms=blind))


def test_the_shipped_model_gives_the_differences_of_its_own_likelihoods(ran: Any) -> None:
    task = {"name": "operators", "queries": 2}
    view = ran(model={"name": "hf", "path": "tiny"}, task=task, shots=1, seeds=[0], max_new_tokens=2)
    row = visual_correlation.analyze(view).iloc[-1]
    [(_, prompts)] = run_prompts(view, "text_logprobs", 2)
    differences = []
    for one in prompts:
        whole = with_answer(one.prompt, one.item.example.answer)
        blind = whole.map(lambda part: None if part.name.startswith("query.image") else part)
        real, without = one.cell.model.text_logprobs([whole, blind], "query.answer")  # type: ignore[attr-defined]
        differences += [a - b for a, b in zip(real, without, strict=True)]
    assert row["no_image"] == pytest.approx(sum(differences) / len(differences), abs=1e-4)


def test_the_command_limits_queries_and_draws_the_figure(
    ran: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(ran(model=READER, shots=1, seeds=[0]).path)
    options = ["--queries", "2", "--as", "svg", "--out", str(tmp_path / "f.svg"), "--trust"]
    assert main(["analyze", path, "visual_correlation", *options]) == 0
    assert (tmp_path / "f.svg").read_text().startswith("<svg")
    assert main(["analyze", path, "copying", "--queries", "2"]) == 2
    assert main(["analyze", path, "copying", "--as", "svg", "--out", str(tmp_path / "f.svg")]) == 2
    errors = capsys.readouterr().err
    assert "--queries: 'copying' reads the stored samples of all queries" in errors
    assert "'copying' has no figure" in errors


SCORES = torch.tensor([[0.0, 9.0, 2.0, 3.0], [5.0, 7.0, -2.0, 8.0]])
COUNTS = torch.tensor([[True, True, False, True], [False, True, True, True]])


def test_weights_are_bounded_scores_averaged_over_neighbors() -> None:
    """Row 0: (1, 5 | 3): means 3, 3, 3. Row 1: (5, 1, 5): means 3, 11/3, 3."""
    expected = torch.tensor([[1, 1, 0, 1], [0, 9, 11, 9]]) / torch.tensor([[3], [29]])
    torch.testing.assert_close(cal_weights(SCORES, COUNTS), expected)


def test_a_row_does_not_depend_on_the_others() -> None:
    alone = torch.cat([cal_weights(SCORES[i : i + 1], COUNTS[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(cal_weights(SCORES, COUNTS), alone)
    longer = cal_weights(torch.cat([SCORES, SCORES], 1), torch.cat([COUNTS, torch.zeros_like(COUNTS)], 1))
    torch.testing.assert_close(longer[:, :4], alone)


def test_a_row_without_tokens_has_no_weights() -> None:
    assert not cal_weights(SCORES, torch.zeros_like(COUNTS)).any()
