"""List components, shipped experiments, runs, or the keys of an experiment file; show one of them."""

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments import config
from experiments.cli.main import checked_path, hanging_lines, print_names
from icl import ConfigError, did_you_mean, entries, resolve, rich, with_article
from icl.parameter_docs import ParameterDoc, page_texts, parameter_docs
from icl.registry import PACKAGES, called_here

PLURALS = {f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s": kind for kind in PACKAGES}
METHODS = {
    "fit": "retriever",
    "combine": "strategy",
    "order": "orderer",
    "compose": "composer",
    "transform": "transform",
    "pool": "task",
    "generate": "model",
    "score": "metric",
    "reattach": "launcher",
    "artifact": "observer",
    "apply_to_image": "edit",
}
"""The method that shows the kind of a component without a mark."""


def words_of_kinds() -> Mapping[str, str]:
    """The kind for every word: the kind itself, a key of an experiment file, and the plurals of both."""
    return {
        **{kind: kind for kind in PACKAGES},
        **config.COMPONENT_KINDS,
        **PLURALS,
        **{f"{key}s": kind for key, kind in config.COMPONENT_KINDS.items() if not key.endswith("s")},
        "metrics": "metric",
        "observe": "observer",
    }


def kind_of(word: str) -> str | None:
    """The kind that a word names, or None."""
    return words_of_kinds().get(word)


def kind_with(name: str, command: str) -> str:
    """The kind of the component with this name or path. Raises ConfigError if no kind has it, or several have."""
    if ":" in name:
        return _kind_of_class(resolve("", name, "command line"), name)
    kinds = [kind for kind in PACKAGES if name in entries(kind)]
    if not kinds:
        components = [entry for kind in PACKAGES for entry in entries(kind).values()]
        hint = called_here(name, components) or f".{did_you_mean(name, [entry.name for entry in components])}"
        raise ConfigError(f"no component named '{name}'{hint} (icl ls)")
    if len(kinds) > 1:
        raise ConfigError(
            f"'{name}' is the name of {' and of '.join(map(with_article, kinds))}. Say which: icl {command} "
            f"{kinds[0]} {name}."
        )
    return kinds[0]


def _kind_of_class(cls: type[Any], name: str) -> str:
    mark = getattr(cls, "component", None)
    kind = mark[0] if mark else next((kind for method, kind in METHODS.items() if hasattr(cls, method)), None)
    if kind is None:
        raise ConfigError(f"{name} has none of the methods {', '.join(METHODS)}, so it is not a component.")
    return str(kind)


def node_of(kind: str) -> str:
    """Where a config has a node of a kind, as a template that takes the node."""
    return {
        **{one: f"{key}: {{}}" for key, one in config.COMPONENT_KINDS.items()},
        **{config.COMPONENT_KINDS[key]: f"{key}: [{{}}]" for key in config.LIST_AXES},
        "metric": "metrics: [strict, {}]",
        "launcher": "launcher: {}",
        "observer": "observe: [{}]",
        "embedder": "retriever: {{name: knn, embedder: {}}}",
        "edit": "decoding: {{name: contrast, branches: [{{change: {}}}]}}",
    }[kind]


Presets = Mapping[str, Mapping[str, Any]]

WIDEST = 100
CONFIGS = ("config", "configs")


def command(
    kind: Annotated[
        str,
        typer.Argument(
            help="a kind (retriever, strategies), a key (decoding), a component, configs, runs or schema; default: all"
        ),
    ] = "",
    name: Annotated[
        str,
        typer.Argument(help="of a kind: a component, or its path, to show; of runs: the folder of run directories"),
    ] = "",
    out: Annotated[Path | None, typer.Option(help="of schema: the file to write it to", show_default=False)] = None,
) -> None:
    """`icl ls decoding` lists the decoding strategies, `icl ls decoding vcd` shows one.

    The page of a component has its paper and formula, its parameters with types, defaults and meaning, its presets, and
    lines of an experiment file that use it.

    `icl ls configs` lists the experiments that `icl run NAME` runs, `icl ls configs quickstart` prints one.

    `icl ls runs` lists the runs of a folder, the latest first: when, how many arms and samples, the state, and the best
    score, which is the best mean of the metric by which a run is judged, not a test.

    `icl ls schema` prints the JSON schema of an experiment file, with all keys, and all components with their
    parameters and bounds, for completion and checks in an editor.
    """
    width = shutil.get_terminal_size().columns
    if out is not None and kind != "schema":
        raise ConfigError("--out is the file of the schema: icl ls schema --out FILE.")
    if kind in CONFIGS:
        _print_configs(name)
    elif kind == "runs":
        _print_runs(checked_path(name or "runs"))
    elif kind == "schema":
        _print_schema(out)
    else:
        _print_components(kind, name, width)


def _print_components(kind: str, name: str, width: int) -> None:
    """Lists the components of a kind, or of all kinds, or shows one."""
    if not kind:
        for one in PACKAGES:
            print(one)
            _print_entries(one)
        print("\n`icl ls configs` lists the shipped experiments, `icl ls runs` the runs of a folder.")
        print("`icl ls KIND NAME`, such as `icl ls strategy vcd`, shows one with its parameters.")
        return
    component_kind = kind_of(kind)
    if component_kind is None and name:
        raise ConfigError(f"no kind of component named '{kind}'.{did_you_mean(kind, words_of_kinds())} {_KINDS}")
    if component_kind is None:
        if ":" not in kind and all(kind not in entries(one) for one in PACKAGES):
            components = [entry for one in PACKAGES for entry in entries(one).values()]
            candidates = [*words_of_kinds(), "configs", "runs", "schema", *(entry.name for entry in components)]
            hint = called_here(kind, components) or f".{did_you_mean(kind, candidates)}"
            raise ConfigError(f"no component or kind of component named '{kind}'{hint} {_KINDS}")
        component_kind, name = kind_with(kind, "ls"), kind
    if name:
        for line in component_page(component_kind, name, width):
            print(line)
        return
    _print_entries(component_kind)
    if component_kind == "model":
        print("\nThe columns: generate answers; return next-token logits; score whole options;")
        print("run decoding strategies; return hidden states; load adapters; load quantized.")
        print("served: if the server is `icl serve`.")
        for line in _table([*_abilities()], width):
            print(line)
        for name in entries("model"):
            with suppress(ConfigError):  # its row has the reason
                if bits := ", ".join(resolve("model", name).quantizations):
                    print(f"  quantized, {name}: {bits}")
    print(f"\n`icl ls {kind} NAME` shows one with its parameters.")


_KINDS = f"Kinds: {', '.join(PLURALS)}."


def _print_entries(kind: str) -> None:
    """Lists the components of a kind, and names its reconstructions in one line."""
    every = entries(kind).values()
    print_names({entry.name: entry.summary for entry in every if not entry.is_reconstruction})
    if names := [entry.name for entry in every if entry.is_reconstruction]:
        print(f"\n  reconstructions from abstracts: {', '.join(names)}")


def _print_configs(name: str) -> None:
    """Prints one shipped experiment file, or lists all of them."""
    if not name:
        print_names({study: config.summary(path) for study, path in config.shipped_configs().items()})
        print("\n`icl run NAME` runs one, `icl ls configs NAME` prints its file.")
        return
    print(config.find_config(Path(name)).read_text(encoding="utf-8"), end="")


COLUMNS = ("model", "generate", "logits", "score", "strategies", "hidden_states", "adapters", "quantized")


def _abilities() -> Iterator[tuple[str, ...]]:
    """One row per backend, from its class. If it cannot be imported, the row has the reason."""
    for name in entries("model"):
        try:
            cls = resolve("model", name)
        except ConfigError as error:
            yield name, str(error)
            continue
        has: frozenset[str] = cls.abilities
        can = {
            "generate": has & {"generate", "logits", "strategies"},
            "logits": has & {"logits"},
            "score": has & {"score", "logits"},
            "strategies": has & {"strategies", "logits"},
            "hidden_states": has & {"hidden_states"},
            "adapters": cls.supports_adapters,
            "quantized": cls.quantizations,
        }
        served = cls.abilities_when_served
        yield name, *("yes" if can[column] else "served" if column in served else "-" for column in COLUMNS[1:])


def _table(rows: list[tuple[str, ...]], width: int) -> Iterator[str]:
    whole = [row for row in rows if len(row) == len(COLUMNS)]
    widths = [max(len(row[i]) for row in (COLUMNS, *whole)) for i in range(len(COLUMNS))]
    for row in (COLUMNS, *rows):
        head = "".join(f"{cell:<{size}}  " for cell, size in zip(row[:-1], widths, strict=False))
        yield from hanging_lines(f"  {head}", row[-1], width)


def _print_runs(folder: Path) -> None:
    from experiments.results.run_list import list_runs
    from experiments.terminal.progress import spinner

    with spinner("reading"):
        runs = list_runs(folder)
    if not runs:
        print(f"{folder} has no runs.")
        return
    table = rich.table.Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("run", "when", "arms", "samples", "state", "best score"):
        table.add_column(head, justify="right" if head in ("arms", "samples") else "left", overflow="fold")
    for run in runs:
        when = f"{run.time:%Y-%m-%d %H:%M}" if run.time else "–"
        samples = f"{run.done:,}" if run.done == run.planned else f"{run.done:,} of {run.planned:,}"
        cells = (str(run.path.name or run.path), when, f"{run.arms:,}", samples, run.state, run.score or "–")
        table.add_row(*map(rich.text.Text, cells))
    rich.console.Console().print(table)
    for run in runs:
        if run.problem:
            print(f"{run.path}: {run.problem}", file=sys.stderr)


def _print_schema(out: Path | None) -> None:
    from experiments.config.json_schema import experiment_schema
    from experiments.store.store import write_text

    text = json.dumps(experiment_schema(), indent=2)
    if out is None:
        print(text)
    else:
        write_text(out, text + "\n")
        print(f"wrote {out}. In an editor with the YAML language server, begin a file with:")
        print(f"# yaml-language-server: $schema={out}")


def component_page(kind: str, name: str, width: int) -> Iterator[str]:
    """The lines of the page. Raises ConfigError for an unknown name."""
    cls = resolve(kind, name)
    width = min(width, WIDEST)
    yield f"{kind} {name}"
    for text in page_texts(cls):
        yield ""
        yield from wrap_text(text, width)
    parameters, presets = parameter_docs(cls), getattr(cls, "presets", {})
    if parameters:
        yield ""
        yield "Parameters"
        yield from _parameters(parameters, presets, width)
    if presets:
        yield ""
        yield "Presets (explicit parameters override them)"
        longest = max(map(len, presets))
        for preset, values in presets.items():
            line = ", ".join(f"{key}: {config.to_flow_yaml(value)}" for key, value in values.items())
            yield from hanging_lines(f"  {preset:<{longest}}  ", line, width, further=" " * min(longest + 4, 10))
    yield ""
    yield "In an experiment file"
    for line in examples(kind, name, parameters, presets):
        yield from hanging_lines("  ", line, width, further="      ")
    if kind == "strategy":
        yield from hanging_lines(
            "  ",
            "further keys: label; sampling: {temperature: …, top_k: …, top_p: …, min_p: …} or {beams: …, "
            "length_penalty: …}; if options are scored, normalize: sum, mean or bytes",
            width,
        )
        if hasattr(cls, "needs_labels"):
            yield from hanging_lines("  ", "fitted: a file that `icl fit` has written, with these parameters", width)


def examples(kind: str, name: str, parameters: Sequence[ParameterDoc], presets: Presets) -> Iterator[str]:
    """Lines of an experiment file with this component: the shortest one, one with all parameters, one with a preset."""
    place = node_of(kind)
    if kind == "embedder" and getattr(resolve(kind, name), "reads", None) == {"text"}:
        place = place.replace("knn,", "knn, by: question,")
    needed = {one.key: one.default for one in parameters if one.required}
    if kind != "edit":  # a branch change of the same name may need more
        yield place.format(config.to_flow_yaml({"name": name, **needed}) if needed else config.to_flow_yaml(name))
    if len(parameters) > len(needed) or kind == "edit":
        yield place.format(config.to_flow_yaml({"name": name, **{one.key: one.default for one in parameters}}))
    if presets:
        last, values = [*presets.items()][-1]
        left = {key: value for key, value in needed.items() if key not in values}
        yield place.format(config.to_flow_yaml({"name": name, **left, "preset": last}))


_ITEM = re.compile(r"(?m)^(?=\d+\. |- )")


def wrap_text(text: str, width: int) -> Iterator[str]:
    """The text with paragraphs and list items wrapped. Indented lines (formulas, tables) stay if there is room."""
    for i, block in enumerate(re.split(r"\n\s*\n", text.strip("\n"))):
        if i:
            yield ""
        if _ITEM.match(block):
            for item in filter(None, _ITEM.split(block)):
                head = item.split(" ")[0]
                yield from hanging_lines(f"{head} ", item.removeprefix(head), width)
        elif block.startswith(" ") or "\n " in block:
            for line in block.split("\n"):
                first = re.match(r" *\S+(?: =)? {2,}| *\S+ = | *", line)  # the name that a formula or a row begins with
                head = first[0] if first else ""
                long = len(line) > width
                yield from hanging_lines(head, line[len(head) :], width) if long else [line]
        else:
            yield from hanging_lines("", block, width)


def _parameters(parameters: Sequence[ParameterDoc], presets: Presets, width: int) -> Iterator[str]:
    longest = max(len(one.key) for one in parameters)
    for one in parameters:
        default = f"default {config.to_flow_yaml(one.default)}"
        if one.required:
            preset = any(one.key in values for values in presets.values())
            default = "required, here or in a preset" if preset else "required"
        yield from hanging_lines(f"  {one.key:<{longest}}  ", f"{one.kind}; {default}", width)
        if one.meaning:
            yield from hanging_lines(f"  {'':<{longest}}  ", one.meaning, width)
