"""Axes whose values are lists of components: rerankers and transforms."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from experiments.api import run
from experiments.config.config import load_config
from experiments.config.json_schema import experiment_schema
from experiments.grid.feasibility import check_data, check_requirements
from experiments.grid.grid import expand
from experiments.report.sections.scores import scores_section
from experiments.results.view_run import view_run
from icl.errors import ConfigError, PlanError


def _cells(config: dict[str, Any]) -> list[Any]:
    return list(expand(load_config(config)).cells)


def test_rerankers_stand_on_every_retriever_and_both_axes_keep_their_names(mapping: Any, tmp_path: Path) -> None:
    axes = {"retriever": ["random", "balanced"], "rerankers": [[], ["label_balance"]]}
    done = run(mapping(grid=axes, compare={"to": {"rerankers": "none"}}), runs=tmp_path, quiet=True)
    frame = done.samples()
    counts = frame.groupby(["retriever", "rerankers"]).size().to_dict()
    assert counts == {(r, k): 6 for r in ("random", "balanced") for k in ("none", "label_balance")}
    demos = frame[frame["rerankers"] != "none"].groupby("retriever")["demos"].agg(str)
    assert demos["random"] != demos["balanced"]
    assert set(done.compare()["retriever"]) == {"random", "balanced"}
    frame = scores_section(view_run(done)).frame
    assert frame is not None
    assert int(frame["vote"].eq(True).sum()) == 4


def test_the_axis_does_what_the_retriever_reranked_does(mapping: Any, tmp_path: Path) -> None:
    node = {"name": "reranked", "of": "random", "rerankers": ["label_balance"]}
    axis, inside = (
        run(mapping(name=name, **keys), runs=tmp_path, quiet=True).samples()
        for name, keys in (("axis", {"rerankers": ["label_balance"]}), ("inside", {"retriever": node}))
    )
    assert axis["demos"].tolist() == inside["demos"].tolist()


def test_without_rerankers_a_cell_has_the_digest_that_it_had(mapping: Any) -> None:
    (plain,) = _cells(mapping())
    (empty,) = _cells(mapping(rerankers=[]))
    (balanced,) = _cells(mapping(rerankers=["label_balance"]))
    assert plain.digest == empty.digest != balanced.digest
    assert (balanced.config["retriever"]["name"], balanced.config["rerankers"]) == (
        "random",
        [{"name": "label_balance"}],
    )


def test_at_0_shots_rerankers_are_one_cell(mapping: Any) -> None:
    cells = _cells({**mapping(grid={"rerankers": [[], ["label_balance"]]}), "shots": 0})
    assert [cell.labels["rerankers"] for cell in cells] == ["none"]


def test_candidates_are_an_axis_and_decide_what_the_rerankers_see(mapping: Any, tmp_path: Path) -> None:
    """Among as many candidates as shots there is nothing to choose."""
    keys = {"retriever": "balanced", "shots": 3, "rerankers": ["label_balance"], "grid": {"rerank_candidates": [3, 9]}}
    frame = run(mapping(**keys), runs=tmp_path, quiet=True).samples()
    plain = run(mapping(name="plain", retriever="balanced", shots=3), runs=tmp_path, quiet=True).samples()
    by_candidates = {
        str(n): rows.sort_values("query")["demos"].tolist() for n, rows in frame.groupby("rerank_candidates")
    }
    assert set(by_candidates) == {"3", "9"}
    ids = [
        [{demo[0] for demo in demos} for demos in rows]
        for rows in (by_candidates["3"], plain.sort_values("query")["demos"])
    ]
    assert ids[0] == ids[1]


def test_candidates_reach_the_retriever_and_are_a_cell_of_their_own(mapping: Any) -> None:
    usual, same, more = (
        _cells(mapping(rerankers=["label_balance"], **k))[0]
        for k in ({}, {"rerank_candidates": None}, {"rerank_candidates": 7})
    )
    assert (usual.retriever.candidates, more.retriever.candidates) == (50, 7)
    assert usual.digest == same.digest != more.digest
    cells = _cells(mapping(grid={"rerankers": [[], ["label_balance"]], "rerank_candidates": [5, 6]}))
    assert [(c.labels["rerankers"], c.labels["rerank_candidates"]) for c in cells] == [
        ("none", "none"),  # without rerankers candidates cannot matter
        ("label_balance", "5"),
        ("label_balance", "6"),
    ]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rerank_candidates": True}, "rerank_candidates must be an integer from 1 to 100000 or null, not True"),
        (
            {"rerank_candidates": 2, "shots": 4},
            "rerankers choose 4 shots from 2 candidates. Use at least 4 candidates",
        ),
        ({"rerank_candidates": 5000}, r"5000 candidates from a pool of \d+ \(task .*Use at most"),
        (
            {"rerank_candidates": 6, "rerankers": []},
            r"candidates: rerank_candidates is the number of candidates .* but the file has no rerankers",
        ),
        (
            {"grid": {"rerankers.balance": [0.5]}},
            "rerankers is a list, and no axis can set a parameter of its elements",
        ),
    ],
)
def test_invalid_candidates_are_an_error(keys: dict[str, Any], message: str, mapping: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        _checked(mapping(**{"rerankers": ["label_balance"], **keys}))


def _checked(config: dict[str, Any]) -> None:
    grid = expand(load_config(config))
    check_requirements(grid)
    check_data(grid)


def test_holes_match_the_retriever_and_the_rerankers_apart(mapping: Any) -> None:
    axes = {"retriever": ["random", "balanced"], "rerankers": [[], ["label_balance"]]}
    hole = {"retriever": "random", "rerankers": ["label_balance"]}
    labels = [(c.labels["retriever"], c.labels["rerankers"]) for c in _cells(mapping(grid=axes, exclude=[hole]))]
    assert labels == [("random", "none"), ("balanced", "none"), ("balanced", "label_balance")]


@dataclass(frozen=True)
class Asking:
    """A reranker that asks the model, for words or for probabilities."""

    model_ability: str

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def fit(self, pool: Any, resources: Any) -> Any:
        raise AssertionError("nothing is fitted here")


def test_what_a_reranker_asks_of_the_model_is_checked_before_it_loads(mapping: Any) -> None:
    """A model that answers and gives no logits describes an image, and gives no probabilities."""
    check_requirements(expand(load_config(mapping(rerankers=[Asking("generate")]))))
    with pytest.raises(PlanError, match="'random' with its rerankers needs the model's logits, but 'fake-copy' does"):
        check_requirements(expand(load_config(mapping(rerankers=[Asking("generate"), Asking("logits")]))))


def test_the_schema_has_the_key_and_the_components() -> None:
    schema = experiment_schema()
    assert {"type": "array", "items": {"$ref": "#/$defs/reranker"}} in schema["properties"]["rerankers"]["anyOf"]
    assert "rerankers" in schema["properties"]["grid"]["properties"]
    assert "label_balance" in str(schema["$defs"]["reranker"])


def test_no_reranker_is_called_none_in_files_as_in_tables(mapping: Any) -> None:
    axes = {"rerankers": ["none", ["label_balance"]], "transforms": ["none", ["questions"]]}
    words = _cells(mapping(grid=axes, compare={"to": {"rerankers": []}}))
    lists = _cells(mapping(grid={"rerankers": [[], ["label_balance"]], "transforms": [[], ["questions"]]}))
    assert [cell.digest for cell in words] == [cell.digest for cell in lists]
    assert load_config(mapping(grid=axes, compare={"to": {"rerankers": []}})).compare.to == {"rerankers": "none"}  # type: ignore[union-attr]
    assert _cells(mapping(rerankers="none"))[0].digest == _cells(mapping())[0].digest
    holes = _cells(mapping(grid=axes, exclude=[{"rerankers": "none"}]))
    assert {cell.labels["rerankers"] for cell in holes} == {"label_balance"}
    with pytest.raises(ConfigError, match=r"grid\.rerankers\[1\]: \[\] is listed twice on this axis"):
        load_config(mapping(grid={"rerankers": [[], "none"]}))
    assert {"const": "none"} in experiment_schema()["properties"]["rerankers"]["anyOf"]


def test_at_0_shots_the_rerankers_of_others_are_not_claimed(mapping: Any, tmp_path: Path) -> None:
    axes = {"shots": [0, 2], "rerankers": ["none", ["label_balance"]]}
    keys = {k: v for k, v in mapping().items() if k != "shots"}
    frame = run({**keys, "grid": axes}, runs=tmp_path, quiet=True).samples()
    assert set(frame[frame["shots"] == 0]["rerankers"]) == {"none"}
    keys["name"] = "alone"
    frame = run(
        {**keys, "grid": {"shots": [0, 2], "rerankers": [["label_balance"]]}}, runs=tmp_path, quiet=True
    ).samples()
    assert set(frame["rerankers"]) == {"label_balance"}  # as everywhere else: no axis


def test_no_transform_is_a_value_beside_one_transform(mapping: Any, tmp_path: Path) -> None:
    frame = run(mapping(grid={"transforms": [[], ["questions"]]}), runs=tmp_path, quiet=True).samples()
    assert frame.groupby("transforms").size().to_dict() == {"none": 6, "questions": 6}


def test_an_exclude_matches_a_list_of_transforms_by_name(mapping: Any, tmp_path: Path) -> None:
    axes = {"shots": [0, 2], "transforms": [[], ["questions"], [{"name": "images", "how": "blank"}]]}
    holes = [
        {"shots": 0, "transforms": ["questions"]},
        {"shots": 0, "transforms": [{"name": "images", "how": "blank"}]},
    ]
    frame = run(mapping(grid=axes, exclude=holes), runs=tmp_path, quiet=True).samples()
    assert set(frame[frame["shots"] == 0]["transforms"]) == {"none"}
    assert set(frame[frame["shots"] == 2]["transforms"]) == {"none", "questions", "images"}


def test_labels_of_one_transform_have_its_parameter(mapping: Any, tmp_path: Path) -> None:
    axes = {"transforms": [[{"name": "images", "how": how}] for how in ("blank", "noise")]}
    frame = run(mapping(grid=axes), runs=tmp_path, quiet=True).samples()
    assert set(frame["transforms"]) == {"images(how=blank)", "images(how=noise)"}


@pytest.mark.parametrize("kind", ["order", "transforms"])
def test_only_components_that_need_the_gold_get_it(kind: str, mapping: Any, tmp_path: Path) -> None:
    def ran(name: str) -> Any:
        node = f"{Path(__file__).parent / 'gold_readers.py'}:{name}"
        config = mapping(name=name, **{kind: node if kind == "order" else [node]})
        return run(config, runs=tmp_path, quiet=True).samples()

    assert all(marks == ["saw Query"] for marks in ran("Blind")["marks"])
    frame = ran("Oracle")
    assert all(marks == ["saw Example, saw the gold"] for marks in frame["marks"])
    assert frame["failed"].isna().all()
