"""Mutated input of each kind ends with a result or with a sentence: no traceback, no hang, no key that is ignored.

Each example is one input. The suite runs a few, always the same ones. With ICL_FUZZ=1000 in the environment it runs
1,000 of each kind, others each time.
"""

import contextlib
import copy
import io
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from written_run import write_run

from experiments.cli.main import commands, main
from experiments.config.config import load_config
from experiments.config.keys import KEYS
from experiments.grid.feasibility import check_requirements, check_sizes
from experiments.grid.grid import expand
from experiments.launch.watch import RunWatcher
from experiments.report.page import write_report
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.running.run import run
from icl.component_json import config_key
from icl.errors import ICLError
from icl.models.hf.checkpoint import TINY
from icl.models.hf.model import HF
from icl.registry import PACKAGES, entries, resolve

SECONDS = 30
"""An example that takes longer is a hang."""
EXAMPLES = int(os.environ.get("ICL_FUZZ", "0"))

SHAPES = Path(__file__).parent / "shapes.py"
BASES: tuple[dict[str, Any], ...] = (
    {"task": {"name": f"{SHAPES}:Shapes"}, "model": "fake-copy", "shots": 2, "seeds": [0, 1]},
    {
        "name": "rich",
        "task": {"name": "binding", "ways": 2, "queries": 4},
        "model": {"name": "hf", "path": "tiny"},
        "seeds": [0],
        "max_new_tokens": 4,
        "stop_strings": ["\n"],
        "controls": "default",
        "top_logprobs": 2,
        "rerankers": [{"name": "label_balance"}],
        "rerank_candidates": 8,
        "transforms": [{"name": "images", "how": "removed", "where": "query"}],
        "metrics": ["strict", {"name": "lenient"}],
        "launcher": {"workers": 1},
        "grid": {
            "shots": [0, 2],
            "retriever": ["random", {"name": "knn", "by": "image"}],
            "decoding": [
                "greedy",
                {"name": "vcd", "alpha": 0.5, "sampling": {"temperature": 1.0}, "label": "warm"},
                {"name": "vcd", "logits_processors": [{"name": "repetition_penalty", "penalty": 1.2}]},
            ],
        },
        "exclude": [{"shots": 0, "retriever": "knn"}],
        "compare": {"to": {"decoding": "greedy"}, "metric": "lenient", "correction": "holm"},
    },
    {
        "task": {"name": "easy-vqa", "queries": 4},
        "model": {"name": "hf", "path": "tiny", "token_budget": 4096},
        "answer_mode": "options",
        "order": {"name": "label_position", "position": "tail"},
        "composer": {"name": "chat", "instruction": "short"},
        "zip": {"shots": [1, 2], "retriever": ["random", {"name": "balanced"}]},
        "grid": {"decoding.temperature": [0.5, 1.0], "decoding": ["sampling"]},
    },
)


def _nested(depth: int) -> Any:
    value: Any = 1
    for i in range(depth):
        value = [value] if i % 2 else {"name": value}
    return value


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 10**400, 0.5, -1.5, float("nan"), float("inf"), 1e-320),
    *("", " ", "x", "none", "x" * 300, "a\0b", "../x", "7", "\u202e", "a:b", "x.py:Y", ":", "/", "{}", "[", "é\n"),
    *([], [[]], [7], ["a"], [None], {}, {"a": 1}, {"name": 7}, {"name": "greedy"}, {"name": {"name": "vcd"}}),
    *({"name": "vcd", "preset": ["a"]}, {"name": "mask_only", "of": {"name": "mask_only", "of": "vcd"}}, _nested(60)),
)
odd_values = st.sampled_from(ODD).map(copy.deepcopy)  # a mutation may change the value itself

Examples = Callable[[Callable[..., None]], Callable[..., None]]


