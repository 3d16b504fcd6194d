"""Gains, orders, changes and noise, on models whose curves are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.analyses import format_gain, modality_sensitivity, noisy_labels, order_sensitivity, shot_curve
from experiments.stats.pairs import UnpairedError
from icl.errors import ConfigError

PARTS = Path(__file__).parent / "parts.py"


def test_a_model_that_knows_gains_nothing(ran: Any) -> None:
    (row,) = shot_curve.analyze(ran(model="fake-gold", grid={"shots": [0, 2, 4]})).to_dict("records")
    assert (row["at_0"], row["gain"], row["efficiency"], row["p"]) == (1.0, 0.0, 0.0, 1.0)
    assert (row["peak"], row["peak_shots"], row["monotone"]) == (1.0, 0, True)


def test_the_curve_of_a_voter_is_the_vote_s(ran: Any) -> None:
    view = ran(model="fake-vote", grid={"shots": [0, 1, 5]}, metric="strict")
    (row,) = shot_curve.analyze(view).to_dict("records")
    means = view.scores.groupby("shots")["strict"].mean()
    assert row["at_0"] == 0
    assert row["gain"] == pytest.approx(means[5])
    assert row["efficiency"] == pytest.approx((means[1] / 2 + (means[1] + means[5]) / 2 * 4) / 5)


def test_each_retriever_has_a_curve_from_the_shared_0_shots(ran: Any) -> None:
    axes = {"shots": [0, 2], "retriever": ["random", {"name": "knn", "embedder": "pixels"}]}
    table = shot_curve.analyze(ran(model="fake-nearest", grid=axes))
    assert sorted(table["retriever"]) == ["knn", "random"]
    assert set(table["at_0"]) == {0.0}


def test_a_curve_needs_0_shots(ran: Any) -> None:
    with pytest.raises(ConfigError, match="no arm has shots '0'"):
        shot_curve.analyze(ran(grid={"shots": [1, 2]}))


def test_a_gain_in_form_alone_is_all_format(ran: Any, scripted: Any) -> None:
    view = ran(model=scripted("wordy_without_demonstrations"), grid={"shots": [0, 2]})
    (row,) = format_gain.analyze(view).to_dict("records")
    assert (row["gain_strict"], row["gain_lenient"], row["format_gain"]) == (1.0, 0.0, 1.0)
    assert row["p"] == pytest.approx(2 / 2**4)  # four queries: the least that there is


def test_a_gain_in_content_is_no_format_gain(ran: Any) -> None:
    (row,) = format_gain.analyze(ran(model="fake-vote", grid={"shots": [0, 9]})).to_dict("records")
    assert row["gain_strict"] == row["gain_lenient"] > 0
    assert row["format_gain"] == 0


def test_a_model_that_ignores_demonstrations_is_insensitive_to_order(ran: Any) -> None:
    axes = {"order.index": [0, 1, 2, 3]}
    (row,) = order_sensitivity.analyze(ran(model="fake-gold", shots=3, order="permutation", grid=axes)).to_dict(
        "records"
    )
    assert (row["orders"], row["sd"], row["range"], row["disagreement"]) == (4, 0.0, 0.0, 0.0)


def test_a_copier_disagrees_as_often_as_its_last_demonstrations_differ(ran: Any) -> None:
    view = ran(model="fake-copy", shots=2, order="permutation", grid={"order.index": [0, 1]})
    (row,) = order_sensitivity.analyze(view).to_dict("records")
    demos = view.frame[view.frame["order"].str.contains("index=0")]["demos"]
    differ = [demos[0][2] != demos[1][2] for demos in demos]
    assert row["disagreement"] == pytest.approx(sum(differ) / len(differ))
    assert row["disagreement"] > 0
    means = view.scores.groupby("order")[view.metric].mean()
    assert row["sd"] == pytest.approx(abs(means.iloc[0] - means.iloc[1]) / 2**0.5)


def test_the_spread_of_two_known_orders(ran: Any, shapes: str) -> None:
    first = {"name": f"{PARTS}:Careless", "ids": ["p-0000", "p-0001"]}  # red, green; the queries: red, green, blue, red
    axes = {"order": ["reversed", "as_retrieved"]}
    view = ran(task={"name": shapes, "queries": 4}, model="fake-copy", shots=2, retriever=first, grid=axes)
    (row,) = order_sensitivity.analyze(view).to_dict("records")
    assert (row["lowest"], row["highest"], row["range"], row["disagreement"]) == (0.25, 0.5, 0.25, 1.0)
    assert row["sd"] == pytest.approx(0.25 / 2**0.5)


def test_one_order_or_an_unfinished_one_is_refused(ran: Any) -> None:
    with pytest.raises(ConfigError, match="there is a single order"):
        order_sensitivity.analyze(ran(shots=2))
    view = ran(name="two", shots=2, grid={"order": ["reversed", "as_retrieved"]})
    view = replace(view, frame=view.frame.iloc[:-1])
    with pytest.raises(UnpairedError, match="was not answered under each of the 2 orders"):
        order_sensitivity.analyze(view)


def test_a_drop_and_its_share_of_the_gain_are_computed(ran: Any, scripted: Any) -> None:
    view = ran(
        model=scripted("half_the_gain"),
        grid={"shots": [0, 2], "transforms": [[], ["images"], ["questions"]]},
        exclude=[{"shots": 0, "transforms": ["images"]}, {"shots": 0, "transforms": ["questions"]}],
    )
    table = modality_sensitivity.analyze(view).set_index("transforms")
    assert (table.loc["images", "intact"], table.loc["images", "at_0"]) == (1.0, 0.5)
    assert (table.loc["images", "drop"], table.loc["images", "share"]) == (0.5, 1.0)
    assert (table.loc["questions", "drop"], table.loc["questions", "share"]) == (0.0, 0.0)


def test_there_is_no_share_without_a_gain(ran: Any) -> None:
    axes = {"shots": [0, 2], "transforms": [[], [{"name": "answers", "how": "removed"}]]}
    (row,) = (
        row
        for row in modality_sensitivity.analyze(ran(model="fake-gold", grid=axes)).to_dict("records")
        if row["shots"] == 2
    )
    assert (row["drop"], row["intact"], row["at_0"]) == (0.0, 1.0, 1.0)
    assert row["share"] != row["share"]


def test_a_voter_loses_all_of_its_gain_with_the_answers(ran: Any) -> None:
    axes = {"shots": [0, 5], "transforms": [[], [{"name": "answers", "how": "removed"}]]}
    table = modality_sensitivity.analyze(ran(model="fake-vote", grid=axes))
    (row,) = (row for row in table.to_dict("records") if row["shots"] == 5)
    assert (row["changed"], row["share"]) == (0.0, 1.0)


def test_the_noise_curve_of_a_model_that_trusts_a_majority(ran: Any, scripted: Any) -> None:
    noise = [[{"name": "noisy_labels", "share": share}] for share in (0.5, 1)]
    table = noisy_labels.analyze(ran(model=scripted("trusting"), shots=4, grid={"transforms": [[], *noise]}))
    assert list(table["share"]) == [0.0, 0.5, 1.0]
    assert list(table["score"]) == [1.0, 1.0, 0.0]
    assert list(table["drop"])[1:] == [0.0, 1.0]
    assert list(table["slope"]) == pytest.approx([-1.0] * 3)


def _changes(text: str) -> dict[str, Any]:
    """The same run with a score and with 1 - score, of which lower is better."""
    metrics = ["lenient", f"{PARTS}:Wrong"]
    noise = [[{"name": "noisy_labels", "share": share}] for share in (0.5, 1)]
    axes = {"shots": [0, 4], "transforms": [[], ["images"], *noise]}
    return {"name": text, "metrics": metrics, "grid": axes, "exclude": [{"shots": 0, "transforms": ["images"]}]}


def test_a_drop_and_its_share_do_not_depend_on_the_good_direction(ran: Any, scripted: Any) -> None:
    higher, lower = (
        modality_sensitivity.analyze(ran(metric, model=scripted("half_the_gain"), **_changes(metric)))
        for metric in ("lenient", "Wrong")
    )
    columns = ["drop", "low", "high", "p", "share"]
    pd.testing.assert_frame_equal(lower[columns], higher[columns])
    assert list(lower["intact"]) == pytest.approx(list(1 - higher["intact"]))
    assert higher["drop"].max() > 0
    assert "lower is better" in lower.attrs["title"]


def test_noise_that_hurts_is_a_drop_in_both_good_directions(ran: Any, scripted: Any) -> None:
    higher, lower = (
        noisy_labels.analyze(ran(metric, model=scripted("trusting"), **_changes(metric)))
        for metric in ("lenient", "Wrong")
    )
    pd.testing.assert_frame_equal(lower[["drop", "p"]], higher[["drop", "p"]])
    assert higher["drop"].max() == 1
    assert list(lower["slope"]) == pytest.approx(list(-higher["slope"]))


def test_the_noise_curve_of_a_model_that_knows_is_flat(ran: Any) -> None:
    noise = [[{"name": "noisy_labels", "share": share}] for share in (0.25, 1)]
    table = noisy_labels.analyze(ran(model="fake-gold", shots=4, grid={"transforms": [[], *noise]}))
    assert list(table["slope"]) == pytest.approx([0.0] * 3)


def test_a_noise_curve_needs_two_shares(ran: Any) -> None:
    with pytest.raises(ConfigError, match="two shares of wrong labels or more"):
        noisy_labels.analyze(ran(shots=2))


def test_an_oracle_order_is_not_a_random_order(ran: Any) -> None:
    orders = ["reversed", "as_retrieved", {"name": "label_position", "position": "tail"}]
    (row,) = order_sensitivity.analyze(ran(model="fake-copy", shots=4, grid={"order": orders})).to_dict("records")
    assert row["orders"] == 2
    more = [*orders, *({"name": "permutation", "index": i} for i in range(3))]
    (row,) = order_sensitivity.analyze(ran(name="m", model="fake-copy", shots=4, grid={"order": more})).to_dict(
        "records"
    )
    assert row["orders"] == 3


def test_a_share_without_any_score_has_none(ran: Any, scripted: Any) -> None:
    noise = [[{"name": "noisy_labels", "share": share}] for share in (0.5, 1)]
    view = ran(model=scripted("trusting"), shots=4, grid={"transforms": [[], *noise]})
    half = view.frame["transforms"].str.contains("0.5")
    frame = view.frame.assign(**{view.metric: view.frame[view.metric].where(~half)})
    with pytest.raises(UnpairedError, match="no pair"):
        noisy_labels.analyze(replace(view, frame=frame))
