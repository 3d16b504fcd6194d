"""The axis `intervene` of an experiment file, and `icl fit` for its vectors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PILImage

from decoding.base import LAYER_KEYS
from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.grid.feasibility import check_requirements
from experiments.grid.fitted_parameters import fitted_records
from experiments.grid.grid import expand
from experiments.grid.grid_warnings import grid_warnings
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.running.fit import fit, fit_vectors, group_border, mixed_mappings
from experiments.running.run import run
from icl.errors import ConfigError, DataError, PlanError
from icl.images import Image
from icl.registry import build, entries
from icl.tasks import check_no_shared_image
from icl.tasks.generated.binding import BindingTask
from icl.tasks.generated.operators import OperatorsTask
from icl.text.reasoning_blocks import ReasoningMarkers
from icl.types import Example

Mapping = Callable[..., dict[str, Any]]
MINUS = {"name": "operators", "operator": "minus", "queries": 24, "seed": 1}
TINY = {"name": "hf", "path": "tiny", "device": "cpu"}


def keys(**more: Any) -> dict[str, Any]:
    return {"name": "t", "task": MINUS, "model": TINY, "shots": 8, "max_new_tokens": 4, **more}


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file written by the command."""
    folder = tmp_path_factory.mktemp("fit")
    (folder / "x.json").write_text(json.dumps(keys(intervene="task_vector")))
    assert main(["fit", str(folder / "x.json"), "--sources", "12", "--out", str(folder / "plus.safetensors")]) == 0
    return folder / "plus.safetensors"


def digests(config: dict[str, Any]) -> list[str]:
    return [cell.digest for cell in expand(load_config(config)).cells]


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ({"name": "knock_out", "layers": [0, 99]}, "layers: the model has no layer 99. Its 4 layers are 0 to 3; -1 is"),
        ({"name": "batch_icl", "layer": -5}, "layer: the model has no layer -5"),
        ({"name": "attention_scaling", "last_layer": 4}, "last_layer: the model has no layer 4"),
        ({"name": "attention_scaling", "first_layer": 2, "last_layer": 1}, "first_layer 2 is above last_layer 1"),
        ({"name": "attention_scaling", "first_layer": -1, "last_layer": 0}, "first_layer -1 is above last_layer 0"),
    ],
)
def test_a_layer_that_the_model_lacks_is_refused_before_it_is_loaded(method: dict[str, Any], problem: str) -> None:
    grid = expand(load_config(keys(intervene=method)))
    with pytest.raises(PlanError, match=rf"intervene: model 'tiny', intervene '.*': {problem}"):
        check_requirements(grid)
    assert "engine" not in vars(grid.cells[0].model)


def test_every_method_with_numbers_of_layers_has_them_checked() -> None:
    model, checked = build("model", TINY), 0
    for name in entries("intervention"):
        plain = build("intervention", name)
        for key in LAYER_KEYS:
            if hasattr(plain, key):
                value = [4] if key == "layers" else 4
                assert str(build("intervention", {"name": name, key: value}).model_problem(model)).startswith(
                    f"{key}: "
                )
                fine = [3, -4] if key == "layers" else 2
                assert build("intervention", {"name": name, key: fine}).model_problem(model) is None
                checked += 1
    assert checked >= 8


def test_cells_without_an_intervention_have_the_digests_that_they_had_before(mapping: Mapping) -> None:
    """The recorded digest is that of the version before the axis existed."""
    assert digests(mapping()) == digests(mapping(intervene="none")) == digests(mapping(intervene={"name": "none"}))
    assert digests({"name": "t", "task": {"name": "operators"}, "model": {"name": "fake-copy"}, "shots": 2}) == [
        RECORDED
    ]


RECORDED = "5116973aba63df8a"