def mutations(fast: int) -> Examples:
    """The decorator of a property; fast: its examples without ICL_FUZZ."""
    return settings(
        max_examples=EXAMPLES or fast,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,  # `limited` stops an example that hangs
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Allow a user's mistakes, and nothing else: other exceptions and hangs fail the example."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"this example hangs: it takes more than {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    except ICLError as error:
        assert_sentence(str(error))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def assert_sentence(text: str) -> None:
    assert text.strip(), "an error without words"
    assert "Traceback" not in text
    assert len(text) < 20_000, text[:500]


@pytest.fixture(scope="module", autouse=True)
def _folder() -> Iterator[Path]:
    """An empty working directory."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        yield Path(name)
        os.chdir(before)


def open_config(source: Any, overrides: Any = ()) -> None:
    """What `icl plan` does with a file before it reads data."""
    grid = expand(load_config(source, overrides))
    check_requirements(grid)
    check_sizes(grid)


def paths(node: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each value in a tree."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [prefix, *(path for key, value in items for path in paths(value, (*prefix, key)))]


def get(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        node = node[key]
    return node


@st.composite
def mutated(draw: st.DrawFn, trees: tuple[Any, ...], values: st.SearchStrategy[Any] = odd_values) -> Any:
    """A tree with one to three changes: a value replaced, removed, copied elsewhere or put under a new key."""
    tree = copy.deepcopy(draw(st.sampled_from(trees)))
    for _ in range(draw(st.integers(1, 3))):
        places = [path for path in paths(tree) if path]
        if not places:
            break
        path = draw(st.sampled_from(places))
        parent, change = get(tree, path[:-1]), draw(st.sampled_from(("replace", "remove", "move", "add")))
        if change == "replace":
            parent[path[-1]] = draw(values)
        elif change == "remove":
            del parent[path[-1]]
        elif change == "move":
            parent[path[-1]] = copy.deepcopy(get(tree, draw(st.sampled_from(places))))
        elif isinstance(parent, dict):
            parent[draw(st.sampled_from(("name", "preset", "of", "x", "", "fitted", "seed", *KEYS)))] = draw(values)
        else:
            parent.append(draw(values))
    return tree


@mutations(30)
@given(mutated(BASES))
def test_a_mutated_config_is_used_or_is_an_error(tree: Any) -> None:
    with limited():
        open_config(tree)


def mappings(tree: Any) -> list[tuple[Any, ...]]:
    return [path for path in paths(tree) if isinstance(get(tree, path), dict)]


@mutations(25)
@given(st.data())
def test_no_key_of_a_config_is_ignored(data: st.DataObject) -> None:
    tree = copy.deepcopy(data.draw(st.sampled_from(BASES)))
    path = data.draw(st.sampled_from(mappings(tree)))
    node = get(tree, path)
    is_new = data.draw(st.booleans())
    if is_new:
        node["zzz"] = data.draw(odd_values.filter(lambda value: path or value is not None))
    else:
        key = data.draw(st.sampled_from(list(node)))
        node[f"{key}zzz"] = node.pop(key)
    with pytest.raises(ICLError, match="zzz" if is_new else None):  # a missing key may be reported instead
        open_config(tree)


def component_parameters() -> list[tuple[str, str, str]]:
    """(kind, name, parameter) of every parameter of a component that a config can name."""
    kinds = [kind for kind in PACKAGES if kind not in ("edit", "embedder")]
    return [
        (kind, name, config_key(one))
        for kind in kinds
        for name in entries(kind)
        for one in fields(resolve(kind, name))
        if one.init
    ]


AXIS = {"strategy": "decoding", "orderer": "order"}
LISTED = {"reranker": "rerankers", "transform": "transforms", "metric": "metrics"}


@mutations(60)
@given(st.data(), odd_values)
def test_an_odd_parameter_of_a_component_is_used_or_is_an_error(data: st.DataObject, value: Any) -> None:
    kind, name, key = data.draw(st.sampled_from(component_parameters()))
    node = {"name": name, key: value}
    tree = {**BASES[0], AXIS.get(kind, LISTED.get(kind, kind)): [node] if kind in LISTED else node}
    with limited():
        open_config(tree)


def yaml_text(tree: Any) -> str:
    out = io.StringIO()
    YAML().dump(tree, out)
    return out.getvalue()


PIECES = (
    *(
        "\n",
        "  ",
        "\t",
        ":",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "<<: *a",
        "!!python/object:os.system ",
        "!!int ",
        "#",
    ),
    *(
        "'",
        '"',
        "|\n",
        ">",
        "%YAML 1.1\n",
        "---\n",
        "...\n",
        "\0",
        "\ufeff",
        "? ",
        "0x" + "f" * 5000,
        "1e999",
        "&a [*a]",
    ),
    *(
        "[" * 3000,
        "{a: " * 3000,
        "010",
        "0o9",
        "yes",
        "~",
        "2001-01-01",
        ".inf",
        "\x85",
        "\\x",
        "\ud7ff",
        "é",
        "=",
        "@",
        "`",
    ),
)


@mutations(40)
@given(st.data())
def test_a_mutated_text_is_used_or_is_an_error(data: st.DataObject) -> None:
    text = yaml_text(data.draw(st.sampled_from(BASES)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.sampled_from((0, 0, 1, 5, 40)))
        text = text[:at] + data.draw(st.sampled_from(("", *PIECES))) + text[at + cut :]
    Path("mutated.yaml").write_bytes(text.encode())
    with limited():
        open_config("mutated.yaml")


@mutations(20)
@given(st.binary(max_size=200))
def test_any_bytes_are_used_or_are_an_error(content: bytes) -> None:
    Path("mutated.yaml").write_bytes(content)
    with limited():
        open_config("mutated.yaml")


WORDS = (
    "name",
    "x",
    "0",
    "1",
    "-1",
    "99999999999999999999",
    "alpha",
    "of",
    "to",
    "é",
    "",
    "workers",
    "path",
    "sampling",
)


@st.composite
def override(draw: st.DrawFn) -> str:
    key_paths = [".".join(map(str, path)) for path in paths(draw(st.sampled_from(BASES))) if path]
    word = draw(st.sampled_from((*key_paths, *KEYS, *WORDS)))
    key = ".".join([word, *draw(st.lists(st.sampled_from(WORDS), max_size=2))])
    value = draw(st.one_of(odd_values.map(str), st.sampled_from(PIECES), st.text(max_size=8)))
    return f"{key}{draw(st.sampled_from(('=', '=', '=', '', '==')))}{value}"


@mutations(40)
@given(st.sampled_from(BASES), st.lists(override(), min_size=1, max_size=3))
def test_a_mutated_override_is_used_or_is_an_error(tree: Any, overrides: list[str]) -> None:
    with limited():
        open_config(tree, overrides)


OPTIONS = (
    *("--to", "--metric", "--by", "--correct", "--csv", "--page", "--out", "--arm", "--seed", "--per-cell", "--runs"),
    *(
        "--controls",
        "--steps",
        "--prompt",
        "--failed",
        "--once",
        "--fork",
        "--quiet",
        "--cases",
        "--debug",
        "--verbose",
    ),
)
ARGUMENTS = (
    *(
        "made",
        "made/run.json",
        "ok.yaml",
        "empty",
        ".",
        "",
        "x" * 300,
        "a\0b",
        "no/such",
        "7",
        "-1",
        "lenient",
        "strict",
    ),
    *(
        "decoding=greedy",
        "decoding=",
        "=",
        "shots=0",
        "shots=0,retriever=knn",
        "copying",
        "holm",
        "none",
        "out.txt",
        "é",
    ),
    *(
        "metric",
        "retriever",
        "knn",
        "k=1",
        "k=x",
        "shapes-0001",
        "retriever=[]",
        "\ud800",
        "out/",
        "/dev/null",
        "/dev/full",
    ),
)
COMMANDS = ("plan", "ls", "report", "compare", "show", "analyze", "check", "data", "schema", "rnu", "fit")


@mutations(25)
@given(st.sampled_from(COMMANDS), st.lists(st.sampled_from((*ARGUMENTS, *OPTIONS)), max_size=4))
def test_mutated_words_of_a_command_end_with_an_exit_status(command: str, words: list[str]) -> None:
    assert COMMANDS[-1] in commands()
    if not Path("made").exists():
        write_run(Path("made"), queries=4, shots=(0, 2), seeds=(0,), tasks=("shapes",))
        Path("ok.yaml").write_text(yaml_text(BASES[0]))
        Path("empty").mkdir()
    errors = io.StringIO()
    with limited(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        status = main([command, *words])
        assert status in (0, 1, 2)
        assert status != 2 or errors.getvalue().strip() or not words
        assert "Traceback" not in errors.getvalue() or "--debug" in words


def json_text(value: Any) -> str:
    return json.dumps(value, default=str)


@st.composite
def damaged_json(draw: st.DrawFn, text: str) -> bytes:
    """The text of a JSON file with its values changed, its text cut, or other text in its place."""
    way = draw(st.sampled_from(("values", "values", "values", "cut", "other")))
    if way == "values":
        return json_text(draw(mutated((json.loads(text),), odd_values))).encode(errors="replace")
    if way == "cut":
        at = draw(st.integers(0, len(text)))
        return (text[:at] + draw(st.sampled_from(("", *PIECES)))).encode()
    return draw(
        st.sampled_from((b"", b"[]", b"7", b"null", b'"x"', b"[" * 50_000, b'{"a":' * 50_000, b"\xff\xfe", b"NaN"))
    )


CHECKPOINT_FILES = ("config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json")


@mutations(6)
@given(st.data())
def test_a_mutated_checkpoint_is_opened_or_is_an_error(data: st.DataObject) -> None:
    folder = Path("checkpoint")
    if not folder.exists():
        shutil.copytree(TINY, folder)
    name = data.draw(st.sampled_from(CHECKPOINT_FILES))
    text = (TINY / name).read_text()
    (folder / name).write_bytes(data.draw(damaged_json(text)))
    try:
        with limited():
            hf = HF(path=str(folder))
            assert hf.digest
            assert hf.renderer
            hf.load()
    finally:
        (folder / name).write_text(text)


def damage_a_file(data: st.DataObject, folder: Path) -> None:
    """Change run.json, the description of a cell or the line of a sample."""
    patterns = ("run.json", "invocations.jsonl", "cells/*/cell.json", "cells/*/*.jsonl")
    files = sorted(path for pattern in patterns for path in folder.glob(pattern))
    file = data.draw(st.sampled_from(files))
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    i = data.draw(st.integers(0, len(lines) - 1))
    content = [line.encode() for line in lines]
    content[i] = data.draw(damaged_json(lines[i]))
    file.write_bytes(b"\n".join(content) + b"\n")


@mutations(8)
@given(st.data())
def test_a_mutated_run_is_read_or_is_an_error(data: st.DataObject) -> None:
    if not Path("run").exists():
        write_run(Path("run"), queries=4, shots=(0, 2), seeds=(0,), tasks=("shapes",))
    shutil.rmtree("damaged", ignore_errors=True)
    shutil.copytree("run", "damaged", ignore=shutil.ignore_patterns("images"))
    damage_a_file(data, Path("damaged"))
    with limited():
        RunWatcher(Path("damaged")).poll()
    with limited():
        view = view_run(load_run("damaged"))
        write_report(view)
        load_run("damaged").compare({"decoding": "greedy"})


@mutations(10)
@given(st.data())
def test_a_mutated_run_goes_on_or_is_an_error(data: st.DataObject) -> None:
    config = load_config({**BASES[0], "name": "resumed"})
    whole, folder = Path("whole"), Path("again/resumed")
    if not whole.exists():
        run(config, whole)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole / "resumed", folder)
    damage_a_file(data, folder)
    with limited():
        outcome = run(config, folder.parent)
        assert (outcome.failed, outcome.missing) == (0, 0)
        assert outcome.present + outcome.computed == outcome.samples == 12
        assert len(load_run(folder).samples()) == 12
