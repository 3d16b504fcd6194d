"""`icl doctor backends`: the first stage at which two backends diverge, on the prompts of a study."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.options import Overrides, complete_config
from icl import ConfigError

if TYPE_CHECKING:
    from experiments.diff import Live, Side
    from experiments.terminal.progress import ReportProgress

SIDE = "a model of the study (hf, vllm), keys ('model.dtype=bfloat16'), a checkpoint, URL#MODEL, or a file of --save"


def backends(
    a: Annotated[str, typer.Argument(help=SIDE, show_default=False)],
    b: Annotated[str, typer.Argument(help="the other side; with --save: the study", show_default=False)],
    study: Annotated[
        Path | None,
        typer.Argument(help="a YAML file, or a name of `icl ls configs`", autocompletion=complete_config),
    ] = None,
    overrides: Overrides = None,
    *,
    queries: Annotated[int, typer.Option(min=0, help="prompts of the study, besides 11 test prompts")] = 4,
    save: Annotated[
        Path | None, typer.Option(help="record A alone, to compare it in another environment", show_default=False)
    ] = None,
    tol: Annotated[
        float | None,
        typer.Option(min=0, help="nats by which equal log-probabilities may differ", show_default=False),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="file for the result", show_default=False)] = None,
) -> None:
    """Say where two backends diverge: text, tokens, pixels, log-probabilities and answers of a study's prompts.

    Follows a prompt through both backends and names the first stage where they diverge, by how much, and why.

    icl doctor backends hf 'model.dtype=bfloat16 model.adapter=lora' study.yaml

    icl doctor backends hf http://127.0.0.1:8000/v1#name study.yaml

    In one environment: icl doctor backends hf study.yaml --save hf.trace

    In another: icl doctor backends hf.trace vllm study.yaml

    Exit status: 0 no difference beyond numerical noise, 1 they differ, 2 they cannot be compared.
    """
    from experiments.diff import compare, print_table, to_json
    from experiments.diff.comparison import verdict
    from experiments.store.store import report_write_errors, write_text
    from experiments.terminal.progress import spinner

    for path in (save, json):  # models may run for minutes before these are written
        if path is not None:
            with report_write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
    with spinner() as report:
        report("starting", 0, 0)  # imports take longer than reading the file
        from experiments.diff.recording import save as save_side

        if save is not None:
            words = [*([str(study)] if study is not None else []), *(overrides or [])]
            (side,) = _sides([a], Path(b), words, queries, report)
            save_side(side, save)
        else:
            first, second = _sides([a, b], study, overrides or [], queries, report)
    if save is not None:
        print(f"wrote {save}: {len(side.entries)} prompts   (icl doctor backends {save} OTHER STUDY)")
        return

    limits, rows = compare(first, second, tol)
    result = verdict(first, second, rows)
    print_table(first, second, rows, limits, result)
    if json is not None:
        import json as json_module

        write_text(json, json_module.dumps(to_json(first, second, rows, limits, result), indent=1) + "\n")
    if result.stage is not None:
        raise typer.Exit(1)


def _sides(
    words: list[str], study: Path | None, overrides: list[str], queries: int, report: "ReportProgress"
) -> "list[Side]":
    """The sides of words, one after the other: two models need not fit into memory together."""
    from experiments.diff import DEFAULT_EDGE, Side, live_side, load, record
    from experiments.diff import study as read_study

    parts: list[Side | Live] = []
    for word in words:
        if Path(word).is_file():
            parts.append(load(Path(word)))
        elif study is None:
            raise ConfigError(
                f"'{word}' is no file of `icl doctor backends --save`, so a study is needed: "
                "icl doctor backends A B STUDY."
            )
        else:
            parts.append(live_side(word, read_study(study, overrides)))
    saved = [part.edge for part in parts if isinstance(part, Side)]
    own_edges = [part.cell.model.tracer().image_edge for part in parts if not isinstance(part, Side)]
    edge = next((one for one in [*saved, *own_edges] if one), DEFAULT_EDGE)
    return [
        part if isinstance(part, Side) else record(part.name, part.cell.model, part.prompts(queries), edge, report)
        for part in parts
    ]