def test_fit_then_run_recovers_what_demonstrations_give(vectors: Path, tmp_path: Path) -> None:
    record = json.loads(vectors.with_suffix(".json").read_text())
    assert record["parameters"]["layer"] == 2
    on = record["fitted_on"]
    assert (len(on["sources"]), len(on["choice"]), on["shots"], on["width"]) == (12, 12, 8, 160)
    assert not set(on["sources"]) & set(on["choice"])
    method = {"name": "task_vector", "fitted": str(vectors)}
    config = keys(
        task={**MINUS, "seed": 2, "queries": 16},
        shots=0,
        controls="default",
        zip={"shots": [0, 0, 8], "intervene": ["none", method, "none"]},
    )
    run(load_config(config), tmp_path)
    frame = load_run(tmp_path / "t").samples()
    assert not frame["failed"].notna().any()
    many = frame["decoding"].str.startswith("more_demonstrations")
    assert set(frame[many]["demos"].map(len)) == {24}  # as many demonstrations as labeled items
    accuracy = frame[~many].groupby(["intervene", "shots"])["strict"].mean().to_dict()
    names = {f"task_vector(control={one})" for one in ("none", "random", "shuffled", "zero_shot")}
    assert set(frame["intervene"]) == {"none", *names}
    off, full = accuracy["none", 0], accuracy["none", 8]
    assert accuracy["task_vector(control=none)", 0] > off + 0.5 * (full - off)
    assert accuracy["task_vector(control=random)", 0] < off
    table = load_run(tmp_path / "t").analyze("recovery").set_index("intervene")
    own = table.loc["task_vector(control=none)"]
    steered = accuracy["task_vector(control=none)", 0]
    assert own["recovery"] == pytest.approx((steered - off) / (full - off))
    assert own["low"] <= own["recovery"] <= own["high"]
    assert set(table.index) == names
    assert table["beyond"].isna().tolist() == [name == "task_vector(control=none)" for name in table.index]
    sentences = view_run(load_run(tmp_path / "t")).findings
    (steered_one,) = [one for one in sentences if one.topic == "Intervention"]
    assert steered_one.claim.startswith("task_vector beats no intervention (")
    controls = ("random", "shuffled", "zero_shot", "more_demonstrations(factor=24)")
    assert all(f"{name} (" in steered_one.more for name in controls)
    assert [one.subject for one in sentences if one.topic == "Vote"] == ["operators · minus"]
    assert not [one for one in sentences if one.topic == "Decoding" or "no pair" in one.sentence]


def test_labelled_items_are_controls_as_demonstrations_and_as_a_constant_bias(vectors: Path, tmp_path: Path) -> None:
    """The bias needs option scoring and a fit on options. Neither is added where the vectors are excluded."""

    def controls(path: Path, **more: Any) -> set[tuple[str, int]]:
        method = {"name": "task_vector", "fitted": str(path)}
        cells = expand(load_config(keys(intervene=method, shots=0, controls="default", **more))).cells
        assert all(cell.intervene is None or cell.steering is None for cell in cells if cell.control)
        return {(cell.labels["decoding"], cell.shots) for cell in cells if cell.control}

    many, with_bias = ("more_demonstrations(factor=24)", 1), tmp_path / "bias.safetensors"
    record = json.loads(vectors.with_suffix(".json").read_text())
    record["fitted_on"]["option_biases"] = [0.0, 0.5]
    with_bias.write_bytes(vectors.read_bytes())
    with_bias.with_suffix(".json").write_text(json.dumps(record))
    assert controls(vectors) == controls(with_bias) == {many}
    assert controls(vectors, answer_mode="options") == {many}
    assert controls(with_bias, answer_mode="options") == {many, ("constant_bias(biases=[0, 0.5])", 0)}
    off = {
        "intervene": "none",
        "zip": {"shots": [0, 0], "intervene": ["none", {"name": "task_vector", "fitted": str(vectors)}]},
    }
    grid = expand(load_config({**keys(controls="default"), **off, "exclude": [{"intervene": "task_vector"}]}))
    assert {cell.labels["decoding"] for cell in grid.cells} == {"greedy"}


def test_a_fit_on_options_has_the_constant_bias_of_the_same_queries() -> None:
    task = {"name": "binding", "ways": 2, "queries": 6, "seed": 1}
    config = keys(task=task, shots=2, answer_mode="options")
    fitted = fit_vectors(load_config({**config, "intervene": "task_vector"}))
    bias = fit(load_config({**config, "shots": 0, "decoding": "constant_bias"})).strategy
    assert tuple(fitted.record["option_biases"]) == bias.biases  # type: ignore[attr-defined]
    assert len(bias.biases) == 2  # type: ignore[attr-defined]


def test_vectors_are_identified_by_their_contents_not_by_their_place(vectors: Path, tmp_path: Path) -> None:
    for path in (vectors, vectors.with_suffix(".json")):
        (tmp_path / f"copy{path.suffix}").write_bytes(path.read_bytes())
    first, copy = (
        digests(keys(shots=0, intervene={"name": "task_vector", "fitted": str(path)}))
        for path in (vectors, tmp_path / "copy.safetensors")
    )
    assert first == copy
    assert first != digests(keys(shots=0))
    other = digests(keys(shots=0, intervene={"name": "task_vector", "fitted": str(vectors), "layer": 1}))
    assert other != first


