"""Records what a side shows of all prompts, and stores it, so that sides of two environments can be compared.

The first prompts are a ladder: each adds one stage that can differ, so that the first rung that parts names the stage.
This holds even if a backend hides its insides: a difference that needs a large image is in resizing.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from PIL import Image as PILImage
from pydantic import ConfigDict, Field

from experiments.config import AXES, Document, apply_overrides, find_config, parse_config, parse_yaml, read_document
from experiments.contexts.contexts import PromptSpec, Retrieval, build_contexts, render
from experiments.grid import Cell, check_data, expand
from experiments.store.json_shapes import Shape, check_shape
from experiments.store.store import report_write_errors
from icl import (
    ConfigError,
    ICLError,
    Image,
    Model,
    ModelError,
    Part,
    PlanError,
    Prompt,
    Turn,
    __version__,
    entries,
    np,
    parse_json_object,
    safetensors,
)
from icl.models.tracing import Stage, Trace, Tracer
from icl.probe.distances import Answer, distance
from icl.probe.images import draw

DEFAULT_EDGE = 224
QUESTION = "What is in the last image?"
GRAY, RED = (128, 128, 128), (230, 20, 60)
FORMAT = "icl diff 1"
"""Changes with the fields of a stored side."""
MAX_EDGE = 4096
"""Pixels. The ladder draws images of six times the edge, also for a file of a stranger."""
ARRAYS = ("pixels", "features")
Script = tuple[tuple[str, tuple[str, ...]], ...]
"""For each turn, its role and its parts: texts, and images as <digest, width x height>."""


@dataclass(frozen=True)
class Rung:
    """A prompt.

    Attributes:
        name: Its name.
        prompt: The prompt.
        cause: What it adds to the rungs before it, and what is thus likely if the sides part here for the first time.
        raw_images: Whether servers get its images as they are in their files.
    """

    name: str
    prompt: Prompt
    cause: str
    raw_images: bool = False


@dataclass(frozen=True)
class Entry:
    """A prompt as it was composed, and its trace. cause: of a difference; '' for the study's own prompts."""

    name: str
    script: Script
    trace: Trace
    cause: str = ""


@dataclass(frozen=True)
class Side:
    """What one backend shows.

    Attributes:
        name: As the user writes it.
        entries: The ladder, then the study's own prompts.
        facts: See `Tracer.facts`.
        hidden: Stages that the backend cannot show, with the reason.
        edge: Side of the ladder's images in pixels.
        noise: Distance of the first steps of the first prompt, sent twice, in nats.
    """

    name: str
    entries: tuple[Entry, ...]
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hidden: Mapping[Stage, str] = field(default_factory=dict)
    edge: int = DEFAULT_EDGE
    noise: float = 0.0


