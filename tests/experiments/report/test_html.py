import base64
import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pandas as pd
import pytest
from markupsafe import escape
from rich.console import Console
from written_run import page_samples

import icl
from experiments.report.comparison import print_comparison
from experiments.report.html import _json, file_names, write_report
from experiments.report.tables import ScoreRow, TaskTable
from experiments.results.view_run import view_run
from experiments.stats.compare import compare
from experiments.stats.formatting import format_interval
from experiments.stats.intervals import Estimate

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'&\u2028"


@pytest.fixture(scope="module")
def page(writer, tmp_path_factory):
    run = writer(tmp_path_factory.mktemp("page") / "run", queries=6)
    return run, write_report(run), (run.path / "report.html").read_text(encoding="utf-8")


def test_the_page_loads_nothing_from_anywhere(page):
    _, _, html = page
    assert not re.search(r"(?:https?:)?//[a-z]", html.replace("http://www.w3.org/2000/svg", ""))
    assert set(re.findall(r'(?:src|href)="([^"]{0,6})', html)) <= {
        "data:,",
        "#shows",
        "#figur",
        "#score",
        "#answe",
        "#diffe",
        "#contr",
        "#sampl",
        "#costs",
        "#metho",
    }
    assert "@import" not in html
    assert "url(" not in html


def test_the_content_policy_names_its_own_script_and_style(page):
    _, _, html = page
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("script", "style"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert " style=" not in html


def test_sections_are_findings_then_figures_then_tables(page):
    _, _, html = page
    order = [
        html.index(f'id="{name}"')
        for name in ("shows", "figures", "scores", "differences", "controls", "samples", "costs")
    ]
    assert order == sorted(order)
    assert "is not distinguishable from" in html
    assert "p Holm: over 20 comparisons, the rows of this table." in html


def test_hostile_text_is_nowhere_markup(written):
    run = written(queries=4, hostile=HOSTILE, failing={"shapes-0001": HOSTILE}, tasks=("shapes", HOSTILE))
    write_report(run)
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert html.count("<script") == 2
    assert html.count("</script>") == 2
    assert "<img" not in html.split("<script>")[0]
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])
    assert {s["output"] for s in page_samples(data["samples"]) if s.get("output")} <= {f"{c}{HOSTILE}" for c in
        ("red", "green", "blue", "gold", "purple", "teal")}  # fmt: skip
    for path in (run.path / "figures").glob("*.svg"):
        assert not [e for e in ElementTree.parse(path).iter() if e.tag.endswith(("script", "img"))]


