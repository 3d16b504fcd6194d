"""Hints for words that the command line does not know."""

from collections.abc import Callable
from typing import Any

import pytest

ICL = Callable[..., Any]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("run", "x.yaml", "--model", "tiny"), "is written without dashes: model=tiny\n"),
        (("run", "x.yaml", "--model.path=tiny"), "is written without dashes: model.path=tiny\n"),
        (("plan", "x.yaml", "--max-new-tokens", "8"), "is written without dashes: max_new_tokens=8\n"),
        (("run", "x.yaml", "--tasks", "pope"), "is written without dashes: task=pope\n"),
        (("run", "x.yaml", "--metrics"), "is written without dashes: metrics=…\n"),
        (("compare", "runs/x", "--format", "latex"), "No such option: --format. Did you mean --as latex?\n"),
        (("show", "runs/x", "--format=csv"), "No such option: --format. Did you mean --as csv?\n"),
        (("run", "x.yaml", "--quite"), "No such option: --quite (Possible options: --quiet)\n"),
    ],
)
def test_an_unknown_option_is_explained(icl: ICL, words: tuple[str, ...], hint: str) -> None:
    output = icl(*words)
    assert output.status == 2
    assert output.err.endswith(hint)


def test_a_command_without_an_experiment_file_takes_no_keys(icl: ICL) -> None:
    assert "experiment file" not in icl("report", "runs/x", "--model", "tiny").err


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_limit_is_a_positive_number(icl: ICL, limit: str) -> None:
    output = icl("run", "x.yaml", "--limit", limit)
    assert output.status == 2
    assert "Invalid value for '--limit'" in output.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("ls", "rices"), "named 'rices'. It is called 'knn' here."),
        (("ls", "retriever", "KATE"), "no retriever named 'KATE'. It is called 'knn' here."),
        (("check", "exact-match"), "no component named 'exact-match'. It is called 'strict' here."),
        (
            ("run", "quickstart", "metrics=[accuracy]"),
            "no metric named 'accuracy'. It is called 'lenient', 'option' or 'strict' here.",
        ),
        (("ls", "metric", "lenien"), "no metric named 'lenien'. Did you mean 'lenient'?"),
    ],
)
def test_a_component_is_found_by_the_names_that_the_field_has_for_it(
    icl: ICL, words: tuple[str, ...], sentence: str
) -> None:
    output = icl(*words)
    assert output.status == 2
    assert sentence in output.err


def test_the_list_of_a_group_has_whole_sentences(icl: ICL) -> None:
    lines = icl("doctor", "--help").out.partition("Commands:")[2].split("Every command")[0].split()
    text = " ".join(lines)
    assert "server Say whether a server reads every image of a few-shot prompt, in order, every time." in text
    assert "..." not in text
