"""A run directory names code. What reads it does not run that code, and says which field needs `--trust`."""

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from strangers import EVIL, Marker, edit_json

import icl
from experiments.analyses.catalog import list_analyses
from experiments.cli.main import commands, main
from experiments.config.keys import COMPONENT_KINDS, HINTS, LIST_AXES, component_kind
from experiments.grid.grid import expand
from icl.component_json import config_key
from icl.errors import ConfigError, ICLError
from icl.registry import PACKAGES, FunctionPath, NestedComponent, build, entries, resolve
from icl.untrusted import untrusted

Receive = Callable[..., Path]
KEYS = {key: kind for key, hint in HINTS.items() if (kind := component_kind(hint))}
"""Key of an experiment file -> kind of its components."""
LISTS = {*LIST_AXES, "metrics", "observe"}
TRUSTING = (True, 1, "true", "yes")
RUNNING = {"engine_args": {"worker_cls": EVIL}, "attn_implementation": "stranger/kernel"}
"""The values by which the other parameters run code."""


def components(kind: str) -> Iterator[tuple[str, type[Any]]]:
    return ((name, resolve(kind, name)) for name in entries(kind))


def doors() -> Iterator[tuple[str, str, str]]:
    """(kind, component, parameter) of every parameter through which code can run."""
    for kind in PACKAGES:
        for name, cls in components(kind):
            for one in fields(cls):
                if one.init and (one.name.startswith("trust") or one.metadata.get("needs_trust")):
                    yield kind, name, config_key(one)


def loads_code(cls: type[Any], field: str) -> bool:
    """Whether a parameter is a component or a function by its type."""
    marks = str(get_type_hints(cls, include_extras=True)[field])
    return NestedComponent.__name__ in marks or FunctionPath.__name__ in marks


@pytest.mark.parametrize("kind", PACKAGES)
def test_no_parameter_of_a_component_loads_code_that_a_run_names(kind: str, marker: Marker) -> None:
    wrong, executed_when_trusted = [], set()
    for name, cls in components(kind):
        for one in (one for one in fields(cls) if one.init):
            node = {"name": name, config_key(one): EVIL}
            for value in (EVIL, [EVIL], {"name": EVIL}):
                node[config_key(one)] = value
                with untrusted(Path("received")):
                    attempt(kind, node)
                wrong += [node] if marker.ran() else []
                attempt(kind, node)
                if marker.ran():
                    executed_when_trusted.add((name, one.name))
    assert not wrong
    loading = {(name, f.name) for name, cls in components(kind) for f in fields(cls) if loads_code(cls, f.name)}
    assert loading <= executed_when_trusted  # so the test above would see code that runs


def attempt(kind: str, node: Any) -> None:
    with suppress(ICLError, TypeError, ValueError, AttributeError):
        build(kind, node)


@pytest.mark.parametrize("kind", PACKAGES)
def test_no_component_is_loaded_by_its_path(kind: str, marker: Marker) -> None:
    for name in (EVIL, {"name": EVIL}, str(Path(EVIL).absolute()), f"./{EVIL}", "this:Evil", f" {EVIL}"):
        with untrusted(Path("received")), pytest.raises(ConfigError):
            build(kind, name)
        assert not marker.ran(), name
    attempt(kind, EVIL)
    assert marker.ran()


@pytest.mark.parametrize(("kind", "name", "parameter"), list(doors()))
@pytest.mark.parametrize("value", TRUSTING)
def test_a_parameter_that_lets_code_run_is_refused(kind: str, name: str, parameter: str, value: object) -> None:
    node = {"name": name, parameter: RUNNING.get(parameter, value)}
    with (
        untrusted(Path("received")),
        pytest.raises(ConfigError, match=rf"{parameter}: .* not accepted without --trust"),
    ):
        build(kind, node)


def test_the_parameters_that_let_code_run_are_those_of_models_and_of_lmms_eval() -> None:
    assert {(name, parameter) for _, name, parameter in doors()} == {
        ("hf", "attn_implementation"),
        ("hf", "trust_remote_code"),
        ("vllm", "trust_remote_code"),
        ("vllm", "engine_args"),
        ("lmms_eval", "trust"),
        ("lmms_eval_aggregate", "trust"),
    }


@pytest.mark.parametrize("key", KEYS)
def test_no_key_and_no_axis_of_a_config_loads_code_that_a_run_names(
    key: str, received: Receive, marker: Marker
) -> None:
    value = [EVIL] if key in LISTS else EVIL
    configs: list[dict[str, Any]] = [{key: value}, {key: [{"name": EVIL}] if key in LISTS else {"name": EVIL}}]
    if key in COMPONENT_KINDS:
        configs += [{"grid": {key: [value]}}, {"zip": {key: [value], "shots": [1]}, "grid": {}}]
    if key in COMPONENT_KINDS and key not in LISTS:
        configs += [{"grid": {f"{key}.name": [EVIL]}}, {"zip": {f"{key}.name": [EVIL], "shots": [1]}, "grid": {}}]
    for config in configs:
        folder = received(**{"grid": {"shots": [0, 2]}} | config)
        with pytest.raises(ConfigError):
            expand(icl.load_run(folder).load_config())
        assert not marker.ran(), config


@pytest.mark.parametrize(("kind", "name", "parameter"), [one for one in doors() if one[0] in COMPONENT_KINDS.values()])
def test_an_axis_cannot_set_trust(kind: str, name: str, parameter: str, received: Receive) -> None:
    key = next(key for key, one in COMPONENT_KINDS.items() if one == kind)
    required = {"task": "task.yaml"} if kind == "task" else {"path": "tiny"}
    value = RUNNING.get(parameter, True)
    for axes in (
        {"grid": {f"{key}.{parameter}": [value]}},
        {"zip": {f"{key}.{parameter}": [value], "shots": [1]}, "grid": {}},
    ):
        folder = received(**{key: {"name": name, **required}}, **axes)
        with pytest.raises(ConfigError, match=rf"{parameter}: .* not accepted without --trust"):
            expand(icl.load_run(folder).load_config())


