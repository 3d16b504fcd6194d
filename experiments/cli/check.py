"""Check one component, ours or yours, against the contract of its kind."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.cli.component_kinds import kind_of, kind_with
from icl import testing
from icl.errors import ConfigError, DataError, did_you_mean, strip_control_characters
from icl.metrics.base import Metric
from icl.registry import PACKAGES, build, with_article
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


SHIPPED = Path(__file__).parents[2] / "icl" / "metrics" / "answer_cases.jsonl"
"""Outputs in the styles of current instruct and reasoning models."""

KEYS = {"output": str, "answers": list, "right": bool}


@dataclass(frozen=True)
class AnswerCase:
    """One output with its verdict. line: its place in the file, from 1."""

    line: int
    output: str
    answers: tuple[str, ...]
    options: tuple[str, ...]
    right: bool
    question: str = ""

    @property
    def as_sample(self) -> tuple[Generation, Example]:
        """What a metric reads."""
        return Generation(self.output), Example(f"line {self.line}", (), self.question, self.answers, self.options)

    def verdict(self, metric: Metric) -> bool | None:
        """Whether the metric calls the output right: a score of at least .5. None without a score."""
        score = metric.score(*self.as_sample)
        return None if score is None else score >= 0.5

    def disagreement(self, metric: Metric) -> str | None:
        """A sentence if the metric's verdict is another one."""
        if self.verdict(metric) == self.right:
            return None
        score = metric.score(*self.as_sample)
        options = f", options {', '.join(self.options)}" if self.options else ""
        verdict = "right" if self.right else "wrong"
        return (
            f"line {self.line}: {verdict}, scored {score}: {self.output!r} (answers {', '.join(self.answers)}{options})"
        )


def read_cases(path: Path) -> list[AnswerCase]:
    """The cases of a JSON lines file: {"output": str, "answers": [str], "right": bool}, and
    optionally "question": str and "options": [str].

    Raises:
        DataError: The file cannot be read, or a line is not a valid case.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} cannot be read: it is not a regular file.")
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    cases = [_case(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not cases:
        raise DataError(f"{path} has no case. Write one JSON object per line.")
    return cases


def disagreements(metric: Metric, cases: Sequence[AnswerCase]) -> Iterator[str]:
    """A sentence for each case that the metric judges otherwise."""
    return (text for text in (case.disagreement(metric) for case in cases) if text is not None)


def _case(path: Path, number: int, line: str) -> AnswerCase:
    where = f"{path}:{number}"
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: this line is not a JSON object ({error}).") from error
    if not isinstance(fields, dict):
        raise DataError(f"{where}: this line is not a JSON object.")
    for key, kind in KEYS.items():
        if not isinstance(fields.get(key), kind):
            raise DataError(f"{where}: '{key}' must be there as a {kind.__name__}. Keys: {', '.join(KEYS)}, options.")
    options = fields.get("options") or []
    if not isinstance(options, list) or not fields["answers"]:
        raise DataError(f"{where}: answers and options are lists of text, and there is at least one answer.")
    return AnswerCase(
        number,
        fields["output"],
        tuple(map(str, fields["answers"])),
        tuple(map(str, options)),
        fields["right"],
        str(fields.get("question", "")),
    )
