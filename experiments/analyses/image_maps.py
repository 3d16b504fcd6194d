"""Where does the model look in each image, and does it matter? Maps of patches, and the cuts that test them

    attention   weights from a reader to each patch of an image, mean over heads and over the reader's tokens, in the
                layer where they sum to most. Readers: the last token, and for a demonstration's image its own answer
    logits      z(y) - log sum over y' of exp z(y') at each patch, by the model's final norm and output layer on its
                state (the logit lens) in the layer at three quarters. y: the first token of the answer to the image,
                y': those of the other options and of the prompt's other answers
    cut         edges: the reader no longer attends to the quarter of each image's patches with the largest values, in
                this layer. all: no token attends to them, in any layer
    p           probability of the query's answer among the others, uncut; top: with that cut; random: if as many other
                patches of the same images are cut
    effect      top - random, in pairs; n: prompts

A map is not an explanation. Only an effect below 0 says that the model needs the patches which the map marks. Where the
interval has 0 inside, the map may still be right: other patches, layers or texts may carry the same.

The prompts of the first 50 queries of each cell (`--queries`) are read, each about 20 times. Needs a model with
one token for each patch of an image (`HF.patch_grid`). The report shows the maps of two prompts.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from decoding import attention_problem, score_sites
from decoding.interventions.attention_edits import CutScores
from experiments import RunView, make_table, paired_columns
from experiments.analyses.run_prompts import QUERIES, RunPrompt, run_prompts
from icl import END, ConfigError, DataFrame, Keys, Prompt, Site, StreamKey, Tensor, Where, spans, steer
from icl.models.hf.model import HF

TOP = 0.25
"""Share of an image's patches that a cut takes."""
REPORTED = 2
"""Prompts with maps in the report."""
BATCH = 8
IMAGES = 4
"""Images of a prompt whose logits are computed at once."""
SIZE = 72
"""Height of an image of a map in pixels."""
POSITIVE, NEGATIVE = (11, 108, 184), (200, 80, 10)


class Map(NamedTuple):
    """A kind of map. kind: attention or logits; reader: of the attention; group: the images."""

    kind: str
    reader: str
    group: str

    @property
    def name(self) -> str:
        images = self.group.replace("_", " ")
        return f"{self.kind}, {self.reader}: {images}" if self.reader else f"{self.kind}: {images}"


LAST, ANSWER = "last token", "own answer"
MAPS = (
    Map("attention", LAST, "query_images"),
    Map("attention", LAST, "demo_images"),
    Map("attention", ANSWER, "demo_images"),
    Map("logits", "", "query_images"),
    Map("logits", "", "demo_images"),
)
Values = dict[str, Any]
"""Name of an image -> the value of each of its patches [n]."""


def analyze(view: RunView, queries: int = QUERIES) -> DataFrame:
    """One row per setting, map and cut. Raises PlanError, ConfigError or ModelError without maps."""
    rows: list[dict[str, Any]] = []
    figure: list[dict[str, Any]] = []
    arms = run_prompts(view, "interventions", queries, with_demos=False, problem_of=_problem)
    for setting, prompts in arms:
        model, golds = cast("HF", prompts[0].cell.model), [_gold(one) for one in prompts]
        ready = [model.before_answer(one.prompt) for one in prompts]
        maps = read_maps(model, ready, golds)
        if not maps:
            raise ConfigError(f"{view.path}: its prompts have no images. Maps need a task with images.")
        rows += ({**setting, **row} for row in _rows(model, prompts, ready, golds, maps))
        if not figure or len(prompts[0].prompt.images) > figure[-1]["images"]:
            figure = [cell for i in range(min(REPORTED, len(prompts))) for cell in _cells(prompts[i], i, maps)]
    note = "effect: p of the answer, marked patches cut less as many random ones; intervals are not corrected"
    table = make_table(
        rows,
        "Maps of images, and their cuts",
        note=note,
        signed=("effect", "effect_low", "effect_high"),
        figure={"x": "map", "y": ("effect",), "by": "cut", "measure": "effect on p", "n": "prompts"},
    )
    table.attrs["images"] = [{key: one[key] for key in ("panel", "row", "label", "png")} for one in figure]
    return table


def answer_margin(logits: Tensor, gold: int, others: Sequence[int]) -> Tensor:
    """z(gold) - log sum over others of exp z: log-odds of an answer's first token.

    Args:
        logits: [..., V].
        gold: The token.
        others: Tokens of other answers. Empty: all others of the vocabulary.

    Returns:
        [...].
    """
    rest = [token for token in range(logits.shape[-1]) if token != gold] if not others else list(others)
    return logits[..., gold] - logits[..., rest].logsumexp(-1)


@dataclass(frozen=True, eq=False)
class ReadMap:
    """A map of several prompts. values: for each prompt, the values of its images. layer: where they are read."""

    map: Map
    layer: int
    values: list[Values]


