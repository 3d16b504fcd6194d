"""Claims of an experiment file on runs whose differences are known."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from experiments.analyses.claims import analyze
from experiments.api import run
from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.report.page import write_report
from experiments.report.sections.analyses import FigureSpec, analysis_section, measured_points, own_sections
from experiments.results.claims import judge_claims
from experiments.results.run_view import RunView
from experiments.results.view_run import view_run
from icl.errors import ConfigError

RIGHT, WRONG = "fake-gold(accuracy=1)", "fake-gold(accuracy=0)"
HOSTILE = "<script>alert(1)</script>"


def claim(text: str, arm: Any, against: Any, **more: Any) -> dict[str, Any]:
    return {"claim": text, "arm": arm, "against": against, **more}


CLAIMS = [
    claim("right is better", {"model": RIGHT}, {"model": WRONG}),
    claim("right is worse", {"model": RIGHT}, {"model": WRONG}, expect="worse"),
    claim("right says less", {"model": RIGHT}, {"model": WRONG}, expect="lower", metric="strict"),
    claim("shots help", {"shots": 2}, {"shots": 0}),
    claim("the vote loses", {"model": RIGHT, "shots": 2}, {"baseline": "vote"}),
    claim("vcd helps", {"decoding": "vcd"}, {"decoding": "greedy"}),
    claim(HOSTILE, {"model": RIGHT}, {"model": WRONG}, tasks_with="chair_s", source=HOSTILE),
]


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    models = [{"name": "fake-gold", "accuracy": accuracy} for accuracy in (1.0, 0.0)]
    task = {"name": "binding", "ways": 2, "queries": 400}
    config = {"name": "t", "task": task, "grid": {"model": models, "shots": [0, 2]}, "claims": CLAIMS}
    return view_run(run(config, runs=tmp_path_factory.mktemp("claims"), quiet=True))


def test_a_claim_survives_is_contradicted_is_ruled_out_or_was_not_run(view: RunView) -> None:
    verdicts = [(one.claim.claim, one.comparison.subject, one.verdict) for one in judge_claims(view)]
    assert verdicts == [
        ("right is better", "binding · 2-way", "survives"),
        ("right is worse", "binding · 2-way", "contradicted"),
        ("right says less", "binding · 2-way", "contradicted"),
        ("shots help", RIGHT, "ruled out"),  # 400 equal answers leave no room for a gain of .02
        ("shots help", WRONG, "ruled out"),
        ("the vote loses", "binding · 2-way", "survives"),
        ("vcd helps", "", "not run"),
        (HOSTILE, "", "not run"),
    ]
    table = analyze(view)
    assert table["difference"].tolist()[:4] == [1, 1, 1, 0]
    assert table["verdict"].tolist()[6:] == [
        "not run: claims: arm: no arm has decoding 'vcd'. Values: greedy.",
        "not run: no task has both arms with scores",
    ]
    assert table["n"].tolist()[:4] == [800, 800, 800, 400]  # pooled over both numbers of shots


def test_a_metric_without_a_good_direction_is_the_reason_of_better(view: RunView) -> None:
    one = judge_claims(view)[0]
    assert one.reason == ""
    assert replace(one, verdict="not run").reason == "'better' says nothing of lenient: use higher or lower"


def test_claims_are_corrected_with_all_comparisons_of_the_report(view: RunView) -> None:
    (first, *_), own = view.comparisons["Claims"], view.comparisons
    assert first.family == 6
    assert first.topics == sum(any(one.result is not None for one in group) for group in own.values())
    assert first.topics > 1


def test_the_report_has_the_claims_and_escapes_them(view: RunView, capsys: pytest.CaptureFixture[str]) -> None:
    section = next(own_sections(view))
    assert section.sentences[0].claim.startswith(
        "7 claims. Survive wherever they were tested: 2. Contradicted or ruled out"
    )
    page = write_report(view).report.read_text(encoding="utf-8")
    assert '<section id="claims"' in page
    assert "right is better" in page
    assert HOSTILE not in page
    assert main(["analyze", str(view.path), "claims"]) == 0
    assert "contradicted" in capsys.readouterr().out
    again = write_report(view).report.read_text(encoding="utf-8")
    assert again.count("right is better") == page.count("right is better"), "the stored analysis is a second section"


def test_the_figure_of_claims_needs_one_metric(view: RunView, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "figure" not in analyze(view).attrs  # strict and lenient differences have no common scale
    judged = [one for one in judge_claims(view) if one.metric == "lenient"]
    monkeypatch.setattr("experiments.analyses.claims.judge_claims", lambda view: judged)
    table = analyze(view)
    assert analysis_section(table, "claims").figure is not None
    points = measured_points(table.assign(setting=""), FigureSpec.model_validate(table.attrs["figure"]))
    assert points["mean"].tolist() == table["difference"].dropna().tolist()
    assert points["low"].tolist() == table["low"].dropna().tolist()


def test_a_run_without_claims_has_no_section_and_a_sentence(written: Any) -> None:
    plain = view_run(written(queries=4))
    assert list(own_sections(plain)) == []
    with pytest.raises(ConfigError, match="has no key `claims`"):
        analyze(plain)


SHOTS = {"arm": {"shots": 4}, "against": {"shots": 0}}


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({"claim": "x", **SHOTS, "arm": {"shot": 4}}, "claims[0].arm.shot: no axis 'shot'. Did you"),
        ({"claim": "x", "arm": {"shots": 4}}, "claims[0]: the key 'against' is missing. Keys: claim, arm, against"),
        ({"claim": "x", **SHOTS, "arm": {}}, "claims[0].arm: arm must be a mapping that is not empty, not {}."),
        ({"claim": "x", **SHOTS, "metrik": "f1"}, "claims[0].metrik: no key 'metrik'"),
        (
            {"claim": "x", **SHOTS, "against": {"baseline": "votes"}},
            "claims[0].against: no baseline 'votes'. Did you mean 'vote'? Baselines: vote, weighted_vote",
        ),
        ({"claim": "x", **SHOTS, "against": {"baseline": []}}, "claims[0].against: no baseline []."),
    ],
)  # fmt: skip
def test_a_mistake_in_a_claim_is_named(mapping: Callable[..., dict[str, Any]], node: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(mapping(claims=[node]))
    assert sentence in str(raised.value)