def record(
    name: str,
    model: Model,
    prompts: Mapping[str, Prompt],
    edge: int,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> Side:
    """Loads a model, traces its prompts and the ladder, and unloads it.

    Args:
        name: Of the side.
        model: The model.
        prompts: The study's own, by name.
        edge: Side of the ladder's images in pixels.
        report: Receives progress.

    Raises:
        ModelError: The model cannot be loaded, or refuses even a text.
    """
    report(f"loading {name}", 0, 0)
    try:
        model.load()
    except ModelError as error:
        raise ModelError(
            f"{name}: {error} A side can be recorded in an environment of its own: icl doctor backends MODEL STUDY "
            "--save FILE."
        ) from error
    try:
        tracer = model.tracer()
        rungs = [*ladder(edge), *(Rung(key, prompt, "") for key, prompt in prompts.items())]
        first = tracer.trace(rungs[0].prompt)
        entries = []
        for i, rung in enumerate(rungs):
            report(f"tracing {name}", i, len(rungs))
            entries.append(Entry(rung.name, script(rung.prompt), _trace(tracer, rung), rung.cause))
        noise = distance(Answer(first.top), Answer(entries[0].trace.top))
        facts = json.loads(json.dumps(tracer.facts, default=str))  # as a stored side has them
        return Side(name, tuple(entries), facts, tracer.hidden, edge, noise)
    finally:
        model.unload()


def _trace(tracer: Tracer, rung: Rung) -> Trace:
    try:
        return tracer.trace(rung.prompt, raw_images=rung.raw_images)
    except ICLError as error:
        return Trace(error=str(error))


def script(prompt: Prompt) -> Script:
    """The prompt as it was composed."""
    return tuple(
        (turn.role, tuple(str(part.text) if part.image is None else _named(part.image) for part in turn.parts))
        for turn in prompt.turns
    )


def _named(image: Any) -> str:
    width, height = image.open().size
    return f"<image {image.digest[:12]}, {width} x {height}>"


def save(side: Side, path: Path) -> None:
    """Writes a side to one file: arrays, and JSON as its metadata. Raises StoreError if it cannot be written."""

    arrays: dict[str, Any] = {}
    entries = []
    for i, entry in enumerate(side.entries):
        trace = dict(vars(entry.trace))
        for key in ARRAYS:
            values: Sequence[Any] | None = trace[key]
            trace[key] = None if values is None else len(values)
            arrays |= {f"{i}.{key}.{n}": np.ascontiguousarray(value) for n, value in enumerate(values or ())}
        entries.append({**vars(entry), "trace": trace})
    content = {**vars(side), "entries": entries}
    text = json.dumps({"format": FORMAT, "mm-icl": __version__, **content}, default=str)
    with report_write_errors(path):
        path.write_bytes(safetensors.numpy.save(arrays, {"icl": text}))


class _Tokenizer(Shape):
    image_tokens: list[int] = Field([], alias="image tokens")


class _Facts(Shape):
    __pydantic_extra__: dict[str, dict[str, Any]]
    tokenizer: _Tokenizer | None = None


class _Trace(Shape):
    model_config = ConfigDict(strict=True, extra="forbid")

    text: str | None
    ids: tuple[int, ...] | None
    prompt_tokens: int | None
    pixels: int | None
    features: int | None
    top: dict[str, float]
    tokens: tuple[str, ...]
    margins: tuple[float, ...]
    answer: str
    stopped: bool
    error: str


class _Entry(Shape):
    name: str
    script: Script
    trace: _Trace
    cause: str


class _Side(Shape):
    """The shape of the JSON of a stored side. In place of arrays it has their number."""

    name: str
    entries: list[_Entry]
    facts: _Facts
    hidden: dict[Stage, str]
    edge: Annotated[int, Ge(1), Le(MAX_EDGE)]
    noise: Annotated[float, Ge(0)]


def load(path: Path) -> Side:
    """Reads a stored side.

    Raises:
        ConfigError: It is another file, or of another version, or lacks an array.
        DamagedFileError: A value has another type, or is out of range.
    """
    remedy = f"Write it again: icl doctor backends MODEL STUDY --save {path}"
    try:
        with safetensors.safe_open(path, "np") as file:
            content = parse_json_object((file.metadata() or {}).get("icl", "").encode())
            if content.pop("format") != FORMAT:
                raise ValueError("it has another version")
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
        side = check_shape(_Side, content, path, remedy)
        entries = tuple(_entry(i, item, arrays) for i, item in enumerate(side.entries))
        return Side(side.name, entries, content["facts"], side.hidden, side.edge, side.noise)
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a side that this version of `icl doctor backends --save` wrote ({error}). {remedy}"
        ) from error


def _entry(i: int, item: _Entry, arrays: Mapping[str, Any]) -> Entry:
    trace = dict(item.trace)
    for key in ARRAYS:
        count = trace[key]
        trace[key] = None if count is None else tuple(arrays[f"{i}.{key}.{n}"] for n in range(count))
        if any(not one.size or one.dtype.kind != "f" for one in trace[key] or ()):
            raise ValueError(f"{key} of '{item.name}' are no numbers of an image")
    return Entry(item.name, item.script, Trace(**trace), item.cause)


def ladder(edge: int) -> tuple[Rung, ...]:
    """The rungs in order.

    Args:
        edge: Side in pixels of a square image that is not resized.
    """
    drawing, large = draw(5, edge), draw(5, 4 * edge)
    wide = draw(6, 6 * edge).resize((6 * edge, 2 * edge), PILImage.Resampling.NEAREST)
    clear = drawing.convert("RGBA")
    clear.putalpha(PILImage.linear_gradient("L").resize(clear.size))
    a, b, c = draw(7, edge), draw(8, edge), draw(9, edge)
    question = _user(drawing, QUESTION)
    turns = (_user(a, "What is this?"), _answer("dax"), _user(b, "What is this?"), _answer("wug"), _user(c, QUESTION))
    return (
        Rung(
            "text", Prompt((_user(QUESTION),)),
            "chat template, special tokens or tokenizer; else dtype, or another checkpoint",
        ),
        Rung(
            "gray", Prompt((_user(PILImage.new("RGB", (edge, edge), GRAY), QUESTION),)),
            "the image is dropped, its number of tokens, or the scale and mean of pixel values",
        ),
        Rung(
            "red", Prompt((_user(PILImage.new("RGB", (edge, edge), RED), QUESTION),)),
            "order of the color channels (RGB, BGR), or their normalization",
        ),
        Rung("exact", Prompt((question,)), "resize: a smaller target size, cropping, or the order of patches"),
        Rung("large", Prompt((_user(large, QUESTION),)), "resize: image size limit, target size or filter"),
        Rung("wide", Prompt((_user(wide, QUESTION),)), "resize: aspect ratio, padding or tiles"),
        Rung(
            "alpha", Prompt((_user(clear, QUESTION),)),
            "transparency: `icl` flattens it on white before it sends an image, other clients do not", raw_images=True,
        ),
        Rung(
            "two", Prompt((_user(a, b, QUESTION),)),
            "order of images, an image that is dropped, or tiles that depend on the number of images",
        ),
        Rung(
            "between", Prompt((_user("first", a, "second", b, QUESTION),)),
            "order of texts and images within a turn",
        ),
        Rung("system", Prompt((Turn("system", (Part("Answer in French."),)), question)), "the system turn"),
        Rung("turns", Prompt(turns), "turns: answers, order of images, or an image that is dropped"),
    )  # fmt: skip