def attention_weights(model: HF, prompt: Prompt) -> dict[tuple[str, str], Any]:
    """(reader, image) -> weights [layers with scores, patches] of each reader of each image of a prompt."""
    sites = score_sites(model, 0, -1)
    names = {part.name: part.image is not None for part in prompt.parts()}
    answers = [name for name in names if spans.is_answer(name)]
    tokens = {
        name: [token for begin, end in ranges for token in range(begin, end)]
        for name, ranges in model.span_tokens(
            [prompt], [*(name for name, is_image in names.items() if is_image), *answers, "demo_answers"]
        )[0].items()
    }
    readers = {LAST: END, **({ANSWER: Where("demo_answers")} if answers else {})}
    weights: dict[tuple[str, str], Any] = {}
    for reader, where in readers.items():
        (states,) = model.observe([prompt], sites, where, lambda scores: scores.softmax(-1).mean(1))
        own = np.stack([states[site].numpy() for site in sites])  # [layers, tokens of the reader, keys]
        for name in (name for name, is_image in names.items() if is_image):
            rows = list(range(own.shape[1]))
            if reader == ANSWER:
                text = tokens.get(spans.answer(spans.owner_of(name)), [])
                rows = [tokens["demo_answers"].index(token) for token in text if token in tokens["demo_answers"]]
            if rows:
                weights[reader, name] = own[:, rows].mean(1)[:, tokens[name]]
    return weights


def image_margins(model: HF, prompt: Prompt, layer: int, gold: "Gold") -> Values:
    """Image -> the margin of its answer at each of its patches [n], by the logit lens at a layer."""
    names = [part.name for part in prompt.parts() if part.image and spans.owner_of(part.name) in gold.answers]
    margins = {}
    for start in range(0, len(names), IMAGES):
        some = names[start : start + IMAGES]
        for name, logits in zip(some, model.image_logits(prompt, layer, some), strict=True):
            margins[name] = answer_margin(logits, *gold.tokens(spans.owner_of(name))).numpy()
    return margins


def read_maps(model: HF, prompts: Sequence[Prompt], golds: "Sequence[Gold]") -> list[ReadMap]:
    """The maps that the prompts have, each in its layer.

    Raises:
        ModelError: The tokens of an image form no grid.
    """
    layers = [site.layer for site in score_sites(model, 0, -1)]
    for image in {image.size: image for prompt in prompts for image in prompt.images}.values():
        model.patch_grid(image)
    weights = [attention_weights(model, prompt) for prompt in prompts]
    lens = 3 * model.num_layers // 4
    margins = [image_margins(model, prompt, lens, gold) for prompt, gold in zip(prompts, golds, strict=True)]
    maps = []
    for own in MAPS:
        if own.kind == "logits":
            values, layer = [{n: v for n, v in one.items() if spans.in_group(n, own.group)} for one in margins], lens
        else:
            by_layer = [
                {name: v for (reader, name), v in one.items() if (reader, spans.group_of(name)) == own[1:]}
                for one in weights
            ]
            sums = [v.sum(1) for one in by_layer for v in one.values()]
            if not sums:
                continue
            place = int(np.sum(sums, 0).argmax())
            values, layer = [{n: v[place] for n, v in one.items()} for one in by_layer], layers[place]
        if any(values):
            maps.append(ReadMap(own, layer, values))
    return maps


def marked_patches(values: Values, key: StreamKey | None = None) -> dict[str, list[int]]:
    """The patches of each image with the largest values, TOP of them; key: as many random ones of the others."""
    chosen = {}
    for name, own in values.items():
        count = max(1, round(TOP * len(own)))
        order = np.argsort(-own, kind="stable").tolist()
        others = order[count:]
        places = [] if key is None else key.order(f"patches of {name}", list(map(str, others)))[:count]
        chosen[name] = sorted(order[:count] if key is None else [others[i] for i in places])
    return chosen


def cut_prompt(model: HF, prompt: Prompt, patches: Mapping[str, Sequence[int]], map_: Map, layer: int | None) -> Prompt:
    """The prompt with attention to some patches cut.

    Args:
        model: The model.
        prompt: The prompt.
        patches: Name of an image -> numbers of patches.
        map_: Its reader no longer attends to them.
        layer: The layer. None: no token attends to them, in any layer.
    """
    names = {image: tuple(spans.patch(image, number) for number in own) for image, own in patches.items()}
    every = tuple(name for own in names.values() for name in own)
    if layer is None:
        return steer(prompt, CutScores(score_sites(model, 0, -1), Keys(every, own=False), Where("all")))
    sites = (Site("scores", layer),)
    if map_.reader == LAST:
        return steer(prompt, CutScores(sites, Keys(every, own=False), END))
    readers = {image: Where(spans.answer(spans.owner_of(image))) for image in names}
    return steer(prompt, *(CutScores(sites, Keys(own, own=False), readers[image]) for image, own in names.items()))


