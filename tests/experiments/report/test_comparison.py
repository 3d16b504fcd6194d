"""`icl compare` at several widths: no cell is folded, and what is left out is named."""

import re

import pytest
from rich.console import Console

from experiments.report.comparison import print_comparison
from experiments.results.view_run import view_run
from experiments.stats.compare import compare


def printed(run, width, capsys):
    view = view_run(run)
    table = compare(view.scores, dict(view.to), view.metric, axes=view.axes)
    print_comparison(table, view, Console(width=width))
    return table, capsys.readouterr().out.splitlines()


@pytest.fixture
def many(mapping, tmp_path):
    from experiments.api import run

    keys = {k: v for k, v in mapping(seeds=[0, 1]).items() if k not in ("shots", "model")}
    models = ["fake-copy", {"name": "fake-gold", "accuracy": 0.5}, {"name": "fake-gold", "accuracy": 0.25}]
    grid = {"shots": [1, 2, 3], "retriever": ["random", "balanced"], "model": models}
    return run({**keys, "grid": grid, "compare": {"to": {"model": "fake-copy"}}}, runs=tmp_path, quiet=True)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_rows_are_whole_at_any_width_and_no_number_is_lost(many, width, capsys):
    table, lines = printed(many, width, capsys)
    assert len(table) == 12
    rows = [line for line in lines if re.search(r"\[[^]]*\]", line)]
    assert len(rows) == 12
    assert all(len(line) <= width for line in lines)
    labels = {name for name in table["model"] if any(name in line for line in lines)}
    assert labels == set(table["model"]) == {"fake-gold(accuracy=0.5)", "fake-gold(accuracy=0.25)"}
    gone = next((line for line in lines if line.startswith("columns that do not fit")), "")
    for name in ("score", "against", "p Holm", "difference"):
        heads = next(line for line in lines if "difference" in line)
        assert (name in heads) != (name in gone)


def test_wide_terminals_have_one_row_an_arm_and_narrow_ones_headings(many, capsys):
    _, wide = printed(many, 200, capsys)
    assert re.match(r"model +shots +retriever|shots +retriever +model|model", wide[1])
    assert sum("[" in line for line in wide[1:14]) == 12  # the headings' line, then a row an arm
    _, narrow = printed(many, 80, capsys)
    assert any(re.fullmatch(r"(fake-gold\(accuracy=0\.5\), )?1 shot(, random)?", line) for line in narrow)


def test_where_one_thing_is_changed_at_a_time_the_usual_stands_above_and_a_row_names_what_differs(
    mapping, tmp_path, capsys
):
    from experiments.api import run

    keys = {k: v for k, v in mapping().items() if k not in ("shots", "retriever")}
    long = {"name": "blocks", "order": "qap", "instruction": "long", "instruction_at": "within"}
    axes = {
        "shots": [2, 0, 2, 2, 2],
        "retriever": ["random", "random", "balanced", "random", "random"],
        "rerankers": [["label_balance"], ["label_balance"], ["label_balance"], "none", ["label_balance"]],
        "composer": ["chat", "chat", "chat", "chat", long],
    }
    _, lines = printed(
        run(
            {
                **keys,
                "zip": axes,
                "compare": {
                    "to": {"shots": 2, "retriever": "random", "rerankers": "label_balance", "composer": "chat"}
                },
            },
            runs=tmp_path,
            quiet=True,
        ),
        60,
        capsys,
    )
    assert lines[0] == "lenient accuracy against 2 shots, random, label_balance, "
    assert "usual: shots 2, retriever random, rerankers label_balance," in lines
    headings = [line for line in lines if re.match(r"(shots|retriever|rerankers|composer) ", line)]
    assert headings[:3] == ["shots 0", "retriever balanced", "rerankers none"]
    assert headings[3] == "composer blocks"
    assert max(map(len, lines)) <= 60