def _user(*content: str | PILImage.Image) -> Turn:
    return Turn("user", tuple(Part(one if isinstance(one, str) else Image.from_pil(one)) for one in content))


def _answer(text: str) -> Turn:
    return Turn("assistant", (Part(text),))


# The words of `icl doctor backends` for a side: a model of the study, its keys, a server, a file of `--save`.


PROMPT_KEYS = (
    *("name", "task", "model", "shots", "retriever", "rerankers", "rerank_candidates", "order", "transforms"),
    *("composer", "seeds"),
)
"""The keys that decide a prompt. Others, such as the decoding, may not suit both models."""


@dataclass(frozen=True)
class Live:
    """A side whose model runs here, with one cell of its study."""

    name: str
    cell: Cell

    def prompts(self, count: int) -> dict[str, Prompt]:
        """The prompts of the first queries. Raises PlanError if one cannot be composed."""
        cell, made = self.cell, dict[str, Prompt]()
        queries = list(cell.task.queries[:count])
        retrieval = Retrieval(cell.task, cell.model)
        for (item,) in build_contexts(retrieval, [PromptSpec((cell,))], queries):
            rendered = render(item)
            if rendered.prompt is None:
                raise PlanError(f"{self.name}: query '{item.example.id}' has no prompt: {rendered.failure}")
            made[f"query {item.example.id}"] = rendered.prompt
        return made


def study(file: Path, overrides: Sequence[str]) -> Document:
    """The study with one value of each axis."""
    return one_point(apply_overrides(read_document(find_config(file)), overrides))


def one_point(document: Document) -> Document:
    """The document with the keys that decide prompts, the first value of each axis, and the most shots.

    Raises:
        ConfigError: A key or value of the document is wrong.
    """
    config = parse_config(document)
    rows = [dict(zip(config.zip, values, strict=True)) for values in zip(*config.zip.values(), strict=True)] or [{}]
    chosen = max(rows, key=lambda row: int(row.get("shots", 0)))
    chosen |= {axis: max(nodes) if axis == "shots" else nodes[0] for axis, nodes in config.grid.items()}
    data = {key: value for key, value in document.data.items() if key in PROMPT_KEYS}
    point = {axis: node for axis, node in chosen.items() if axis.partition(".")[0] in PROMPT_KEYS}
    data["seeds"] = list(config.seeds[:1])
    ordered = sorted(point.items(), key=lambda item: item[0] not in AXES)  # a component before its parameters
    return apply_overrides(replace(document, data=data), dict(ordered))


def live_side(word: str, document: Document) -> Live:
    """A side of the study. Raises ConfigError, DataError.

    Args:
        word: As the user writes it.
        document: Of `study`.
    """
    own = apply_overrides(document, overrides_of(word, document.data.get("model")))
    grid = expand(parse_config(one_point(own)))
    check_data(grid)
    return Live(word, grid.cells[0])


def overrides_of(word: str, node: Any) -> Sequence[str] | Mapping[str, Any]:
    """What a word changes of the study.

    Args:
        word: `vllm`, a checkpoint, `{name: hf, …}`, `model.dtype=bfloat16 composer=interleaved`, or URL#MODEL.
        node: The study's own model.

    Raises:
        ConfigError: The word is not YAML.
    """
    own = dict(node) if isinstance(node, Mapping) else {"name": node}
    if word.startswith(("http://", "https://")):
        url, _, name = word.partition("#")
        node_of_server = own if own["name"] == "remote" else {}
        return {"model": {**node_of_server, "name": "remote", "url": url, "model": name}}
    if "=" in word and not word.startswith("{"):
        return re.split(r"\s+(?=[\w.]+=)", word.strip())
    model, _ = parse_yaml(word, "icl doctor backends")
    if not isinstance(model, str):
        return {"model": model}
    is_name = model in entries("model") or ".py:" in model
    return {"model": {**own, "name": model} if is_name else {"name": "hf", "path": model}}