BUILDING = [
    name
    for name in list_analyses()
    if re.search(
        r"\bbuild\w*\(|run_prompts|load_config|load_models",
        inspect.getsource(importlib.import_module(f"experiments.analyses.{name}")),
    )
]
"""The analyses that build components of the run."""
WORDS: Mapping[str, Sequence[Sequence[str]]] = {
    "analyze": [[name] for name in BUILDING],
    "check": [[], ["--samples", "0"]],
    "compare": [["--to", "retriever=random"]],
    "import": [[]],
    "label": [["--export", "out/labels.csv"], ["--judge", "fake"]],
    "ls": [[]],
    "report": [[], ["--as", "card", "--out", "out/card"], ["--as", "leaderboard", "--out", "out/board"]],
    "show": [
        *([], ["scores", "--as", "pdf"], ["sample"], ["failed"], ["progress"]),
        *(["prompt"], ["prompt", "--arm", "shots=2"]),
    ],
}
"""The words after the run directory, for each command that reads one."""
OWN_FILES = {"run", "fit", "plan", "try", "push"}
"""These take an experiment file or data; `push` is tested in test_push.py."""


def reading_commands() -> set[str]:
    """The commands whose help names a run directory."""
    reading = set()
    for name in commands():
        module = importlib.import_module(f"experiments.cli.{name}")
        for command in getattr(module, "commands", None) or [module.command]:
            for one in inspect.signature(command, eval_str=True).parameters.values():
                marks = getattr(one.annotation, "__metadata__", ())
                reading |= {name} if any("run director" in str(getattr(mark, "help", "")) for mark in marks) else set()
    return reading


def test_each_command_that_reads_a_run_is_attacked() -> None:
    assert reading_commands() == WORDS.keys() | OWN_FILES


def poison_config(received: Receive) -> Path:
    """The config names code in a metric, which run.json describes with the digest of the file."""
    folder = received(metrics=["lenient", EVIL])
    code = hashlib.sha256(Path(EVIL.partition(":")[0]).read_bytes()).hexdigest()[:12]
    metric = {"name": EVIL, "better": "higher", "run_level": True, "code": code}
    edit_json(folder / "run.json", lambda run: run["metrics"].update(Evil=metric))
    return folder


def poison_task(received: Receive) -> Path:
    """The config trusts a task of lmms-eval, whose code gives the questions."""
    folder = received(task={"name": "lmms_eval", "task": "task.yaml", "trust": "true"})
    aggregate = {"name": "lmms_eval_aggregate", "task": "task.yaml", "metric": "f1", "trust": 1, "run_level": True}
    edit_json(folder / "run.json", lambda run: run["metrics"].update(f1=aggregate))
    return folder


def poison_cells(received: Receive) -> Path:
    """The descriptions of cells and of a launch name code, two components deep."""
    folder = received()
    strategy = {"name": "sign_flip", "of": {"name": "shuffled_negative", "of": {"name": EVIL}}}
    for path in folder.glob("cells/*/cell.json"):
        edit_json(path, lambda cell: cell["decoding"].update(strategy=strategy))
        edit_json(path, lambda cell: cell.update(retriever={"name": "knn", "embedder": {"name": EVIL}}))
    launch = {"id": "1", "launcher": {"name": EVIL}, "workers": ["a"], "cells": [], "since": "", "jobs": {"a": "1"}}
    (folder / "launch").mkdir()
    (folder / "launch" / "launch.json").write_text(json.dumps(launch))
    return folder


@pytest.mark.filterwarnings("ignore::icl.errors.ICLWarning")
@pytest.mark.parametrize("poison", [poison_config, poison_task, poison_cells])
@pytest.mark.parametrize("command", WORDS)
def test_a_command_that_reads_a_run_runs_no_code_of_it(
    command: str, poison: Callable[[Receive], Path], received: Receive, honest_run: Path, marker: Marker
) -> None:
    folder = str(poison(received))
    for words in WORDS[command]:
        run = {"import": ["merged", folder, str(honest_run)], "ls": ["runs", folder]}.get(command, [folder])
        main([command, *run, *words])
        assert not marker.ran(), words


@pytest.mark.filterwarnings("ignore::icl.errors.ICLWarning")
@pytest.mark.parametrize("poison", [poison_config, poison_task, poison_cells])
def test_a_run_that_is_loaded_in_python_runs_no_code(
    poison: Callable[[Receive], Path], received: Receive, marker: Marker
) -> None:
    run = icl.load_run(poison(received))
    for read in (run.cells, run.samples, run.scores, run.load_config):
        read()
        assert not marker.ran(), read


def test_the_sentence_names_the_field_and_what_trust_does(received: Receive, marker: Marker) -> None:
    folder = received(metrics=["lenient", EVIL])
    with pytest.raises(ConfigError) as refused:
        expand(icl.load_run(folder).load_config())
    assert str(refused.value) == (
        f"config: metrics[1]: {folder}: the code {EVIL} is not imported without --trust, because a run directory may "
        "be somebody else's. Check it, then add --trust, or use the experiment file instead of the run."
    )


def test_trust_runs_the_code(received: Receive, marker: Marker) -> None:
    folder = received(metrics=["lenient", EVIL])
    with pytest.raises(ConfigError, match="is not a dataclass"):
        expand(icl.load_run(folder, trust=True).load_config())
    assert marker.ran()