def test_a_backend_without_states_is_refused_in_the_plan(mapping: Mapping, vectors: Path) -> None:
    method = {"name": "task_vector", "fitted": str(vectors)}
    for model in ("fake-copy", {"name": "remote", "model": "m", "url": "http://localhost:1/v1"}):
        grid = expand(load_config(mapping(intervene=method, model=model)))
        with pytest.raises(PlanError, match=r"cannot edit hidden states.*It runs with model hf; or remove"):
            check_requirements(grid)
    with pytest.raises(PlanError, match=r"'task_vector' has no vectors yet\. Run `icl fit`"):
        check_requirements(expand(load_config(keys(intervene="task_vector"))))


@pytest.mark.parametrize(
    ("method", "before", "is_new"),
    [
        ({"name": "vista"}, "f0aeda48edee649b", False),
        ({"name": "vista", "acts_in": "think"}, "da39b061ddf2edb9", True),
        ({"name": "knock_out"}, "fdd0b074180c8a42", False),
        ({"name": "knock_out", "keys": ["demo_images"]}, "83f4c3618d3007d3", True),
        ({"name": "knock_out", "tokens": "query_images"}, "726ab470f7df439c", True),
        ({"name": "attention_scaling"}, "d86e8676c3e520b7", True),
        ({"name": "attention_scaling", "keys": ["demo[0].image[0]"]}, "fb691ffcb3a6d4b6", True),
    ],
)
def test_cells_whose_arithmetic_changed_have_new_digests(method: dict[str, Any], before: str, is_new: bool) -> None:
    """The recorded digests are those before answers began at forced markers, and images were without marker tokens."""
    own: dict[str, Any] = {"name": "t", "task": {"name": "operators"}, "model": {"name": "fake-copy"}, "shots": 2}
    assert (digests({**own, "max_thinking_tokens": 5, "intervene": method}) != [before]) == is_new


