"""Search for one set of demonstrations for all queries, and measure it on held-out queries."""

import json
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import As, ConfigFile, Overrides, check_format, print_section


def command(
    config: ConfigFile,
    overrides: Overrides = None,
    *,
    budget: Annotated[
        int,
        typer.Option(min=1, max=1_000_000, help="model calls of each search; scoring one set on one query is one call"),
    ],
    dev: Annotated[
        list[str] | None,
        typer.Option(help="dev queries: a number, or keys of the task such as split=validation; by default half"),
    ] = None,
    search: Annotated[
        str, typer.Option(help="race, random, greedy or exchange; or several with commas, the first determines the set")
    ] = "race",
    objective: Annotated[str, typer.Option(help="p_gold (probability of the right options) or accuracy")] = "p_gold",
    seed: Annotated[int, typer.Option(help="of the random sets and of the split into dev and held-out queries")] = 0,
    bootstrap: Annotated[
        bool,
        typer.Option("--bootstrap", help="only demonstrations that the model itself answers correctly, as in DSPy"),
    ] = False,
    instruction: Annotated[
        list[str] | None,
        typer.Option(help="a text to try in place of the study's instruction; can be repeated", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="a folder; by default sets/NAME", show_default=False)] = None,
    kind: As = "",
) -> None:
    """Dev queries select the set. Held-out queries compare it with random sets, with sets that need no model call, with
    the same search on permuted scores, and with the best of random sets for the same budget.

    icl optimize study.yaml shots=4 --budget 1600

    Dev and held-out queries share no group and no image: half of the study's queries are dev queries, or --dev names
    another split. The same command again continues a killed search and makes no model call twice. The folder
    test_splits next to the output counts the searches that have used the same held-out queries.

    The output folder has set.json for `retriever: {name: fixed, path: …}`, chat.json (messages for any API), dspy.json
    (`dspy.Predict(…).load`), and report.md and report.html.
    """
    from experiments.terminal.progress import spinner

    check_format(kind, None)
    with spinner("starting") as report_progress:  # imports take longer than reading the file
        from experiments.config.config import load_config
        from experiments.report.rendering import render_body
        from experiments.report.sections.fixed_set import fixed_set_section
        from experiments.running.optimize import chat_messages, dspy_state, optimize
        from experiments.running.search_setting import Options
        from experiments.store import write_json, write_lock
        from experiments.store.store import write_text

        parsed = load_config(config, overrides or [])
        folder = out or Path("sets") / parsed.name
        texts, searches = tuple(instruction or ()), tuple(search.split(","))
        options = Options(budget, tuple(dev or ()), searches, objective, seed, bootstrap, texts)
        with write_lock(folder):
            result = optimize(parsed, options, folder, report_progress)
            section = fixed_set_section(result)
            write_json(folder / "set.json", result.record)
            write_text(folder / "chat.json", json.dumps(chat_messages(result), ensure_ascii=False, indent=1) + "\n")
            write_text(folder / "report.md", section.to_markdown())
            write_text(folder / "report.html", PAGE.format(render_body(section)))
            write_json(folder / "dspy.json", dspy_state(result))  # last: it refuses texts that others take
    print_section(section, kind, None)
    if not kind:
        print(f"wrote {folder}   (retriever: {{name: fixed, path: {folder / 'set.json'}}} with order: as_retrieved)")


PAGE = "<!doctype html><meta charset='utf-8'><title>A fixed set of demonstrations</title>{}"