def test_data_and_figures_are_written_beside_the_page(page):
    run, made, _ = page
    assert [p.name for p in made.tables] == ["scores.csv", "curves.csv", "differences.csv", "controls.csv"]
    with (run.path / "tables" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    assert {"task", "shots", "mean", "low", "high", "clusters"} <= set(rows[0])
    with (run.path / "tables" / "curves.csv").open() as file:
        curves = list(csv.DictReader(file))
    assert len(curves) == 2 * 2 * 3
    assert {"gain", "efficiency", "headroom", "peak", "peak_shots"} <= set(curves[0])
    assert [p.name for p in made.figures] == ["shapes.svg", "binding-2-way.svg"]
    svg = ElementTree.parse(made.figures[0]).getroot()
    titles = [e.text for e in svg.iter() if e.tag.endswith("title")]
    assert any(re.fullmatch(r"knn, vcd, 4 shots: [.\d]+ \[[.\d]+, [.\d]+\], 6 queries", words) for words in titles)


def test_facts_without_a_value_are_null_in_the_data_of_the_page():
    tree = {"samples": [{"meta": {"height": float("nan"), "<b>": float("inf")}, "scores": (0.5, 1)}]}
    text = _json(tree)
    assert json.loads(text) == {"samples": [{"meta": {"height": None, "<b>": None}, "scores": [0.5, 1]}]}
    assert "<" not in text


def test_the_browser_says_how_much_it_carries(written):
    run = written(queries=9)
    write_report(run, per_cell=4)
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert "4 of 9 queries of shapes and 4 of 9 queries of binding, 2-way" in html


def test_an_unfinished_arm_is_a_warning_and_the_rest_is_shown(written):
    run = written(queries=5)
    path = next(p for p in sorted((run.path / "cells").iterdir()) if '"shots": 4' in (p / "cell.json").read_text())
    lines = (path / "0.jsonl").read_text().splitlines(keepends=True)
    (path / "0.jsonl").write_text("".join(lines[:-2]))
    write_report(run)
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert "are not paired" in html
    assert html.count("<figure>") == 2


def test_one_setting_has_a_page_too(written):
    run = written(queries=3, tasks=("shapes",), seeds=(0,), shots=(0,), decodings=({"strategy": {"name": "greedy"}},))
    write_report(run)
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Nothing to compare" in html
    assert 'id="differences"' not in html


def test_costs_are_summed_over_sessions(page):
    _, _, html = page
    assert "<b>1,203,440</b><span>prefill_tokens</span>" in html
    cells = "".join(f'<td class="n">{v}</td>' for v in ("28,260", "3,140", "89%"))
    assert f'<th scope="row">images</th>{cells}' in html


def test_what_late_contrasts_saved_is_reported_by_arm(page):
    _, _, html = page
    expected = ("20", "80", "0", "60 of 100", "12,000", "90 (30%)", "150 (50%)")
    cells = "".join(f'<td class="n">{v}</td>' for v in expected)
    assert f'<tr><th scope="row">vcd</th>{cells}</tr>' in html


def test_the_other_score_has_its_table(page):
    _, _, html = page
    assert "The same by strict" in html


def test_the_time_of_the_sessions_is_a_cost(page):
    _, _, html = page
    assert "Wall time of all sessions: <b>2:10</b>." in html


def test_page_of_another_metric(written):
    run = written(queries=4)
    write_report(view_run(run, metric="strict"))
    assert "Differences in strict accuracy" in (run.path / "report.html").read_text(encoding="utf-8")


def test_the_page_says_which_way_is_good(written):
    run = written(queries=6, better="lower")
    write_report(run)
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "lenient accuracy (lower is better) with its 95 % interval: ± half its width, " in page
    assert "Bold: the lowest of a column." in page
    assert '"better":"lower"' in page


def test_where_neither_way_is_good_nothing_is_lost_or_won(written):
    run = written(queries=6, better="neither")
    write_report(run)
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Down / up: samples whose score fell / rose." in page
    assert not any(words in page for words in ("Bold: the", "R→W / W→R"))


def test_the_vote_is_seen_where_it_has_one_point(written):
    run = written(queries=6, shots=(0, 2))
    figure = ElementTree.parse(write_report(run).figures[0])
    rings = [ring for ring in figure.iter() if ring.tag.endswith("circle") and ring.get("class", "").startswith("vote")]
    assert len(rings) == 2 * 2  # of two retrievers: a point in the panel and one in the key


def test_many_arms_are_panels_with_axis_titles_and_a_key_to_click(written):
    run = written(queries=4, retrievers=("random", "knn", "mmr"), tasks=("shapes",))
    write_report(run)
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == ["shapes: random", "shapes: knn", "shapes: mmr"]
    assert html.count(">demonstrations (shots)</text>") == html.count('">lenient accuracy</text>') == 3
    keys = re.findall(r'data-key="(\d+)"', html)
    assert len(keys) == len(set(keys)) == 9 + 3
    assert {*re.findall(r'data-series="(\d+)"', html)} == set(keys)
    labels = re.findall(r"<text [^>]*class=\"label f\d\"><title>(.*?)</title>", html)
    assert sorted(set(labels)) == ["greedy", "mask_only(vcd)", "vcd", "vote"]


def test_arms_that_equal_their_reference_by_construction_are_folded_away(written):
    view = view_run(written(queries=4, tasks=("shapes",), shots=(2,), retrievers=("knn",)))
    same = view.scores["decoding"] != "vcd"
    view = replace(view, scores=view.scores.assign(decided_by=same.map({True: "same", False: "other"})))
    html = write_report(view).report.read_text(encoding="utf-8")
    section = html.split('id="differences"')[1].split("</section>")[0]
    table, folded = section.split("<details>")
    assert "1 arm not tested: the same as its reference by construction" in folded
    assert "mask_only(vcd)" in folded
    assert "mask_only(vcd)" not in table
    assert ">vcd</th>" in table


def test_rows_that_repeat_another_by_construction_are_folded_away() -> None:
    equal, other = frozenset({(0, "a")}), frozenset({(0, "b")})
    estimate = Estimate(0.5, 0.4, 0.6, 10, 10)

    def row(name: str, *digests: frozenset[object], **more: object) -> ScoreRow:
        cells = dict.fromkeys(range(len(digests)), estimate)
        return ScoreRow((name,), cells, decided_by=dict(enumerate(digests)), **more)  # type: ignore[arg-type]

    rows = (
        row("greedy", equal, equal),
        row("vcd", other, equal),
        row("mask_only", equal, equal),
        row("unknown", frozenset(), frozenset()),
        row("fewer shots", equal),
        row("vote", equal, equal, baseline=True),
        row("failed"),
        row("failed, too"),
    )
    table = TaskTable("t", ("decoding",), (0, 1), rows, 10, 1, 0)
    lines, repeated = table.folded_lines
    assert [line.name for line in lines] == ["greedy", "vcd", "unknown", "fewer shots", "vote", "failed", "failed, too"]
    assert [(line.name, first.name) for line, first in repeated] == [("mask_only", "greedy")]


def test_scores_and_answers_name_what_they_fold_away(mapping, tmp_path, toy):
    model = {"name": toy}
    grid = {"decoding": ["greedy", "vcd"], "shots": [0, 2]}
    run = icl.run(mapping(model=model, grid=grid, controls="default"), runs=tmp_path, quiet=True)
    write_report(run)
    html = (run.path / "report.html").read_text(encoding="utf-8")
    scores = html[html.index('id="scores"') : html.index('id="answers"')]
    body, _, folded = scores.partition("rows folded away: the same as another by construction")
    assert "mask_only(vcd)" not in body
    assert "random, mask_only(vcd): as random, greedy" in folded
    assert "arms with the answers of another by construction are left out" in html


def test_tasks_whose_names_read_alike_have_figures_of_their_own():
    assert file_names(["a b", "a-b", "A b!", "c", "\u4e2d", "a b-2"]) == ["a-b", "a-b-2", "a-b-3", "c", "4", "a-b-2-2"]


def test_many_controls_stand_in_the_tables_and_not_in_the_figure(written):
    wraps = ("mask_only", "temperature_matched", "sign_flip", "gaussian_proxy", "shuffled_negative", "no_image")
    vcd = {"name": "vcd", "alpha": 1.0}
    greedy, alone, *few = (
        {"strategy": node, "sampler": {"name": "greedy"}}
        for node in ({"name": "greedy"}, vcd, *({"name": name, "of": vcd} for name in wraps))
    )
    more = [*few, {"strategy": {"name": "unrelated_image", "of": vcd}, "sampler": {"name": "greedy"}}]
    for controls, plotted in ((few, True), (more, False)):
        run = written(queries=4, shots=(0, 2), decodings=(greedy, alone, *controls))
        svg = write_report(run).figures[0].read_text(encoding="utf-8")
        html = (run.path / "report.html").read_text(encoding="utf-8")
        key = re.search(r'<ul class="key">.*?</ul>', html, re.S)[0]
        assert ("mask_only" in key, "mask_only" in svg, "Faint: controls." in html) == (
            plotted,
            plotted,
            plotted,
        )
        assert "random, vcd" in key
        assert "random, greedy" in key
        assert ("The 7 controls are not plotted" in html) is not plotted
        assert "mask_only" in html.split('id="scores"')[1].split('id="differences"')[0]


def test_page_csv_and_terminal_print_one_interval_that_agrees_with_the_corrected_p(written):
    run = written(queries=60, tasks=("binding, 2-way",), shots=(0, 4), retrievers=("random", "knn"))
    view = view_run(run, to={"shots": 0})
    files = write_report(view)
    differences = pd.read_csv(next(path for path in files.tables if path.name == "differences.csv"))
    page, out = (run.path / "report.html").read_text(), io.StringIO()
    print_comparison(compare(view.scores, view.to, view.metric, axes=view.axes), view, Console(file=out, width=200))
    assert list((differences["low"] > 0) | (differences["high"] < 0)) == list(differences["p_corrected"] <= 0.05)
    for row in differences.to_dict("records"):
        interval = format_interval(row["low"], row["high"])
        assert f'<td class="n">{interval}</td>' in page
        assert interval in out.getvalue()
    tested = [one for own in view.comparisons.values() for one in own if one.result is not None]
    for one in tested:
        assert (one.result.low > 0 or one.result.high < 0) == (one.p <= 0.05)
    for finding in view.findings:
        assert str(escape(finding.numbers)) in page