def test_acting_in_one_part_of_the_output_is_another_cell(vectors: Path) -> None:
    def cells(**more: Any) -> list[str]:
        return digests(keys(max_thinking_tokens=5, intervene={"name": "task_vector", "fitted": str(vectors), **more}))

    assert cells() == cells(acts_in="both")
    assert len({*cells(), *cells(acts_in="think"), *cells(acts_in="answer")}) == 3
    with pytest.raises(ConfigError, match=r"acts_in: input should be 'think', 'answer' or 'both'"):
        cells(acts_in="thinking")


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ({"name": "vista"}, {}, r"acts_in: think needs to know.*Set max_thinking_tokens \(and answer_mode: generate\)"),
        ({"name": "vista"}, {"max_thinking_tokens": 5, "answer_mode": "options"}, "answer_mode: generate"),
        (
            {"name": "knock_out", "tokens": "demo_answers"},
            {"max_thinking_tokens": 5},
            "edits other tokens of the prompt",
        ),
        ({"name": "batch_icl", "layer": 2}, {"max_thinking_tokens": 5}, "edits other tokens of the prompt"),
        ({"name": "aim"}, {"max_thinking_tokens": 5}, "edits other tokens of the prompt"),
        ({"name": "vista"}, {"max_thinking_tokens": 5, "model": "fake-copy"}, "cannot edit hidden states"),
    ],
)
def test_acting_in_one_part_is_refused_in_the_plan_where_no_output_has_it(
    method: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        check_requirements(expand(load_config(keys(intervene={**method, "acts_in": "think"}, **more))))
    possible = {"name": "knock_out", "acts_in": "think"}
    check_requirements(expand(load_config(keys(intervene=possible, max_thinking_tokens=5))))


def test_a_report_says_that_outputs_have_no_reasoning_for_an_intervention_to_act_in(tmp_path: Path) -> None:
    parts = [{"name": "vista", "acts_in": part} for part in ("think", "both")]
    task = {**MINUS, "queries": 3}
    run(load_config(keys(task=task, shots=0, max_thinking_tokens=2, grid={"intervene": ["none", *parts]})), tmp_path)
    view = view_run(load_run(tmp_path / "t"))
    note = "3 of 3 outputs under vista(acts_in=think) have no reasoning block, so it changes nothing there"
    assert [one for one in view.answer_notes if "reasoning" in one] == [note]
    texts = view.frame.groupby("intervene")["output"].apply(list)
    assert texts["vista(acts_in=think)"] == texts["none"]


def test_arms_of_a_study_act_in_their_own_parts_of_the_output(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """<a> ends every prompt. As the opening marker of reasoning, it lets the tiny model think."""
    monkeypatch.setattr("icl.text.reasoning_blocks.REASONING_MARKERS", (ReasoningMarkers("<a>", "<q>"),))
    method = {"name": "task_vector", "fitted": str(vectors), "strength": 2.0}
    parts: list[Any] = [{**method, "acts_in": part} for part in ("think", "answer", "both")]
    config = keys(
        task={**MINUS, "seed": 2, "queries": 6}, shots=0, max_thinking_tokens=1, grid={"intervene": ["none", *parts]}
    )
    run(load_config(config), tmp_path)
    frame = load_run(tmp_path / "t").samples()
    assert not frame["failed"].notna().any()
    assert set(frame["thinking"]) == {"cut"}
    texts = {name: list(own.sort_values("query")["output"]) for name, own in frame.groupby("intervene")}
    names = ("none", "task_vector(acts_in=think)", "task_vector(acts_in=answer)", "task_vector(acts_in=both)")
    none, think, answer, both = (texts[name] for name in names)
    assert think == both  # the last token of the prompt leads on to the reasoning
    assert answer != none
    assert answer != think
    assert [one.split("<q>")[0] for one in answer] == [one.split("<q>")[0] for one in none]  # the same reasoning


def test_attention_that_computes_no_scores_is_refused_in_the_plan() -> None:
    for method in ("knock_out", "attention_scaling"):
        check_requirements(expand(load_config(keys(intervene=method))))
        flash = {**TINY, "attn_implementation": "flash_attention_2"}
        with pytest.raises(PlanError, match=r"flash_attention_2 computes no scores.*Use sdpa or eager"):
            check_requirements(expand(load_config(keys(intervene=method, model=flash))))


def test_one_shot_has_no_control_with_exchanged_answers() -> None:
    def controls(shots: int) -> list[str]:
        grid = expand(load_config(keys(intervene={"name": "batch_icl", "layer": 2}, shots=shots, controls="default")))
        return sorted({cell.intervene.control for cell in grid.cells if cell.intervene is not None})  # type: ignore[attr-defined]

    assert controls(1) == ["none", "random"]
    assert controls(2) == ["none", "random", "shuffled"]


def test_a_method_that_reads_demonstrations_is_refused_at_zero_shots() -> None:
    method = {"name": "batch_icl", "layer": 2}
    check_requirements(expand(load_config(keys(intervene=method))))
    with pytest.raises(PlanError, match="is made of the prompt's demonstrations, and shots is 0"):
        check_requirements(expand(load_config(keys(intervene=method, shots=0))))
    with pytest.raises(PlanError, match="'batch_icl' needs a layer, chosen on a dev split"):
        check_requirements(expand(load_config(keys(intervene="batch_icl"))))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"model": {**TINY, "dtype": "float16"}},
            "of another model .*: dtype was auto and is float16. .*transfer: true",
        ),
        ({"composer": "interleaved"}, "were fitted with the composer chat, and this cell has interleaved"),
    ],
)
def test_vectors_of_another_model_or_template_are_refused(vectors: Path, more: Any, message: str) -> None:
    method = {"name": "task_vector", "fitted": str(vectors)}
    with pytest.raises(PlanError, match=message):
        check_requirements(expand(load_config(keys(shots=0, intervene=method, **more))))
    check_requirements(expand(load_config(keys(shots=0, intervene={**method, "transfer": True}, **more))))


