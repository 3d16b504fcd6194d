"""Pages of the documentation site that are made from the code: components, the API, and Markdown files elsewhere."""

import importlib
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from decoding.arms import inspection
from decoding.arms.arm import Arm, default_controls, parse_arm
from experiments.cli.ls import examples
from experiments.config.yaml_document import parse_yaml, to_flow_yaml
from icl.errors import ICLError
from icl.parameter_docs import ParameterDoc, page_texts, parameter_docs
from icl.registry import PACKAGES, entries, resolve

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT / "tests"), str(DOCS)]

from formulas import formula_block  # noqa: E402  (beside this file)
from public_api import PUBLIC_MODULES, public_names  # noqa: E402  (the list of public modules stands once)

FOLDERS = ("components", "reference", "project", "notebooks")
"""Folders of `docs/` that hold generated pages only."""
ELSEWHERE = {
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "README.md": "index.md",
    "experiments/configs/DEMONSTRATIONS.md": "project/demonstrations.md",
    "experiments/configs/EMOJI_SHIFT.md": "project/emoji_shift.md",
    "experiments/configs/decoding_controls.md": "project/decoding_controls.md",
    "experiments/configs/quantization.md": "project/quantization.md",
    "lab/bench/VLLM.md": "project/vllm_costs.md",
    "icl/models/small/card.md": "project/small_model_card.md",
    "icl/models/tiny/MODEL_CARD.md": "project/model_card.md",
    "retrievers/embedders/maps/efficientnet_minilm.md": "project/efficientnet_minilm.md",
}
"""Markdown file of the repository -> its page of the site."""
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def write_pages() -> None:
    """Writes all generated pages. A page that has not changed keeps its time, so that Sphinx does not read it again."""
    pages = dict(all_pages())
    for folder in FOLDERS:
        for path in (DOCS / folder).rglob("*"):
            if path.is_file() and path.relative_to(DOCS).as_posix() not in pages:
                path.unlink()
    for name, text in pages.items():
        path = DOCS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def all_pages() -> Iterator[tuple[str, str]]:
    """(path in `docs/`, text) of every generated page."""
    for kind in PACKAGES:
        yield f"components/{kind}/index.md", kind_page(kind)
        for name in entries(kind):
            yield f"components/{kind}/{name}.md", component_page(kind, name)
    for module in PUBLIC_MODULES:
        yield f"reference/{module}.md", reference_page(module)
    for source, page in ELSEWHERE.items():
        if page != "index.md":
            yield page, rewrite_links((ROOT / source).read_text(encoding="utf-8"), source, page)
    for notebook in sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb")):
        yield f"notebooks/{notebook.name}", notebook.read_text(encoding="utf-8")


def rewrite_links(text: str, source: str, page: str) -> str:
    """The text with links that work on the site. A link to a file without a page becomes the path of the file.

    Args:
        text: Markdown.
        source: Its file, relative to the repository.
        page: Its page, relative to `docs/`.
    """

    def rewrite(match: re.Match[str]) -> str:
        target = os.path.normpath(Path(source).parent / match[1])
        if target in ELSEWHERE:
            return f"]({os.path.relpath(ELSEWHERE[target], Path(page).parent)}{match[2] or ''})"
        if target.startswith("docs/"):
            return f"]({os.path.relpath(target.removeprefix('docs/'), Path(page).parent)}{match[2] or ''})"
        return f"](<{target}>)"

    text = LINK.sub(rewrite, text)
    return re.sub(r"(?<!!)\[([^\]]*)\]\(<([^>]*)>\)", lambda match: f"{match[1]} (`{match[2]}`)", text)


def kind_page(kind: str) -> str:
    """The list of the components of one kind."""
    rows = {False: "", True: ""}
    for name, entry in entries(kind).items():
        rows[entry.is_reconstruction] += f"| [{name}]({name}.md) | {cell(entry.summary)} |\n"
    plural, head = plural_of(kind), "| name | what it is |\n|---|---|\n"
    text = (
        f"# {plural.capitalize()}\n\n`icl ls {plural}` prints this list, `icl ls {kind} NAME` one page.\n\n"
        f"{head}{rows[False]}"
    )
    if rows[True]:
        text += f"\n## Reconstructions\n\nThese follow abstracts and are no faithful versions.\n\n{head}{rows[True]}"
    return text


def plural_of(kind: str) -> str:
    """strategy -> strategies."""
    return f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"


