"""Warnings about configs that are not what they seem to be, before anything is loaded."""

from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.grid.grid_warnings import grid_warnings
from experiments.planning.plan import make_plan
from experiments.planning.plan_text import format_plan
from experiments.running.run import run
from experiments.terminal.progress import SilentProgress

EQUAL_BRANCHES = {"name": "contrast", "branches": ["no_demonstrations"], "weights": [1.5, -0.5], "label": "context"}


def warnings_of(config: Any) -> list[str]:
    return list(grid_warnings(expand(load_config(config))))


def test_a_contrast_whose_branches_are_equal_is_named_with_the_control_it_has_become(mapping: Any, toy: str) -> None:
    (warning,) = warnings_of(mapping(model=toy, shots=0, decoding=EQUAL_BRANCHES))
    assert warning.startswith("config: decoding: every branch of decoding 'contrast(branches=[")
    assert warning.endswith("it has become mask_only.")
    assert warnings_of(mapping(model=toy, shots=2, decoding=EQUAL_BRANCHES)) == []


def test_a_warning_names_the_shots(mapping: Any, toy: str) -> None:
    keys = {k: v for k, v in mapping(model=toy).items() if k != "shots"}
    (warning,) = warnings_of({**keys, "decoding": EQUAL_BRANCHES, "grid": {"shots": [0, 2]}})
    assert warning.startswith("config: decoding: at 0 shots every branch")


def test_equal_branches_at_another_temperature_are_reported(mapping: Any, toy: str) -> None:
    sharp = {**EQUAL_BRANCHES, "weights": [3.0, -1.0]}
    equal, hidden = warnings_of(mapping(model=toy, shots=0, decoding=sharp))
    assert "the reference at temperature 0.5: it has become temperature_matched" in equal
    assert "the weights of 'context' sum to 2, which has the effect of a temperature of 0.5" in hidden


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([2.0, 1.0], "sum to 3, which has the effect of a temperature of 0.333"),
        ([1.0, -1.0], "sum to 0: agreement of its branches has no effect"),
    ],
)
def test_weights_that_do_not_sum_to_one_are_a_hidden_temperature(
    mapping: Any, toy: str, weights: list[float], words: str
) -> None:
    (warning,) = warnings_of(mapping(model=toy, shots=2, decoding={**EQUAL_BRANCHES, "weights": weights}))
    assert words in warning
    assert warnings_of(mapping(model=toy, shots=2, decoding="vcd", controls="default")) == []


def test_the_plan_prints_them_and_a_run_begins_with_them(mapping: Any, toy: str, tmp_path: Any) -> None:
    config = mapping(model=toy, shots=0, decoding=EQUAL_BRANCHES)
    (warning,) = warnings_of(config)
    assert [line for line in format_plan(make_plan(expand(load_config(config)))) if "become" in line] == [warning]
    progress = SilentProgress()
    run(load_config(config), tmp_path, progress)
    assert progress.notes == [warning]
    again = SilentProgress()
    run(load_config(config), tmp_path, again)
    assert again.notes == []


def test_a_contrast_of_images_on_queries_without_any_is_found_by_the_plan(mapping: Any, toy: str) -> None:
    config = mapping(
        model=toy,
        shots=2,
        decoding={**EQUAL_BRANCHES, "branches": ["no_image"]},
        transforms=[{"name": "images", "where": "query"}],
    )
    assert warnings_of(config) == []
    assert any(
        "every branch is the prompt itself, so it has become mask_only on these data" in n
        for n in make_plan(expand(load_config(config))).notes
    )


@pytest.mark.parametrize(
    ("name", "fitted"), [("batch_calibration", {"prior": [0.7, 0.3]}), ("constant_bias", {"biases": [0.0, 0.4]})]
)
def test_a_strategy_that_was_not_fitted_is_reported(mapping: Any, toy: str, name: str, fitted: dict[str, Any]) -> None:
    (warning,) = warnings_of(mapping(model=toy, answer_mode="options", decoding=name))
    assert f"'{name}' has not been fitted" in warning
    assert warnings_of(mapping(model=toy, answer_mode="options", decoding={"name": name, **fitted})) == []