def test_vectors_of_the_base_model_are_refused_with_an_adapter_by_its_name(vectors: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    method = {"name": "task_vector", "fitted": str(vectors)}
    grid = expand(load_config(keys(shots=0, intervene=method, model={**TINY, "adapter": str(tmp_path)})))
    with pytest.raises(PlanError, match=rf"of another model .*adapter was None and is {tmp_path}"):
        check_requirements(grid)


def test_dev_queries_reported_as_test_are_warned_of(vectors: Path) -> None:
    method = {"name": "task_vector", "fitted": str(vectors)}
    grid = expand(load_config(keys(shots=0, intervene=method)))
    assert [file for file, _ in fitted_records(grid.cells[0])] == ["plus.safetensors"]
    same = list(grid_warnings(grid))
    assert any("plus.safetensors were fitted on queries that" in warning for warning in same)
    other = list(grid_warnings(expand(load_config(keys(shots=0, intervene=method, task={**MINUS, "seed": 5})))))
    assert not any("plus.safetensors" in warning for warning in other)


def test_a_fit_on_mixed_mappings_is_warned_of() -> None:
    result = fit_vectors(load_config(keys(task={**MINUS, "operator": None, "queries": 8}, intervene="task_vector")))
    assert any("the sources mix 3 mappings (operator: " in warning for warning in result.warnings)
    assert mixed_mappings(OperatorsTask(operator="plus")) is None
    assert mixed_mappings(BindingTask()) is None


def examples(groups: str, images: str = "") -> list[Example]:
    """One query for each letter of `groups`, with the image of the same letter of `images`."""
    made = {letter: Image.from_pil(PILImage.new("RGB", (4, 4), (ord(letter), 0, 0))) for letter in images}
    return [
        Example(f"q{i}", (made[images[i]],) if images else (), "?", ("a",), group=None if group == "-" else group)
        for i, group in enumerate(groups)
    ]


@pytest.mark.parametrize(
    ("groups", "count", "border"),
    [("------", 3, 3), ("aabbbc", 3, 2), ("aabbbc", 4, 5), ("aaabbb", 2, 3), ("abab-c", 2, 4), ("aaaa-b", 2, 4)],
)
def test_sources_end_at_the_nearest_border_of_groups(groups: str, count: int, border: int) -> None:
    assert group_border(examples(groups), count, "x: task") == border


def test_one_source_makes_a_task_vector_and_no_vector_of_a_direction() -> None:
    config = load_config(keys(task={**MINUS, "queries": 3}, intervene={"name": "task_vector", "layer": 2}))
    assert len(fit_vectors(config, 1).record["sources"]) == 1
    with pytest.raises(DataError, match=r"1 of 3 queries as sources leave too few\. At least 2 are"):
        fit_vectors(load_config(keys(task={**MINUS, "queries": 3}, intervene="icv")), 1)


def test_a_method_that_reads_no_demonstrations_fits_without_them() -> None:
    task = {**MINUS, "queries": 4}
    with_them, without = (fit_vectors(load_config(keys(task=task, shots=n, intervene="icv"))) for n in (8, 0))
    for name, own in without.fitted.tensors.items():
        assert torch.allclose(own, with_them.fitted.tensors[name], atol=1e-4)
    assert "few_shot" in with_them.fitted.report
    assert "few_shot" not in without.fitted.report
    assert not any("demonstrations do not help" in one for one in without.warnings)


def test_a_division_that_shares_a_group_or_an_image_is_refused() -> None:
    with pytest.raises(DataError, match=r"^x: task: the queries cannot be divided .* divides a group\. Sort"):
        group_border(examples("abcacb"), 3, "x: task")
    queries = examples("------", "abcdea")
    names = "others", "the sources"
    with pytest.raises(DataError, match=r"^x: task: 1 of 3 others .* 'q5' and 'q0' have the same image"):
        check_no_shared_image(queries[:3], queries[3:], "x: task", names, "")
    check_no_shared_image(queries[:3], queries[3:5], "x: task", names, "")


def test_a_fit_divides_no_puzzle() -> None:
    """Raven asks about one puzzle in several queries, so half of 9 puzzles is not half of the queries."""
    task = {"name": "raven", "queries": 36, "candidates": 4, "support": 4}
    result = fit_vectors(load_config(keys(task=task, shots=1, intervene="task_vector")), sources=18)
    groups = [{name.rsplit("-", 2)[0] for name in result.record[part]} for part in ("sources", "choice")]
    assert len(result.record["sources"]) == 20
    assert not groups[0] & groups[1]


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"shots": 0}, ConfigError, "vectors are made of prompts with demonstrations, and shots is 0"),
        ({"grid": {"shots": [4, 8]}}, ConfigError, "vectors are fitted in one setting"),
        ({"model": "fake-copy"}, PlanError, "has no hidden states that can be edited"),
        ({"task": {**MINUS, "queries": 1}}, DataError, "0 of 1 queries as sources leave too few"),
        (
            {"intervene": {"name": "task_vector", "acts_in": "answer"}},
            ConfigError,
            "vectors are fitted without reasoning",
        ),
    ],
)
def test_a_fit_that_is_impossible_says_why(more: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit_vectors(load_config(keys(**{"intervene": "task_vector", **more})))


def test_no_intervention_keeps_its_label_beside_a_single_other_value(tmp_path: Path) -> None:
    values = ["none", {"name": "knock_out", "layers": [0], "keys": ["query_images"]}]
    task = {**MINUS, "queries": 1}
    run(load_config(keys(task=task, shots=1, max_new_tokens=1, grid={"intervene": values})), tmp_path)
    assert sorted(load_run(tmp_path / "t").samples()["intervene"]) == ["knock_out", "none"]
