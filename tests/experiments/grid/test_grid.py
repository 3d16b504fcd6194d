from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from decoding import Strategy
from experiments.config.config import load_config
from experiments.grid.grid import Grid, expand, short_digest
from icl import registry
from icl.errors import ConfigError
from icl.models.hf.model import HF
from icl.types import Prompt

Write = Callable[..., Path]
Mapping = Callable[..., dict[str, Any]]


def grid_of(config: Any, *overrides: str) -> Grid:
    return expand(load_config(config, overrides))


def error_of(config: Any, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        grid_of(config, *overrides)
    return str(error.value)


def column(grid: Grid, axis: str) -> list[Any]:
    return [cell.labels[axis] for cell in grid.cells]


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def test_a_grid_is_every_combination_with_every_seed(mapping: Mapping) -> None:
    axes = {"shots": [1, 2], "retriever": ["random", "balanced"]}
    grid = grid_of(without(mapping(grid=axes, seeds=[0, 5]), "shots"))
    values = list(zip(column(grid, "shots"), column(grid, "retriever"), column(grid, "seed"), strict=True))
    assert values == [(k, r, s) for k in (1, 2) for r in ("random", "balanced") for s in (0, 5)]
    assert len({cell.digest for cell in grid.cells}) == 8


def test_a_digest_does_not_read_the_order_of_keys_and_is_pinned() -> None:
    """A change of it makes every stored cell another one."""
    assert short_digest({"a": [1, "é"], "b": {"d": None, "c": 0.5}}) == short_digest(
        {"b": {"c": 0.5, "d": None}, "a": [1, "é"]}
    )
    assert short_digest({"a": [1, "é"]}) == "5db14a2cddc92d31"


def test_zip_goes_side_by_side_and_multiplies_with_the_grid(mapping: Mapping) -> None:
    config = mapping(zip={"shots": [1, 2], "order": ["random", "reversed"]}, grid={"composer": ["chat", "interleaved"]})
    grid = grid_of(without(config, "shots"))
    values = list(zip(column(grid, "composer"), column(grid, "shots"), column(grid, "order"), strict=True))
    assert values == [(c, *pair) for c in ("chat", "interleaved") for pair in ((1, "random"), (2, "reversed"))]


def test_a_value_of_zip_is_paired_with_several(mapping: Mapping) -> None:
    config = mapping(zip={"shots": [1, 2, 2], "order": ["random", "random", "reversed"]})
    grid = grid_of(without(config, "shots"))
    values = list(zip(column(grid, "shots"), column(grid, "order"), strict=True))
    assert values == [(1, "random"), (2, "random"), (2, "reversed")]


def test_at_0_shots_retriever_and_order_are_one_cell(mapping: Mapping) -> None:
    axes = {"shots": [0, 1], "retriever": ["random", "balanced"], "order": ["reversed", "random"]}
    grid = grid_of(without(mapping(grid=axes), "shots"))
    assert column(grid, "shots").count(0) == 1
    assert column(grid, "shots").count(1) == 4
    zero = next(cell for cell in grid.cells if cell.shots == 0)
    assert (zero.labels["retriever"], zero.labels["order"]) == ("none", "none")


def test_an_axis_overrides_the_key_of_its_name(mapping: Mapping) -> None:
    assert column(grid_of(mapping(grid={"shots": [4]})), "shots") == [4]


def test_exclude_takes_out_what_matches_all_its_values(mapping: Mapping) -> None:
    axes = {"shots": [1, 2], "retriever": ["random", "balanced"]}
    grid = grid_of(without(mapping(grid=axes, exclude=[{"shots": 2, "retriever": "balanced"}]), "shots"))
    assert list(zip(column(grid, "shots"), column(grid, "retriever"), strict=True)) == [
        (1, "random"),
        (1, "balanced"),
        (2, "random"),
    ]
    assert grid.warnings == ()


def test_exclude_matches_parameters_lists_and_arms(mapping: Mapping, toy: str) -> None:
    nodes = ["greedy", {"name": "vcd", "alpha": 0.5}, {"name": "vcd", "alpha": 1.0}]
    config = mapping(model=toy, grid={"decoding": nodes})
    assert len(grid_of({**config, "exclude": [{"decoding": "vcd"}]}).cells) == 1
    assert len(grid_of({**config, "exclude": [{"decoding": {"name": "vcd", "alpha": 0.5}}]}).cells) == 2
    assert len(grid_of({**config, "exclude": [{"decoding": ["greedy", {"alpha": 1.0}]}]}).cells) == 1


def test_exclude_that_matches_nothing_is_warned_of_and_everything_is_refused(yaml_file: Write) -> None:
    path = yaml_file("task: SHAPES\nmodel: fake-copy\nexclude:\n  - {shots: 7}\n")
    assert grid_of(path).warnings == (f"{path}:4: exclude[0]: matches no cell.",)
    path.write_text(path.read_text().replace("shots: 7", "shots: 0"))
    assert error_of(path) == f"{path}:3: exclude: no cell is left in the grid."


def test_an_axis_of_a_parameter_changes_only_the_components_that_have_it(mapping: Mapping, toy: str) -> None:
    axes = {"decoding": ["greedy", "vcd"], "decoding.alpha": [0.5, 2.0]}
    grid = grid_of(mapping(model=toy, grid=axes))
    assert column(grid, "decoding") == ["greedy", "vcd(alpha=0.5)", "vcd(alpha=2)"]


def test_a_component_beside_the_file_is_found_from_anywhere(yaml_file: Write) -> None:
    path = yaml_file("task: beside.py:Shapes\nmodel: fake-copy\n")
    (path.parent / "beside.py").write_text((Path(__file__).parents[1] / "shapes.py").read_text())
    assert grid_of(path).cells[0].config["task"]["name"].endswith("Shapes")


def test_a_digest_depends_on_parameters_seed_and_model_and_on_no_label_or_spelling(mapping: Mapping) -> None:
    def digest(**keys: Any) -> str:
        return grid_of(mapping(**keys)).cells[0].digest

    same = digest()
    assert digest(decoding={"name": "greedy", "label": "plain"}) == same
    assert digest(retriever={"name": "random"}, order="reversed", name="other") == same
    others = [
        digest(shots=1),
        digest(seeds=[1]),
        digest(model="fake-vote"),
        digest(max_new_tokens=4),
        digest(composer="interleaved"),
    ]
    assert len({same, *others}) == 6


def test_settings_of_a_model_outside_its_digest_make_no_other_cell(mapping: Mapping, toy: str) -> None:
    small, large = (grid_of(mapping(model={"name": toy, "max_batch_tokens": n})).cells[0].digest for n in (64, 4096))
    assert small == large


def test_a_digest_depends_on_the_weights_of_a_judge(
    mapping: Mapping, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digests() -> list[str]:
        arms = [{"name": "best_of_n", "judge_model": {"name": "hf", "path": "tiny"}}, "best_of_n"]
        return [cell.digest for cell in grid_of(mapping(model=toy, grid={"decoding": arms})).cells]

    judged, plain = digests()
    monkeypatch.setattr(HF, "digest", "other weights at this path")
    other, same = digests()
    assert judged != other
    assert plain == same


def test_labels_have_only_the_parameters_that_differ(mapping: Mapping) -> None:
    nodes = ["random", {"name": "knn", "by": "question"}, {"name": "knn", "by": "image"}]
    assert column(grid_of(mapping(grid={"retriever": nodes})), "retriever") == [
        "random",
        "knn(by=question)",
        "knn(by=image)",
    ]


def test_classes_that_one_function_makes_are_arms_of_their_own(mapping: Mapping, toy: str) -> None:
    def made(strength: float) -> type[Strategy]:
        @dataclass(frozen=True)
        class Scaled(Strategy):
            """The logits times a number."""

            def branches(self, prompt: Prompt, note: object = None) -> tuple[Prompt, ...]:
                return (prompt,)

            def combine(self, logits: Any, step: Any) -> Any:
                return strength * logits[0]

        return Scaled

    one, other = made(1.0), made(2.0)
    for nodes in ([one, other], [one(), other()], [{"name": one}, {"name": other}]):
        grid = grid_of(mapping(model=toy, grid={"decoding": nodes}))
        assert [cell.decoding.strategy for cell in grid.cells] == [one(), other()]
        assert len({cell.labels["decoding"] for cell in grid.cells}) == 2


def test_a_label_of_a_decoding_is_used(mapping: Mapping, toy: str) -> None:
    nodes = ["greedy", {"name": "vcd", "alpha": 0.1, "label": "mild"}]
    assert column(grid_of(mapping(model=toy, grid={"decoding": nodes})), "decoding") == ["greedy", "mild"]


def test_default_controls_are_added_once_and_marked(mapping: Mapping, toy: str) -> None:
    grid = grid_of(mapping(model=toy, controls="default", grid={"decoding": ["greedy", "vcd"]}))
    is_control = {cell.labels["decoding"]: cell.control for cell in grid.cells}
    assert [label for label, control in is_control.items() if not control] == ["greedy", "vcd"]
    assert sum(is_control.values()) == 9


def test_an_arm_of_the_file_is_no_control_even_if_an_arm_before_it_adds_it(mapping: Mapping, toy: str) -> None:
    grid = grid_of(mapping(model=toy, controls="default", grid={"decoding": ["vcd", "greedy"]}))
    assert [cell.labels["decoding"] for cell in grid.cells if not cell.control] == ["vcd", "greedy"]


def test_controls_that_all_methods_share_are_one_cell(mapping: Mapping, toy: str) -> None:
    grid = grid_of(mapping(model=toy, controls="default", grid={"decoding": ["vcd", "cad", "icd"]}))
    labels = [cell.labels["decoding"] for cell in grid.cells]
    assert [labels.count(name) for name in ("greedy", "self_consistency", "more_demonstrations")] == [1, 1, 1]


def test_controls_fit_what_is_run(mapping: Mapping, toy: str) -> None:
    axes = {"answer_mode": ["generate", "options"], "shots": [0, 2]}
    grid = grid_of(mapping(model=toy, controls="default", decoding="vcd", grid=axes))
    shared = [(c.answer_mode, c.shots, c.labels["decoding"]) for c in grid.cells if c.labels["decoding"] != "greedy"]
    assert [t[:2] for t in shared if t[2] == "self_consistency"] == [("generate", 0), ("generate", 2)]
    assert [t[:2] for t in shared if t[2] == "more_demonstrations"] == [("generate", 2), ("options", 2)]


def test_equal_components_are_one_object_so_that_a_task_reads_its_data_once(mapping: Mapping) -> None:
    grid = grid_of(mapping(grid={"shots": [1, 2], "composer": ["chat", "interleaved"]}, seeds=[0, 1]))
    assert len(grid.tasks) == len(grid.models) == 1


def test_a_comparison_with_one_of_several_is_refused_before_anything_runs(yaml_file: Write) -> None:
    two = "[{name: chat, instruction: short}, {name: chat, instruction: long}]"
    grid = f"grid: {{shots: [1], composer: {two}}}"
    path = yaml_file(f"task: SHAPES\nmodel: fake-copy\n{grid}\ncompare: {{to: {{composer: chat}}}}\n")
    assert error_of(path) == (
        f"{path}:4: compare.to.composer: 2 arms have composer 'chat'. Use the label of one: chat(instruction=short), "
        "chat(instruction=long)."
    )


def test_a_control_goes_with_the_strategy_that_is_excluded(mapping: Mapping, toy: str) -> None:
    config = mapping(model=toy, controls="default", grid={"decoding": ["greedy", "vcd"], "max_new_tokens": [4, 8]})
    grid = grid_of({**config, "exclude": [{"decoding": "vcd", "max_new_tokens": 8}]})
    assert [cell.labels["decoding"] for cell in grid.cells if cell.max_new_tokens == 8] == ["greedy"]
    assert len([cell for cell in grid.cells if cell.control]) == 9


def test_a_node_is_parsed_once_however_often_the_grid_has_it(
    mapping: Mapping, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    resolve = registry.resolve

    def count(kind: str, name: str, where: str = "") -> type[Any]:
        names.append(name)
        return resolve(kind, name, where)

    monkeypatch.setattr(registry, "resolve", count)
    axes = {"decoding": ["greedy", "vcd"], "decoding.alpha": [0.5, 1.0, 2.0], "shots": [0, 1]}
    assert len(grid_of(mapping(model=toy, grid=axes, seeds=[0, 1])).cells) == (1 + 3) * 2 * 2
    assert [names.count(name) for name in ("greedy", "vcd", toy, "random")] == [1, 1, 1, 1]