def test_steps_that_cannot_be_recorded_are_reported(mapping: Any, toy: str) -> None:
    (only,) = warnings_of(mapping(top_logprobs=3))
    assert "gives no logits, so its samples record no steps" in only
    (options,) = warnings_of(mapping(model=toy, answer_mode="options", top_logprobs=3))
    assert options == (
        "config: top_logprobs: options are scored without decoding steps, so cells with answer_mode: options record "
        "none."
    )
    assert warnings_of(mapping(model=toy, top_logprobs=3)) == []


def test_finished_samples_keep_their_steps_and_a_note_says_so(mapping: Any, toy: str, tmp_path: Any) -> None:
    config = mapping(model=toy, shots=0)
    run(load_config(config), tmp_path)
    progress = SilentProgress()
    run(load_config({**config, "top_logprobs": 2}), tmp_path, progress)
    (note,) = progress.notes
    assert note.startswith("config: top_logprobs: 6 finished samples keep their recorded steps.")
    again = SilentProgress()
    run(load_config({**config, "top_logprobs": 2}), tmp_path, again, fork=True)
    assert again.notes == []


CLAIM: dict[str, Any] = {"claim": "x", "arm": {"retriever": "knn"}, "against": {"retriever": "random"}}
NUMBER: dict[str, Any] = {"at": {"shots": 2, "retriever": "knn", "category": "adversarial"}, "value": 0.8}


@pytest.fixture
def keys(mapping: Any) -> Any:
    retrievers = [{"name": "knn", "embedder": "pixels"}, "random"]
    return lambda **more: mapping(grid={"retriever": retrievers}, metrics=["lenient", "yes_ratio"], **more)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"against": {"retriever": "rand"}}, "against.retriever: no arm has retriever 'rand'. Did you mean 'random'?"),
        ({"arm": {"shots": 7}}, "arm.shots: no arm has shots '7'. Values: 2."),
        ({"metric": "lenien"}, "metric: no metric 'lenien' in metrics. Did you mean 'lenient'? There are lenient"),
        ({"tasks_with": "yes_rate"}, "tasks_with: no metric 'yes_rate' in metrics. Did you mean 'yes_ratio'?"),
    ],
)
def test_a_claim_about_what_the_grid_lacks_is_named(keys: Any, part: dict[str, Any], sentence: str) -> None:
    (warning,) = warnings_of(keys(claims=[{**CLAIM, **part}]))
    assert warning.startswith(f"config: claims[0].{sentence}")


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"at": {"shot": 2}}, "at.shot: no axis 'shot', so it is read as a column of the data. Did you mean 'shots'?"),
        ({"at": {"shots": 7}}, "at.shots: no arm has shots '7'. Values: 2."),
        ({"minus": {"retriever": "rand"}}, "minus.retriever: no arm has retriever 'rand'. Did you mean 'random'?"),
        ({"metric": "lenien"}, "metric: no metric 'lenien' in metrics. Did you mean 'lenient'?"),
        ({"value": 83.3}, "value: 'lenient' is a share from 0 to 1, and 83.3 is none. Write a percentage as 0.833."),
    ],
)
def test_a_number_of_what_the_grid_lacks_is_named(keys: Any, part: dict[str, Any], sentence: str) -> None:
    (warning,) = warnings_of(keys(published=[{**NUMBER, **part}]))
    assert warning.startswith(f"config: published[0].{sentence}")


def test_statements_on_the_grid_are_silent_and_the_plan_prints_the_others(keys: Any) -> None:
    baseline = {**CLAIM, "against": {"baseline": "vote"}, "metric": "yes_ratio"}
    numbers = [NUMBER, {**NUMBER, "value": 83.3, "metric": "yes_ratio"}]  # no share of right answers
    assert warnings_of(keys(claims=[CLAIM, baseline], published=numbers)) == []
    plan = make_plan(expand(load_config(keys(claims=[{**CLAIM, "metric": "lenien"}]))))
    assert any("claims[0].metric: no metric 'lenien'" in line for line in format_plan(plan))