@dataclass(frozen=True)
class Gold:
    """The answers to the images of a prompt. answers: owner -> first token; candidates: first tokens of all answers."""

    answers: Mapping[str, int]
    candidates: tuple[int, ...]

    def tokens(self, owner: str) -> tuple[int, list[int]]:
        """The token of the owner's answer, and the others."""
        return self.answers[owner], [token for token in self.candidates if token != self.answers[owner]]


def _gold(one: RunPrompt) -> Gold:
    model, example, prompt = cast("HF", one.cell.model), one.item.example, one.prompt
    texts = {spans.owner_of(p.name): str(p.text) for p in prompt.parts() if spans.is_answer(p.name) and p.text}
    texts[spans.QUERY] = example.answers[0]
    words = [*texts.values(), *example.options]
    first = [ids[0] for ids in model.option_ids(prompt, words)]
    return Gold(dict(zip(texts, first, strict=False)), tuple(dict.fromkeys(first)))


def _problem(model: Any) -> str | None:
    return None if "interventions" not in model.abilities else attention_problem(model, ["images"])


def _probabilities(model: HF, prompts: Sequence[Prompt], golds: Sequence[Gold]) -> Any:
    """p of the query's answer among the others: [prompts]."""
    p = []
    for start in range(0, len(prompts), BATCH):
        for logits, gold in zip(model.open(prompts[start : start + BATCH]).logits, golds[start:], strict=False):
            p.append(float(answer_margin(logits.float(), *gold.tokens(spans.QUERY)).sigmoid()))
    return np.array(p)


def _rows(
    model: HF, items: Sequence[RunPrompt], prompts: Sequence[Prompt], golds: Sequence[Gold], maps: Sequence[ReadMap]
) -> Iterator[dict[str, Any]]:
    uncut = _probabilities(model, prompts, golds)
    for own in maps:
        some = [i for i, values in enumerate(own.values) if values]
        for cut in ("edges", "all") if own.map.kind == "attention" else ("all",):
            layer = own.layer if cut == "edges" else None
            p = {}
            for how in ("top", "random"):
                keys = [items[i].item.context.key if how == "random" else None for i in some]
                chosen = [marked_patches(own.values[i], key) for i, key in zip(some, keys, strict=True)]
                cuts = [
                    cut_prompt(model, prompts[i], patches, own.map, layer)
                    for i, patches in zip(some, chosen, strict=True)
                ]
                p[how] = _probabilities(model, cuts, [golds[i] for i in some])
            yield {
                "map": own.map.name,
                "layer": own.layer,
                "cut": cut,
                "p": float(uncut[some].mean()),
                "top": float(p["top"].mean()),
                "random": float(p["random"].mean()),
                **paired_columns(p["random"], p["top"], [items[i].unit for i in some], "effect"),
                "n": len(some),
            }


def _cells(one: RunPrompt, number: int, maps: Sequence[ReadMap]) -> Iterator[dict[str, Any]]:
    """The images of a prompt under each map, for the figure."""
    model = cast("HF", one.cell.model)
    images: dict[str, Any] = {part.name: part.image for part in one.prompt.parts() if part.image is not None}
    texts = {spans.owner_of(p.name): p.text for p in one.prompt.parts() if spans.is_answer(p.name)}
    rows: dict[tuple[str, str, int], Values] = {}
    for own in maps:
        rows.setdefault((own.map.kind, own.map.reader, own.layer), {}).update(own.values[number])
    for (kind, reader, layer), values in rows.items():
        largest = max(float(np.abs(v).max()) for v in values.values()) or 1.0
        for name in (name for name in images if name in values):
            place, grid = spans.demo_index(name), model.patch_grid(images[name])
            owner = "query" if place is None else f"demo {place + 1}: {texts.get(spans.owner_of(name)) or ''}"
            yield {
                "panel": f"query {one.item.example.id}, answer {one.item.example.answers[0]}",
                "row": f"{kind}{f', {reader}' if reader else ''}, layer {layer}",
                "label": owner,
                "png": overlaid(images[name].open(), (values[name] / largest).reshape(grid)),
                "images": len(images),
            }


def overlaid(image: Any, values: Any) -> str:
    """An image in gray under its map as a PNG's data URI: blue for positive values, orange for negative ones.

    Args:
        image: The image.
        values: Of its patches, [rows, columns], from -1 to 1.
    """
    from PIL import Image as PILImage

    size = max(1, round(SIZE * image.width / image.height)), SIZE
    gray = PILImage.blend(
        image.convert("L").convert("RGB").resize(size), PILImage.new("RGB", size, (255, 255, 255)), 0.3
    )
    alpha = PILImage.fromarray(np.uint8(np.abs(values).clip(0, 1) * 204)).resize(size, PILImage.Resampling.NEAREST)
    hues = np.where(values[..., None] >= 0, POSITIVE, NEGATIVE).astype(np.uint8)
    colors = PILImage.fromarray(hues).resize(size, PILImage.Resampling.NEAREST)
    buffer = io.BytesIO()
    PILImage.composite(colors, gray, alpha).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
