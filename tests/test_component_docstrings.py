"""What the docstring of a component names exists: components with their parameters, keys, columns, functions.

Of prose that no code can check, a docstring names only what its reader can type.
"""

import ast
import importlib
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import icl
from experiments.config.keys import KEYS
from icl.component_json import config_key
from icl.registry import PACKAGES, ComponentEntry, entries, resolve

ROOT = Path(icl.__file__).parents[1]
CODE = ("icl", "prompts", "retrievers", "decoding", "experiments")
COMPONENTS = [entry for kind in PACKAGES for entry in entries(kind).values()]
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
INDENTED = re.compile(r"^    (\w[\w.]*: .+)$", re.MULTILINE)
FOREIGN = {
    "anls": "a metric of lmms-eval",
    "cd_alpha": "a parameter of CODE's released code",
    "cd_beta": "a parameter of CODE's released code",
    "rouge-score": "a package",
    "save_to_disk": "a method of datasets",
}
"""Names of other people's programs."""


@cache
def code_words() -> frozenset[str]:
    """Identifiers, and words of texts that are no docstrings, in the code and the data files of the product."""
    words: set[str] = set()
    for path in (path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        docstrings = {
            node.body[0].lineno
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
        }
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME or (token.type == tokenize.STRING and token.start[0] not in docstrings):
                words.update(re.findall(r"[\w-]+", token.string))
    for path in (path for folder in CODE for suffix in ("yaml", "j2") for path in (ROOT / folder).rglob(f"*.{suffix}")):
        words.update(re.findall(r"[\w-]+", path.read_text(encoding="utf-8")))
    return frozenset(words)


@cache
def parameters(kind: str, name: str) -> frozenset[str]:
    cls = resolve(kind, name)
    return frozenset(
        {config_key(f) for f in fields(cls) if f.init} | ({"preset"} if hasattr(cls, "presets") else set())
    )


def docstring(entry: ComponentEntry) -> str:
    module, _, cls = entry.target.partition(":")
    tree = importlib.import_module(module)
    return f"{tree.__doc__ or ''}\n{getattr(tree, cls).__doc__ or ''}"


def parsed(text: str) -> Any:
    for attempt in (text, f"{{{text}}}"):
        try:
            return YAML(typ="safe").load(attempt)
        except YAMLError:
            continue
    return None


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """The mappings with a name inside a value."""
    if isinstance(value, dict):
        yield from [value] if isinstance(value.get("name"), str) else []
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from nodes(item)


@pytest.mark.parametrize("entry", COMPONENTS, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_a_docstring_names_what_exists(entry: ComponentEntry) -> None:
    own, text = parameters(entry.kind, entry.name), docstring(entry)
    spans = [re.sub(r"\s+", " ", span) for span in SPAN.findall(text)]
    examples = [span for span in spans if "{name" in span or re.match(r"[\w.]+: ", span)]
    for example in [*examples, *(line for line in INDENTED.findall(text) if "{name" in line)]:
        for node in nodes(parsed(example)):
            name, keys = node["name"], node.keys() - {"name"}
            kinds = [kind for kind in PACKAGES if name in entries(kind)]
            assert kinds or ":" in name, f"{example}: there is no component {name}"
            assert not kinds or any(keys <= parameters(kind, name) for kind in kinds), f"{example}: {name} lacks a key"
    words = [span for span in spans if re.fullmatch(r"[a-z][a-z0-9_-]*", span)]
    existing = {*own, *KEYS, *FOREIGN, *code_words()}
    assert [word for word in words if word not in existing] == []
