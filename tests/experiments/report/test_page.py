import base64
import csv
import hashlib
import json
import re
from xml.etree import ElementTree

import pytest
from written_run import ONE_ARM, page_samples

import icl
from experiments.report.page import _json, file_names, write_report
from experiments.results.view_run import view_run

FEW = {"shots": (0, 4), "retrievers": ("random",)}
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'&\u2028"


NAMES = (
    "prompt", "scores", "findings", "differences", "controls", "answers", "curves", "scores-strict", "costs",
    "branches", "samples", "method", "record",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(paged):
    return paged(queries=6)


@pytest.fixture(scope="module")
def html(page):
    return page.html


def test_the_page_loads_nothing_from_anywhere(html):
    names = re.sub(r'xmlns(:xlink)?="http://www.w3.org/[a-z0-9/]+"', "", html)
    assert not re.search(r"(?:https?:)?//[a-z]", names)
    assert {link[:5] for link in re.findall(r'(?:src|href)="([^"]*)', html)} == {
        "data:",
        *(f"#{name[:4]}" for name in NAMES),
    }
    assert "@import" not in html
    assert "url(" not in html


def test_the_content_policy_names_its_own_script_and_style(html):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("script", "style"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert " style=" not in html


def test_the_answer_comes_first_then_a_prompt_then_tables_then_samples(html):
    places = [html.index("<h1>"), html.index('class="answers3"'), html.index("<figure>")]
    places += [html.index(f'<section id="{name}"') for name in NAMES]
    assert places == sorted(places)
    assert "is not distinguishable from" in html
    assert "Holm over 20 comparisons" in html


def test_a_prompt_is_shown_as_the_model_reads_it(html):
    prompt = html.split('<section id="prompt">')[1].split("</section>")[0]
    assert prompt.count("What color is the shape?") == 2 * 3  # two demonstrations and the query of two tasks
    assert prompt.count('<img src="data:image/png') == 2 * 3
    assert "accepted: " in prompt


def test_sections_without_news_are_folded(html):
    for name in ("differences", "controls", "answers", "costs"):
        section = html.split(f'<section id="{name}"')[1].split("</section>")[0]
        assert section.index("<details>") < section.index("<table")
    assert "<details>" not in html.split('<section id="scores"')[1].split("</section>")[0]


def test_hostile_text_is_nowhere_markup(written):
    run = written(queries=4, hostile=HOSTILE, failing={"shapes-0001": HOSTILE}, tasks=("shapes", HOSTILE), **FEW)
    write_report(run)
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert html.count("<script") == 2
    assert html.count("</script>") == 2
    assert {src[:11] for src in re.findall(r'<img src="([^"]*)', html)} == {"data:image/"}
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])
    assert {s["output"] for s in page_samples(data["samples"]) if s.get("output")} <= {f"{c}{HOSTILE}" for c in
        ("red", "green", "blue", "gold", "purple", "teal")}  # fmt: skip
    for path in (run.path / "figures").glob("*.svg"):
        assert not [e for e in ElementTree.parse(path).iter() if e.tag.endswith(("script", "img"))]


def test_data_and_figures_are_written_beside_the_page(page):
    made = page.files
    names = ["scores", "findings", "differences", "controls", "answers", "curves", "scores-strict", "costs", "branches"]
    assert [p.name for p in made.tables] == [f"{name}.csv" for name in names]
    assert list(made.frames) == names
    with made.tables[0].open() as file:
        rows = [row for row in csv.DictReader(file) if row["vote"] == "False"]
    assert len(rows) == 30
    assert {"task", "shots", "mean", "low", "high", "clusters"} <= set(rows[0])
    assert [p.name for p in made.figures] == ["scores.svg"]
    assert ElementTree.parse(made.figures[0]).getroot().tag.endswith("svg")


def test_facts_without_a_value_are_null_in_the_data_of_the_page():
    tree = {"samples": [{"meta": {"height": float("nan"), "<b>": float("inf")}, "scores": (0.5, 1)}]}
    text = _json(tree)
    assert json.loads(text) == {"samples": [{"meta": {"height": None, "<b>": None}, "scores": [0.5, 1]}]}
    assert "<" not in text


