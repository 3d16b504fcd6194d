"""Try your data with a model: few-shot and one strategy on 100 queries, and what helped."""

import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.cli.column_guess import Guess, guess_task, with_overrides
from experiments.cli.main import hanging_lines
from experiments.cli.options import Overrides, RunsFolder, model_node
from experiments.config import Config, Document, load_config, parse_config, to_flow_yaml
from experiments.contexts.contexts import PromptSpec, Retrieval, build_contexts, render
from experiments.grid import Cell, check_data, check_requirements, expand, placeholder_note
from experiments.report.sections.headline import DETECTABLE, headline
from experiments.results import RunView, loaded_run
from experiments.results.view_run import view_run
from experiments.running.run import run
from experiments.stats import format_share
from experiments.store.store import report_write_errors, write_text
from experiments.terminal.progress import make_progress
from icl import ConfigError, DataError, PlanError, Prompt, build, resolve

QUERIES, SHOTS, STRATEGY = 100, [0, 4, 8], "vcd"
GAIN = 0.03
"""The gain for which the number of queries is printed."""
PAGE = (
    "<!doctype html><meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>Prompt</title>"
    "<body style='max-width:50em;margin:2em auto;font-family:sans-serif'>{}</body>\n"
)


def command(
    data: Annotated[Path, typer.Argument(help="a file of rows, or a folder", show_default=False)],
    overrides: Overrides = None,
    *,
    model: Annotated[
        str,
        typer.Option(
            help="a checkpoint: hub id, folder or `tiny`; or a YAML mapping such as '{name: vllm, path: …}'",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="the study to write; by default try/NAME.yaml", show_default=False)
    ] = None,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Guesses which columns are questions, images, options and answers, writes a study, shows one of its prompts as a
    picture, and runs it: 0, 4 and 8 random demonstrations, greedy and with vcd, on 100 queries.

    Then it says whether demonstrations help, whether the strategy does, whether the model beats a vote of the
    demonstrations' answers, and how many queries show a gain of .03. A key corrects a guess:
    `icl try rows.jsonl --model tiny task.columns.answer=gold grid.decoding=[greedy,pai]`

    `icl run` with the written study has the same samples.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", data.resolve().stem).lstrip("._-") or "data"
    study = out or Path("try") / f"{stem}.yaml"
    with report_write_errors(study):
        study.parent.mkdir(parents=True, exist_ok=True)
    guess = guess_task(data, study.parent)
    keys = _keys(guess, study, model, overrides or [])
    lines = [f"# Written by `icl try`. icl plan {study} says what it costs, icl run {study} runs it."]
    for key, value in keys.items():
        lines += guess.lines(value) if key == "task" else [f"{key}: {to_flow_yaml(value)}"]
    text = "\n".join(lines) + "\n"
    if study.exists() and study.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{study} is another study, which is not replaced. Name a new file: --out FILE.yaml.")
    cell, prompt = _first_prompt(parse_config(Document(str(study), study.parent, keys)))
    print(*(f"note         {note}\n" for note in guess.notes), sep="", end="")
    columns = {
        role: names if isinstance(names, list) else [names] for role, names in keys["task"].get("columns", {}).items()
    }
    used = {column for names in columns.values() for column in names}
    if columns:
        print("columns     ", ", ".join(f"{' + '.join(names)} -> {role}" for role, names in columns.items()))
        print("unused      ", ", ".join(name for name in guess.names if name not in used) or "no column")
    print(f"rows         {len(cell.task.queries):,} queries, {cell.task.pool_size:,} for demonstrations")
    page = study.with_suffix(".prompt.html")
    write_text(page, PAGE.format(prompt._repr_html_()))
    print(f"prompt       {page}   ({cell.shots} demonstrations; open it in a browser)")
    _display(prompt)
    write_text(study, text)
    done = run(load_config(study), runs, make_progress())
    print(*(f"{warning}\n" for warning in done.warnings), sep="", end="", file=sys.stderr)
    if done.failed:
        print(f"{done.failed:,} samples failed: icl show {done.folder} failed", file=sys.stderr)
    for head, sentence in _answers(view_run(loaded_run.load_run(done.folder, trust=True))):
        print(*hanging_lines(f"{head:<13}", sentence, shutil.get_terminal_size().columns), sep="\n")
    print(
        f"run          {done.folder}   (next: icl report {done.folder})",
        f"written      {study}   (edit it, then: icl run {study})",
        sep="\n",
    )


def _keys(guess: Guess, study: Path, model: str, overrides: list[str]) -> dict[str, Any]:
    """The keys of the study. Raises DataError with the key to write if something is missing."""
    node = model_node(model)
    start = {
        "name": f"try-{study.stem}", "task": guess.task, "model": node, "seeds": [0], "max_new_tokens": 32,
        "grid": {"shots": SHOTS, "decoding": ["greedy", STRATEGY]}, "compare": {"to": {"decoding": "greedy"}},
    }  # fmt: skip
    keys = with_overrides("icl try", start, study.parent, overrides)
    task, grid = keys["task"], keys["grid"]
    if task["name"] != guess.task["name"]:
        guess.notes, guess.names = [], []
    elif "answer" not in task["columns"]:
        raise DataError(
            f"no column of answers was found among {', '.join(guess.names)}. Write the one that has them: "
            "task.columns.answer=COLUMN."
        )
    guess.notes = [note for note in guess.notes if "answers was found" not in note]
    path = study.parent / task["path"]
    built = build("task", {**task, "path": str(path.resolve())} if path.exists() else task)
    guess.notes += filter(None, [placeholder_note(built.queries)])
    if len(built.queries) > QUERIES:
        task.setdefault("queries", QUERIES)
    if grid["shots"] == SHOTS and built.pool_size < SHOTS[-1]:
        grid["shots"] = [shots for shots in SHOTS if shots < built.pool_size] + [built.pool_size]
    abilities = resolve("model", str(node.get("name") if isinstance(node, Mapping) else node), "--model").abilities
    missing = "" if abilities & {"strategies", "logits"} else "the model gives no next-token logits"
    without = sum(not query.images for query in built.queries)
    if without:
        missing = f"it edits images, and {without:,} of {len(built.queries):,} queries have no image"
    if missing and STRATEGY in grid["decoding"]:
        grid["decoding"].remove(STRATEGY)
        guess.notes.append(f"{STRATEGY} is left out: {missing}.")
    return keys


def _first_prompt(config: Config) -> tuple[Cell, Prompt]:
    """The first query with the fewest demonstrations above 0."""
    grid = expand(config)
    check_requirements(grid)
    check_data(grid)
    cell = min((cell for cell in grid.cells if cell.shots), key=lambda cell: cell.shots, default=grid.cells[0])
    (row,) = build_contexts(Retrieval(cell.task, cell.model), [PromptSpec((cell,))], list(cell.task.queries[:1]))
    item = render(row[0])
    if item.prompt is None:
        raise PlanError(f"query '{cell.task.queries[0].id}' has no prompt: {item.failure}")
    return cell, item.prompt


def _display(prompt: Prompt) -> None:
    """Shows the prompt where this process is the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and hasattr(shell, "kernel"):
        from IPython.display import display

        display(prompt)  # type: ignore[no-untyped-call]  # IPython has no types


def _answers(view: RunView) -> Iterator[tuple[str, str]]:
    """(head, sentence): the answers and notes of the report, the vote, and the queries that show a gain of GAIN."""
    first = headline(view)
    for sentence in first.sentences:
        yield "answer", f"{sentence.asks} {sentence.claim} {sentence.numbers}"
    if any(not sentence.numbers for sentence in first.sentences):  # it refers to the notes
        yield from (("note", note) for note in first.notes if note)
    for finding in [one for one in view.findings if one.topic == "Vote"][:1]:
        yield "answer", f"Does the model beat a vote? {finding.claim} {finding.numbers}"
    tested = [c.result for topic in ("Decoding", "ICL gain") for c in view.comparisons.get(topic, []) if c.result]
    if tested:  # half widths of intervals shrink with the root of the number of clusters
        widest = max(tested, key=lambda result: result.high - result.low)
        needed = widest.clusters * (DETECTABLE * (widest.high - widest.low) / 2 / GAIN) ** 2
        about, gain, queries = float(f"{needed:.2g}"), format_share(GAIN, 2), view.frame["query"].nunique()
        groups, these = " groups with a common image", f"{queries:,} queries are {widest.clusters:,} groups"
        if queries == widest.clusters:
            groups, these = "", f"were {queries:,}"
        yield "queries", f"To see a gain of {gain} you need about {about:,.0f}{groups}; these {these}."
