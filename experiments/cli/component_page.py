"""The page of one component: its description and paper, its parameters, its presets, and its use in a config."""

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.config.keys import COMPONENT_KINDS, LIST_AXES
from experiments.config.yaml_document import to_flow_yaml
from icl.parameter_docs import ParameterDoc, parameter_docs
from icl.registry import resolve

PLACES: Mapping[str, str] = {
    **{kind: f"{key}: {{}}" for key, kind in COMPONENT_KINDS.items()},
    **{COMPONENT_KINDS[key]: f"{key}: [{{}}]" for key in LIST_AXES},
    "metric": "metrics: [strict, {}]",
    "launcher": "launcher: {}",
    "observer": "observe: [{}]",
    "embedder": "retriever: {{name: knn, embedder: {}}}",
    "edit": "decoding: {{name: contrast, branches: [{{change: {}}}]}}",
}
"""Where a config has a node of each kind."""

Presets = Mapping[str, Mapping[str, Any]]

WIDEST = 100


def component_page(kind: str, name: str, width: int) -> Iterator[str]:
    """The lines of the page. Raises ConfigError for an unknown name."""
    cls = resolve(kind, name)
    width = min(width, WIDEST)
    yield f"{kind} {name}"
    own = inspect.cleandoc(cls.__doc__ or "")
    module_doc = inspect.getdoc(inspect.getmodule(cls)) or ""
    first, _, further = own.partition("\n\n")
    for text in (
        first,
        module_doc,
        further,
    ):  # description, paper, details
        if text:
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
            line = ", ".join(f"{key}: {to_flow_yaml(value)}" for key, value in values.items())
            yield from hanging_lines(f"  {preset:<{longest}}  ", line, width)
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
    place = PLACES[kind]
    if kind == "embedder" and getattr(resolve(kind, name), "reads", None) == {"text"}:
        place = place.replace("knn,", "knn, by: question,")
    needed = {one.key: one.default for one in parameters if one.required}
    if kind != "edit":  # a branch change of the same name may need more
        yield place.format(to_flow_yaml({"name": name, **needed}) if needed else to_flow_yaml(name))
    if len(parameters) > len(needed) or kind == "edit":
        yield place.format(to_flow_yaml({"name": name, **{one.key: one.default for one in parameters}}))
    if presets:
        last, values = [*presets.items()][-1]
        left = {key: value for key, value in needed.items() if key not in values}
        yield place.format(to_flow_yaml({"name": name, **left, "preset": last}))


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
                indent = line[: len(line) - len(line.lstrip())]
                yield from (
                    [line]
                    if len(line) <= width
                    else hanging_lines(indent, re.sub(r" {3,}", "   ", line), width, f"{indent}  ")
                )
        else:
            yield from hanging_lines("", block, width)


def _parameters(parameters: Sequence[ParameterDoc], presets: Presets, width: int) -> Iterator[str]:
    longest = max(len(one.key) for one in parameters)
    for one in parameters:
        default = f"default {to_flow_yaml(one.default)}"
        if one.required:
            preset = any(one.key in values for values in presets.values())
            default = "required, here or in a preset" if preset else "required"
        yield from hanging_lines(f"  {one.key:<{longest}}  ", f"{one.kind}; {default}", width)
        if one.meaning:
            yield from hanging_lines(f"  {'':<{longest}}  ", one.meaning, width)


def hanging_lines(head: str, text: str, width: int, further: str | None = None) -> list[str]:
    """The text wrapped, with later lines indented under its first word."""
    below = " " * len(head) if further is None else further
    text = re.sub(r"\s*\n\s*", " ", text).strip()
    return textwrap.wrap(
        text, width, initial_indent=head, subsequent_indent=below, break_on_hyphens=False, break_long_words=False
    ) or [head.rstrip()]