@pytest.fixture(scope="module")
def odd(writer, tmp_path_factory):
    """A page of another metric, where lower is better, without some queries, and with an arm that is not finished."""
    run = writer(tmp_path_factory.mktemp("odd") / "run", queries=9, better="lower", **FEW)
    path = next(p for p in sorted((run.path / "cells").iterdir()) if '"shots": 4' in (p / "cell.json").read_text())
    lines = (path / "0.jsonl").read_text().splitlines(keepends=True)
    (path / "0.jsonl").write_text("".join(lines[:-2]))
    return write_report(view_run(run, metric="strict"), per_cell=4).report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("which", "words", "count"),
    [
        ("odd", "4 of 9 queries of shapes and 4 of 9 queries of binding, 2-way", 1),
        ("odd", "are not paired", None),
        ("odd", "<figure>", 2),
        ("odd", "Differences in strict accuracy", None),
        ("odd", "Strict accuracy (lower is better): mean [95 % interval]", None),
        ("odd", '"better":"lower"', 1),
        ("html", "The same by strict accuracy", None),
        ("html", "Wall time of all sessions: 2:10", None),
    ],
    ids=[
        "queries of a part",
        "unfinished arm",
        "figures stay",
        "another metric",
        "lower is better",
        "direction in the data",
        "second metric",
        "wall time",
    ],
)
def test_the_page_says(which, words, count, request):
    times = request.getfixturevalue(which).count(words)
    assert times if count is None else times == count


def test_one_setting_has_a_page_too(paged):
    html = paged(queries=3, **ONE_ARM).html
    assert "<h1>run</h1>" in html
    assert 'id="differences"' not in html


def test_costs_are_summed_over_sessions(page):
    made, html = page.files, page.html
    assert "prefill_tokens 1,203,440" in html
    costs = made.frames["costs"].set_index("quantity")
    assert costs.loc["images"].tolist() == pytest.approx([28_260, 3_140, 1 - 3_140 / 28_260])


def test_what_late_contrasts_saved_is_reported_by_arm(page):
    made, html = page.files, page.html
    expected = ("20", "80", "0", "100", "60", "12,000", "300", "90", "150")
    cells = "".join(f'<td class="n">{v}</td>' for v in expected)
    assert f'<th scope="row">vcd</th>{cells}</tr>' in html
    assert made.frames["branches"]["prefilled"].tolist() == [60]


def test_many_arms_are_panels_with_axis_titles_and_a_key_to_click(paged):
    names = ("random", "knn", "mmr", "votek", "bm25")
    html = paged(queries=4, retrievers=names, tasks=("shapes",)).html
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == [f"shapes: {name}" for name in names]
    assert html.count(">demonstrations (shots)</text>") == html.count(">lenient accuracy</text>") == 5
    assert re.findall(r'data-line="(.*?)"', html) == ["greedy", "vcd", "vote"]


def test_scores_and_answers_say_what_they_leave_out(mapping, tmp_path, toy):
    model = {"name": toy}
    grid = {"decoding": ["greedy", "vcd"], "shots": [0, 2]}
    run = icl.run(mapping(model=model, grid=grid, controls="default"), runs=tmp_path, quiet=True)
    write_report(run)
    html = (run.path / "report.html").read_text(encoding="utf-8")
    scores = html[html.index('<section id="scores"') : html.index('<section id="findings"')]
    assert "mask_only(vcd)" not in scores
    assert "controls of strategies are not shown" in scores
    assert "Arms with the answers of another by construction are left out." in html
    assert "same as the reference by construction, not tested" in html


def test_tasks_whose_names_read_alike_have_figures_of_their_own():
    assert file_names(["a b", "a-b", "A b!", "c", "\u4e2d", "a b-2", "!"]) == [
        "a-b", "a-b-2", "a-b-3", "c", "\u4e2d", "a-b-2-2", "6"
    ]  # fmt: skip
