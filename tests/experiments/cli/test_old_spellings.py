"""Old commands and options are answered by one sentence with the new spelling, and exit status 2."""

from collections.abc import Callable
from typing import Any

import pytest

from experiments.cli.main import GROUPS, OLD_COMMANDS, commands

ICL = Callable[..., Any]
NOW = {
    "card": "icl report RUN --as card",
    "diff": "icl doctor backends A B STUDY",
    "figures": "icl show RUN scores --as pdf",
    "judge": "icl label RUN --judge MODEL",
    "leaderboard": "icl report RUN RUN --as leaderboard",
    "merge": "icl import ALL RUN RUN",
    "mine": "icl data mine FILE",
    "probe": "icl doctor server URL",
    "runs": "icl ls runs",
    "schema": "icl ls schema",
    "simulate": "python -m lab.simulation, in a checkout of the repository",
    "table": "icl show RUN scores --as latex",
    "tune": "icl fit FILE",
    "verify": "icl check RUN",
    "watch": "icl show RUN --follow",
}


def test_every_old_command_has_a_row_here_and_is_none_today() -> None:
    assert OLD_COMMANDS.keys() == NOW.keys()
    assert not OLD_COMMANDS.keys() & commands().keys()


@pytest.mark.parametrize("old", NOW)
@pytest.mark.parametrize("more", [(), ("runs/x", "--latex"), ("--help",)])
def test_an_old_command_names_the_new_one(icl: ICL, old: str, more: tuple[str, ...]) -> None:
    output = icl(old, *more)
    assert (output.status, output.out) == (2, "")
    assert output.err == f"icl {old} is now: {NOW[old]}\n"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("show runs/x scores --latex", "--latex. Did you mean --as latex?"),
        ("show runs/x scores --markdown --out t.md", "--markdown. Did you mean --as markdown?"),
        ("show runs/x scores --csv", "--csv. Did you mean --as csv?"),
        ("show runs/x scores --format pdf", "--format. Did you mean --as pdf?"),
        ("show runs/x scores --format=latex", "--format. Did you mean --as latex?"),
        ("show runs/x q-0001 --prompt", "--prompt. It is now: icl show RUN prompt QUERY"),
        ("show runs/x --failed", "--failed. It is now: icl show RUN failed"),
        ("show runs/x --once", "--once. It is now: icl show RUN progress"),
        ("compare runs/x --csv t.csv", "--csv. Did you mean --as csv --out t.csv?"),
        ("compare runs/x --csv=t.csv", "--csv. Did you mean --as csv --out t.csv?"),
        ("compare runs/x --controls", "--controls. It is now: icl show RUN controls"),
        ("compare runs/x --page c.md", "--page. It is now: icl show RUN controls --as markdown --out FILE"),
        ("analyze runs/x copying --csv t.csv", "--csv. Did you mean --as csv --out t.csv?"),
        ("analyze runs/x copying --figure f.pdf", "--figure. Did you mean --as pdf --out f.pdf?"),
        ("doctor --bench", "--bench. It is now: make gpu, in a checkout of the repository"),
        ("doctor --bench --quick", "--bench. It is now: make gpu, in a checkout of the repository"),
    ],
)
def test_an_old_option_names_the_new_one(icl: ICL, words: str, hint: str) -> None:
    output = icl(*words.split())
    assert (output.status, output.out) == (2, "")
    assert output.err.endswith(f"No such option: {hint}\n")


def test_a_query_in_place_of_a_section_names_the_new_form(icl: ICL, written: Any) -> None:
    run = written(queries=2, tasks=["shapes"], shots=[0], seeds=[0])
    output = icl("show", str(run.path), "shapes-0001")
    assert output.status == 2
    assert f"A query is shown by: icl show {run.path} sample shapes-0001" in output.err


def test_at_most_nineteen_commands_in_five_groups(icl: ICL) -> None:
    assert len(GROUPS) == 5
    assert len(commands()) == sum(map(len, GROUPS.values())) <= 19
    lines = icl("--help").out.splitlines()
    assert [line for line in lines if line in GROUPS] == list(GROUPS)
