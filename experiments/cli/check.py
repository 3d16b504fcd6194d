"""Check one component, ours or yours, against the contract of its kind."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli.component_kinds import kind_of, kind_with
from icl import testing
from icl.errors import ConfigError, did_you_mean, strip_control_characters
from icl.registry import PACKAGES, build, with_article

if TYPE_CHECKING:
    from icl.types import Example, Generation

CHECKS = tuple(kind for kind in PACKAGES if f"check_{kind}" in testing.__all__)


def command(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[KIND] NAME [PARAMETERS]",
            help="a name (knn) or a path (studies/blind.py:Blind), then its parameters (alpha=0.5)",
            show_default=False,
        ),
    ],
    *,
    cases: Annotated[
        str,
        typer.Option(
            help="compare a metric with the cases of a JSON lines file; `shipped` names the toolkit's own",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Prints facts about the component and exits with 0, or prints what is wrong and exits with 1.

    A line of --cases is {"output": …, "answers": […], "options": […], "right": true}. Prints each case with another
    judgment, then the number of cases that agree. The exit status is 1 if one does not.
    """
    from experiments.config.yaml_document import parse_override

    kind, name, parameters = _read(words)
    if kind not in CHECKS:
        raise ConfigError(f"there is no check for {with_article(kind)}. Kinds with a check: {', '.join(CHECKS)}.")
    component = build(kind, {"name": name, **dict(map(parse_override, parameters))}, "command line")
    if cases:
        _compare(kind, component, cases)
        return
    if kind == "metric":
        from icl.testing.conformance import metric_probes

        _collect_verdicts(component, list(metric_probes()))
    try:
        facts = getattr(testing, f"check_{kind}")(component)
    except AssertionError as error:
        print(f"{kind} '{name}': {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{kind} '{name}' fulfills the contract that every {kind} must keep.")
    if facts is not None:
        print(facts.describe())


def _compare(kind: str, metric: Any, file: str) -> None:
    """Prints the cases that a metric judges otherwise. Exits with 1 if there are any."""
    from experiments.stats.agreement import measure_agreement
    from icl.testing.answer_cases import SHIPPED, disagreements, read_cases

    if kind != "metric":
        raise ConfigError(f"--cases checks a metric against cases, not {with_article(kind)}.")
    cases = read_cases(SHIPPED if file == "shipped" else Path(file))
    _collect_verdicts(metric, [case.as_sample for case in cases])
    sentences = list(disagreements(metric, cases))
    for sentence in sentences:
        print(strip_control_characters(sentence))
    print(f"agreement {len(cases) - len(sentences)} of {len(cases)}")
    print(measure_agreement([(case.right, case.verdict(metric)) for case in cases]).describe())
    if sentences:
        raise typer.Exit(1)


def _collect_verdicts(metric: Any, samples: "Sequence[tuple[Generation, Example]]") -> None:
    """Asks the model of a judge for the verdicts that it needs. Other metrics need none."""
    from icl.metrics.machinery.judge import Judge

    if isinstance(metric, Judge):
        from experiments.running.judging import collect_verdicts

        requests = [metric.request(generation.text, example) for generation, example in samples]
        collect_verdicts(metric, requests, lambda text: print(text, file=sys.stderr))


def _read(words: list[str]) -> tuple[str, str, list[str]]:
    """(kind, name, parameters); the kind may be left out where the name says it."""
    kind = kind_of(words[0])
    if kind and len(words) > 1 and "=" not in words[1]:
        return kind, words[1], words[2:]
    if kind is None and len(words) > 1 and "=" not in words[1] and ":" not in words[0]:
        raise ConfigError(f"there is no kind of component '{words[0]}'.{did_you_mean(words[0], CHECKS)}")
    return kind_with(words[0], "check"), words[0], words[1:]