def component_page(kind: str, name: str) -> str:
    """The page of a component: what `icl ls KIND NAME` prints, and the controls and the cost of a strategy."""
    cls = resolve(kind, name)
    parameters, presets = parameter_docs(cls), getattr(cls, "presets", {})
    # Pages outside the tree of contents: a tree with all of them on every page would be most of the site.
    parts = ["---\norphan: true\n---", f"# {name}", f"One of the [{plural_of(kind)}](index.md)."]
    parts += map(body, page_texts(cls))
    if parameters:
        rows = "".join(map(parameter_row, parameters))
        parts.append(f"## Parameters\n\n| name | values | default | meaning |\n|---|---|---|---|\n{rows}")
    if presets:
        rows = "".join(f"| `{preset}` | {preset_values(values)} |\n" for preset, values in presets.items())
        parts.append(f"## Presets\n\nExplicit parameters override them.\n\n| preset | parameters |\n|---|---|\n{rows}")
    lines = "\n".join(examples(kind, name, parameters, presets))
    parts.append(f"## In an experiment file\n\n```yaml\n{lines}\n```")
    if kind == "strategy":
        parts += strategy_parts(next(iter(examples(kind, name, parameters, presets))))
    parts.append(f"Source: `{cls.__module__}`")
    return "\n\n".join(parts) + "\n"


def parameter_row(one: ParameterDoc) -> str:
    """One row of the table of parameters."""
    default = "required" if one.required else code(to_flow_yaml(one.default))
    return f"| `{one.key}` | {cell(one.kind)} | {default} | {cell(one.meaning)} |\n"


def preset_values(values: Mapping[str, Any]) -> str:
    """The parameters of a preset in one cell."""
    return ", ".join(code(f"{key}: {to_flow_yaml(value)}") for key, value in values.items())


def strategy_parts(line: str) -> Iterator[str]:
    """The cost of a strategy, and the controls that `controls: default` adds to it.

    Args:
        line: Its line in an experiment file.
    """
    try:
        arm = parse_arm(parse_yaml(line, "example")[0]["decoding"])
        branches, weights = inspection.branch_count(arm.strategy), inspection.constant_weights(arm.strategy)
    except ICLError:  # an example with a placeholder
        return
    samples = arm.strategy.traits.num_samples
    cost = f"{branches} prompt{'s' * (branches > 1)} per answer" + f", {samples} answers" * (samples > 1)
    fixed = f"weights {', '.join(f'{weight:g}' for weight in weights)}" if weights else "weights vary between steps"
    yield f"## Cost\n\n{cost[0].upper()}{cost[1:]} and one forward pass of each per token; {fixed}."
    names = ", ".join(control_link(control) for control in default_controls(arm))
    if names:
        yield f"## Controls\n\n`controls: default` adds, for greedy decoding: {names}."


def control_link(control: Arm) -> str:
    """A link to the page of a control."""
    name = type(control.strategy).component[1]  # type: ignore[attr-defined]  # set by the mark
    return f"[{name}]({name}.md)"


def reference_page(name: str) -> str:
    """The reference of a public module, from docstrings."""
    module = importlib.import_module(name)
    parts = [f"# {name}\n\n{body(inspect.getdoc(module) or '')}"]
    for public, _ in public_names(module):
        value = getattr(module, public)
        first = first_module(value, public)
        if first != name:
            parts.append(f"## {public}\n\nThe same as [{first}.{public}]({first}.md#{public.lower()}).")
            continue
        directive = "autoclass" if inspect.isclass(value) else "autofunction" if callable(value) else None
        if inspect.ismodule(value):
            parts.append(f"## {public}\n\n{body((inspect.getdoc(value) or '').split(chr(10))[0])}")
        elif directive:
            members = "\n:members:" if directive == "autoclass" else ""
            parts.append(f"## {public}\n\n```{{eval-rst}}\n.. {directive}:: {name}.{public}{indented(members)}\n```")
        else:
            parts.append(f"## {public}\n\n```{{eval-rst}}\n.. autodata:: {name}.{public}\n```")
    return "\n\n".join(parts) + "\n"


def first_module(value: Any, public: str) -> str:
    """The first public module that has an object under this name."""
    modules = map(importlib.import_module, PUBLIC_MODULES)
    return next(one.__name__ for one in modules if public in one.__all__ and getattr(one, public) is value)


def indented(text: str) -> str:
    """Options of a directive, indented under it."""
    return text.replace("\n", "\n   ")


def body(text: str) -> str:
    """Prose of a docstring as Markdown: indented blocks (formulas, tables) become code, markup is escaped."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.split("\n")
        is_list = re.match(r"(\d+\.|-) ", block)
        if any(line.startswith(" ") for line in lines) and not is_list:
            prose = [line for line in lines if not line.startswith(" ")] if not lines[0].startswith(" ") else []
            indented_lines = lines[len(prose) :]
            blocks += [escape("\n".join(prose))] * bool(prose)
            text = "```text\n" + textwrap.dedent("\n".join(indented_lines)) + "\n```"
            blocks.append(formula_block(indented_lines) or text)
        else:
            blocks.append(escape(block))
    return "\n\n".join(blocks)


def escape(text: str) -> str:
    """Text with the characters of Markdown escaped outside code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<*\[\]_|$])", r"\\\1", part) for part in parts)


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return escape(re.sub(r"\s+", " ", str(text)))


def code(text: str) -> str:
    """Code in a cell of a table."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}".replace("|", "\\|").replace("\n", " ")
