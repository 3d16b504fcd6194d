"""Check a component against the contract of its kind, or a run against its results card."""

import json
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.cli.ls import kind_of, kind_with
from experiments.cli.main import checked_path
from experiments.cli.options import Quiet, Trust
from experiments.config.yaml_document import parse_override
from experiments.results import Run, loaded_run
from experiments.running.judging import collect_verdicts
from experiments.sharing.card import read_card
from experiments.sharing.verify import (
    AGREEMENT,
    draw_samples,
    environment_differences,
    grid_of,
    problems_of_card,
    recompute,
    scored_by_other_rules,
    wrong_descriptions,
    wrong_queries,
    wrong_scores,
)
from experiments.stats import format_count, measure_agreement
from experiments.store.json_shapes import IMPORTED, MERGED
from experiments.terminal.progress import make_progress
from icl import (
    ConfigError,
    DataError,
    Metric,
    StoreError,
    build,
    did_you_mean,
    strip_control_characters,
    testing,
    with_article,
)
from icl.metrics.machinery.judge import Judge
from icl.registry import PACKAGES
from icl.testing.conformance import metric_probes
from icl.types import Example, Generation

MAX_LINES = 10
CHECKS = tuple(kind for kind in PACKAGES if f"check_{kind}" in testing.__all__)


def command(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[KIND] NAME [PARAMETERS] | RUN",
            help="a name (knn) or a path (studies/blind.py:Blind), then its parameters (alpha=0.5); or a run directory "
            "with a card, or card.json",
            show_default=False,
        ),
    ],
    *,
    cases: Annotated[
        str,
        typer.Option(
            help="of a metric: compare it with the cases of a JSON lines file; `shipped` names the toolkit's own",
            show_default=False,
        ),
    ] = "",
    run: Annotated[
        Path | None, typer.Option(help="of a card: the run directory; by default its folder", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(help="of a run: samples to compute again; 0 needs no model", min=0)] = 50,
    seed: Annotated[
        int | None, typer.Option(help="of a run: seed of the choice of samples; by default a new one", min=0)
    ] = None,
    allow: Annotated[int, typer.Option(help="of a run: answers that may differ", min=0)] = 0,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """A component: prints facts about it and exits with 0, or prints what is wrong and exits with 1.

    A line of --cases is {"output": …, "answers": […], "options": […], "right": true}. Prints each case with another
    judgment, then the number of cases that agree. The exit status is 1 if one does not.

    A run: checks the digest of its card (`icl report RUN --as card`), the digest of every sample, and that the samples
    give the card's scores. Then it scores all stored answers again, computes random samples again with the same cells,
    and says how many agree. Expected: every prompt agrees. In float32 with the versions and kind of device of the card,
    every answer agrees. Elsewhere a few may differ, because sums are rounded in another order. Exit status: 0 if
    everything agrees, 1 if something was edited, a prompt differs, or more answers differ than --allow.
    """
    if len(words) == 1 and (os.path.isdir(words[0]) or words[0].endswith(".json")):
        _verify(checked_path(words[0]), run, samples, seed, allow=allow, trust=trust, quiet=quiet)
    else:
        _check(words, cases)


def _check(words: list[str], cases: str) -> None:

    kind, name, parameters = _read(words)
    if kind not in CHECKS:
        raise ConfigError(f"there is no check for {with_article(kind)}. Kinds with a check: {', '.join(CHECKS)}.")
    component = build(kind, {"name": name, **dict(map(parse_override, parameters))}, "command line")
    if cases:
        _compare(kind, component, cases)
        return
    if kind == "metric":
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


def _collect_verdicts(metric: Any, samples: Sequence[tuple[Generation, Example]]) -> None:
    """Asks the model of a judge for the verdicts that it needs. Other metrics need none."""

    if isinstance(metric, Judge):
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


def _verify(
    card: Path, run: Path | None, samples: int, seed: int | None, *, allow: int, trust: bool, quiet: bool
) -> None:

    content = read_card(card)
    folder = run or (card if card.is_dir() else card.parent)
    if run is None and not (folder / "run.json").is_file():
        raise StoreError(f"{folder} has no run.json beside the card. Name the run directory with --run.")
    loaded = replace(
        loaded_run.load_run(folder, trust), from_lines=True
    )  # a cache may have other scores than the lines
    problems = list(problems_of_card(content, loaded))
    _print_first("wrong       ", problems)
    if len(problems) > MAX_LINES:
        print(f"wrong       {len(problems) - MAX_LINES:,} more of these.")
    if not problems:
        total = format_count(content["samples"], "sample")
        print(f"digests     the card and its {total} are unchanged, and the samples give its scores")
    if unfinished := content.get("unfinished"):
        _print(f"unfinished  {unfinished}")
    origin = next((key for key in (IMPORTED, MERGED) if key in loaded.info), "")
    if origin and samples:
        print(f"no samples  were computed again: the run was {origin}, so no config computes them")
    elif not samples:
        print("no samples  were computed again, and no stored answer was scored again (--samples 0)")
    if origin or not samples:
        _print_unchecked(content.get("failed", 0))
    agree = origin or not samples or _compute_again(content, loaded, samples, seed, allow=allow, quiet=quiet)
    if problems or not agree:
        raise typer.Exit(1)


def _compute_again(card: dict[str, Any], run: Run, samples: int, seed: int | None, *, allow: int, quiet: bool) -> bool:
    """Prints how many samples agree. Returns whether enough do."""

    grid = grid_of(run, card["cells"])
    queries = [
        *wrong_descriptions(run, grid),
        *wrong_queries(run, grid, unfinished=bool(card.get("unfinished"))),
    ]
    scores = list(wrong_scores(run, grid))
    _print_first("wrong       ", queries)
    _print_first("wrong       ", scores)
    if scores and (others := scored_by_other_rules(run, grid)):
        _print(
            f"scores      of {', '.join(others)} come from a version with other rules, by run.json, which may be why "
            "they differ. The `icl run` command of the run scores its answers again"
        )
    if not scores:
        print("scores      every stored answer has the scores that the metrics give it")
    seed = secrets.randbits(32) if seed is None else seed
    chosen = draw_samples(run, list(card["cells"]), samples, seed)
    results = recompute(grid, chosen, make_progress(quiet))
    prompts, answers = sum(one.same_prompt for one in results), sum(one.same_answer for one in results)
    for one in [one for one in results if not one.same_prompt or not one.same_answer][:MAX_LINES]:
        _print(f"differs     {one.describe()}")
    print(f"computed    {format_count(len(results), 'random sample')} again (--seed {seed})")
    print(f"agree       {prompts:,} of {len(results):,} prompts, {answers:,} of {len(results):,} answers")
    _print_unchecked(card.get("failed", 0) - sum(bool(one.stored.get("failed")) for one in results))
    if differences := environment_differences(card):
        _print(f"here        {differences}")
    print(AGREEMENT, file=sys.stderr)
    return not queries and not scores and prompts == len(results) and len(results) - answers <= allow


def _print_unchecked(failed: int) -> None:
    """Says that failed samples were not computed again: any of them may be an answer that somebody marked as failed."""

    if failed > 0:
        print(f"failed      {format_count(failed, 'failed sample')} {'was' if failed == 1 else 'were'} not checked")


def _print_first(head: str, sentences: Sequence[str]) -> None:
    for sentence in sentences[:MAX_LINES]:
        _print(f"{head}{sentence}.")


def _print(text: str) -> None:
    print(strip_control_characters(text))


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
