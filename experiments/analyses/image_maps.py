"""Where does the model look in each image, and does it matter? Maps of patches, and the cuts that test them

    attention   weights from a reader to each patch of an image, mean over heads and over the reader's tokens, in the
                layer with the largest sum. Readers: the last token, and for a demonstration's image its own answer
    logits      z(y) - log sum over y' of exp z(y') at each patch, by the model's final norm and output layer on its
                state (the logit lens) in the layer at three quarters. y: the first token of the answer to the image,
                y': those of the other options and of the prompt's other answers, if they differ from y; without
                one, all other tokens
    cut         edges: the reader no longer attends to the share of each image's patches with the largest values, in
                this layer. all: no token attends to them, in any layer. image: no token attends to any patch of these
                images, in any layer; this control shows whether the answer needs the images at all
    p           probability of the query's answer among the others, uncut; top: with the cut; random: with a cut of as
                many other patches of the same images
    effect      mean of top - random over prompts, or of top - p for the cut `image`; n: number of prompts

Parameters, as `icl analyze RUN image_maps layer=[5,12] reader=query.question`:

    layer       one or several layers for both kinds of maps, from 0; negative numbers count from the end
    reader      maps the attention of this reader instead of the two above: a named text of the prompt, such as
                demo[1].answer or query.question, or a number of tokens before the last one
    answer      a word whose first token is y for all images
    share       the share of an image's patches that a cut removes: 0.25 by default, at most 0.5

A map is not an explanation. Only an effect below 0 says that the model needs the patches which the map marks. If the
interval contains 0, the map may still be right: other patches, layers or texts may carry the same information.

The model reads the prompts of the first 50 queries of each cell (`--queries`), each about ten times, because a cut is
read only from the first token that it can change. Needs a model with one token for each patch of an image
(`HF.patch_grid`). The report shows the maps of two prompts.
"""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
from annotated_types import Gt, Le

from decoding import attention_problem, score_sites
from decoding.interventions.attention_edits import CutScores
from experiments import RunView, make_table, paired_columns
from experiments.analyses.run_prompts import QUERIES, RunPrompt, run_prompts
from icl import END, PIL, ConfigError, DataFrame, Keys, Prompt, Site, StreamKey, Tensor, Where, spans, steer
from icl.models.hf.model import HF

Share = Annotated[float, Gt(0), Le(0.5)]
TOP: Share = 0.25
"""Share of an image's patches that a cut removes."""
REPORTED = 2
"""Prompts with maps in the report."""
BATCH = 8
"""Cuts of a prompt that are read at once."""
PATCHES = 2048
"""Patches of a prompt whose logits are computed at once."""
SIZE = 72
"""Height of an image of a map in pixels."""
POSITIVE, NEGATIVE = (11, 108, 184), (200, 80, 10)


class Map(NamedTuple):
    """A kind of map. kind: attention or logits; reader: whose attention, or the word of logits; group: the images."""

    kind: str
    reader: str
    group: str

    @property
    def name(self) -> str:
        images = self.group.replace("_", " ")
        return f"{self.kind}, {self.reader}: {images}" if self.reader else f"{self.kind}: {images}"


LAST, ANSWER = "last token", "own answer"
READERS: Mapping[str, Where] = {LAST: END, ANSWER: Where("demo_answers")}
EDGES, ALL, WHOLE = "edges", "all", "image"
GROUPS = "query_images", "demo_images"
Values = dict[str, Any]
"""Name of an image -> the value of each of its patches [n]."""


def analyze(
    view: RunView,
    queries: int = QUERIES,
    *,
    layer: int | tuple[int, ...] = (),
    reader: int | str = "",
    answer: int | str = "",
    share: Share = TOP,
) -> DataFrame:
    """One row per setting, map and cut. Raises PlanError, ConfigError or ModelError without maps."""
    rows: list[dict[str, Any]] = []
    figure: list[dict[str, Any]] = []
    arms = run_prompts(view, "interventions", queries, with_demos=False, problem_of=_problem)
    for setting, prompts in arms:
        model, golds = cast("HF", prompts[0].cell.model), [_gold(one, str(answer)) for one in prompts]
        ready = [model.before_answer(one.prompt) for one in prompts]
        layers = _layers(model, (layer,) if isinstance(layer, int) else layer)
        maps = read_maps(model, ready, golds, layers, _readers(reader, ready))
        if not maps:
            raise ConfigError(f"{view.path}: its prompts have no images. Maps need a task with images.")
        rows += ({**setting, **row} for row in _rows(model, prompts, ready, golds, maps, share=share))
        if not figure or len(prompts[0].prompt.images) > figure[-1]["images"]:
            figure = [cell for i in range(min(REPORTED, len(prompts))) for cell in _cells(prompts[i], i, maps)]
    table = make_table(
        rows,
        "Maps of images, and their cuts",
        note="effect: p of the answer, marked patches cut less as many random ones; intervals are not corrected",
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
    """A map of several prompts.

    Attributes:
        map: Its kind.
        layer: Where it is read.
        values: For each prompt, the values of its images.
        where: The tokens whose attention it has; None: the answer of each image's demonstration.
    """

    map: Map
    layer: int
    values: list[Values]
    where: Where | None = None


def attention_weights(model: HF, prompt: Prompt, readers: Mapping[str, Where] = READERS) -> dict[tuple[str, str], Any]:
    """(reader, image) -> weights [layers with scores, patches] of each reader of each image before it in a prompt."""
    sites = score_sites(model, 0, -1)
    names = {part.name: part.image is not None for part in prompt.parts()}
    answers = [name for name in names if spans.is_answer(name)]
    tokens = {
        name: [token for begin, end in ranges for token in range(begin, end)]
        for name, ranges in model.span_tokens(
            [prompt], [*(name for name, is_image in names.items() if is_image), *answers, "demo_answers"]
        )[0].items()
    }
    weights: dict[tuple[str, str], Any] = {}
    for reader, where in readers.items():
        if reader == ANSWER and not answers:
            continue
        (states,) = model.observe([prompt], sites, where, lambda scores: scores.softmax(-1).mean(1))
        if sites[0] not in states:
            raise ConfigError(f"reader: a prompt is too short for '{reader}'. Name a token nearer to its end.")
        own = np.stack([states[site].numpy() for site in sites])  # [layers, tokens of the reader, keys]
        for name in (name for name, is_image in names.items() if is_image):
            rows = list(range(own.shape[1]))
            if reader == ANSWER:
                text = tokens.get(spans.answer(spans.owner_of(name)), [])
                rows = [tokens["demo_answers"].index(token) for token in text if token in tokens["demo_answers"]]
            of_image = own[:, rows].mean(1)[:, tokens[name]] if rows else np.zeros(0)
            if of_image.any():  # no token attends to an image after it
                weights[reader, name] = of_image
    return weights


def image_margins(model: HF, prompt: Prompt, layer: int, gold: "Gold") -> Values:
    """Image -> the margin of its answer at each of its patches [n], by the logit lens at a layer."""
    names = [part.name for part in prompt.parts() if part.image and spans.owner_of(part.name) in gold.answers]
    margins = {}
    together = max(1, PATCHES // max((math.prod(model.patch_grid(image)) for image in prompt.images), default=1))
    for start in range(0, len(names), together):
        some = names[start : start + together]
        for name, logits in zip(some, model.image_logits(prompt, layer, some), strict=True):
            margins[name] = answer_margin(logits, *gold.tokens(spans.owner_of(name), mapped=True)).numpy()
    return margins


def read_maps(
    model: HF,
    prompts: Sequence[Prompt],
    golds: "Sequence[Gold]",
    layers: Sequence[int] = (),
    readers: Mapping[str, Where] = READERS,
) -> list[ReadMap]:
    """The maps that the prompts have, each in its layer.

    Args:
        model: The model.
        prompts: The prompts.
        golds: Their answers.
        layers: Where the maps are read. Empty: attention where it sums to most, logits at three quarters.
        readers: Name -> tokens whose attention is mapped.

    Raises:
        ConfigError: A prompt has no token for a reader.
        ModelError: The tokens of an image form no grid.
    """
    places = {site.layer: place for place, site in enumerate(score_sites(model, 0, -1))}
    for image in {image.size: image for prompt in prompts for image in prompt.images}.values():
        model.patch_grid(image)
    weights = [attention_weights(model, prompt, readers) for prompt in prompts]
    maps = []
    for own in (Map("attention", reader, group) for reader in readers for group in GROUPS):
        by_layer = [
            {name: v for (reader, name), v in one.items() if (reader, spans.group_of(name)) == own[1:]}
            for one in weights
        ]
        if sums := [v.sum(1) for one in by_layer for v in one.values()]:
            for layer in layers or [[*places][int(np.sum(sums, 0).argmax())]]:
                values = [{n: v[places[layer]] for n, v in one.items()} for one in by_layer]
                maps.append(ReadMap(own, layer, values, None if own.reader == ANSWER else readers[own.reader]))
    for layer in layers or [3 * model.num_layers // 4]:
        margins = [image_margins(model, prompt, layer, gold) for prompt, gold in zip(prompts, golds, strict=True)]
        for group in GROUPS:
            values = [{n: v for n, v in one.items() if spans.in_group(n, group)} for one in margins]
            if any(values):
                maps.append(ReadMap(Map("logits", golds[0].word, group), layer, values))
    return maps


def marked_patches(values: Values, key: StreamKey | None = None, share: float = TOP) -> dict[str, list[int]]:
    """The share of each image's patches with the largest values, half of them at most; key: as many random others."""
    chosen = {}
    for name, own in values.items():
        count = min(max(1, round(share * len(own))), len(own) // 2)
        order = np.argsort(-own, kind="stable").tolist()
        others = order[count:]
        places = [] if key is None else key.order(f"patches of {name}", list(map(str, others)))[:count]
        chosen[name] = sorted(order[:count] if key is None else [others[i] for i in places])
    return chosen


def cut_prompt(model: HF, prompt: Prompt, patches: Mapping[str, Sequence[int]], map_: ReadMap | None = None) -> Prompt:
    """The prompt with attention to some patches cut.

    Args:
        model: The model.
        prompt: The prompt.
        patches: Name of an image -> numbers of patches.
        map_: Its reader no longer attends to them, in its layer. None: no token does, in any layer.
    """
    names = {image: tuple(spans.patch(image, number) for number in own) for image, own in patches.items()}
    every = tuple(name for own in names.values() for name in own)
    if map_ is None:
        return cut_everywhere(model, prompt, every)
    sites = (Site("scores", map_.layer),)
    if map_.where is not None:
        return steer(prompt, CutScores(sites, Keys(every, own=False), map_.where))
    readers = {image: Where(spans.answer(spans.owner_of(image))) for image in names}
    return steer(prompt, *(CutScores(sites, Keys(own, own=False), readers[image]) for image, own in names.items()))


def cut_everywhere(model: HF, prompt: Prompt, names: Sequence[str]) -> Prompt:
    """The prompt in which no token attends to parts, patches or groups with these names, in any layer."""
    return steer(prompt, CutScores(score_sites(model, 0, -1), Keys(tuple(names), own=False), Where("all")))


@dataclass(frozen=True)
class Gold:
    """The answers to the images of a prompt.

    Attributes:
        answers: Owner -> first token.
        candidates: First tokens of all answers.
        word: What is mapped for all images in place of their answers.
        mapped: Its first token.
    """

    answers: Mapping[str, int]
    candidates: tuple[int, ...]
    word: str = ""
    mapped: int | None = None

    def tokens(self, owner: str, *, mapped: bool = False) -> tuple[int, list[int]]:
        """The token of the owner's answer, and the others. mapped: of the map."""
        gold = self.answers[owner] if self.mapped is None or not mapped else self.mapped
        return gold, [token for token in self.candidates if token != gold]


def _layers(model: HF, layers: Sequence[int]) -> list[int]:
    """The layers, counted from 0. Raises ConfigError if one has no attention scores."""
    own = [site.layer for site in score_sites(model, 0, -1)]
    chosen = [layer if layer >= 0 else model.num_layers + layer for layer in layers]
    if missing := [layer for layer, place in zip(layers, chosen, strict=True) if place not in own]:
        raise ConfigError(f"layer={missing[0]}: maps are of layers with attention scores, here {own[0]} to {own[-1]}.")
    return chosen


def _readers(reader: int | str, prompts: Sequence[Prompt]) -> Mapping[str, Where]:
    """Name of a reader -> its tokens. Raises ConfigError if a prompt has no such part."""
    if reader == "":
        return READERS
    if isinstance(reader, int):
        if reader < 0:
            raise ConfigError(f"reader={reader}: a number of tokens before the last one is 0 or more.")
        return {f"{reader} tokens before the last": Where(before=reader)}
    texts = [[part.name for part in prompt.parts() if part.name and part.text] for prompt in prompts]
    if any(reader not in own for own in texts):
        raise ConfigError(f"reader={reader}: not every prompt has this text. The first one has {', '.join(texts[0])}.")
    return {reader: Where(reader)}


def _gold(one: RunPrompt, answer: str = "") -> Gold:
    model, example, prompt = cast("HF", one.cell.model), one.item.example, one.prompt
    texts = {spans.owner_of(p.name): str(p.text) for p in prompt.parts() if spans.is_answer(p.name) and p.text}
    texts[spans.QUERY] = example.answers[0]
    words = [*texts.values(), *example.options]
    *first, mapped = (ids[0] for ids in model.option_ids(prompt, [*words, answer or words[0]]))
    return Gold(dict(zip(texts, first, strict=False)), tuple(dict.fromkeys(first)), answer, mapped if answer else None)


def _problem(model: Any) -> str | None:
    return None if "interventions" not in model.abilities else attention_problem(model, ["images"])


def read_cuts(model: HF, prompt: Prompt, gold: Gold, cuts: Sequence[Prompt]) -> list[float]:
    """p of the query's answer among the others: in the prompt, then in each cut, which reuses the unchanged prefix."""
    session = model.open([prompt])
    logits = [*session.logits]
    for start in range(0, len(cuts), BATCH):
        logits += model.open(cuts[start : start + BATCH], prefix_source=session).logits
    return [float(answer_margin(one.float(), *gold.tokens(spans.QUERY)).sigmoid()) for one in logits]


def _rows(
    model: HF,
    items: Sequence[RunPrompt],
    prompts: Sequence[Prompt],
    golds: Sequence[Gold],
    maps: Sequence[ReadMap],
    *,
    share: float,
) -> Iterator[dict[str, Any]]:
    plan = [(own, cut) for own in maps for cut in ((EDGES, ALL) if own.map.kind == "attention" else (ALL,))]
    groups = [group for group in GROUPS if any(own.map.group == group for own in maps)]
    labels: list[tuple[str, int | str, str]] = [(own.map.name, own.layer, cut) for own, cut in plan]
    labels += [(group.replace("_", " "), "all", WHOLE) for group in groups]
    p = np.full((len(prompts), len(labels), 3), np.nan)  # uncut, top, random
    for i, (item, prompt, gold) in enumerate(zip(items, prompts, golds, strict=True)):
        cuts: dict[tuple[int, int], Prompt] = {}
        for place, (own, cut) in enumerate(plan):
            for column, key in enumerate((None, item.item.context.key) if own.values[i] else (), 1):
                patches = marked_patches(own.values[i], key, share)
                cuts[place, column] = cut_prompt(model, prompt, patches, own if cut == EDGES else None)
        for place, group in enumerate(groups, len(plan)):
            if any(spans.in_group(part.name, group) for part in prompt.parts()):
                cuts[place, 1] = cut_everywhere(model, prompt, (group,))
        uncut, *values = read_cuts(model, prompt, gold, [*cuts.values()])
        for (place, column), value in zip(cuts, values, strict=True):
            p[i, place, 0], p[i, place, column] = uncut, value
    units = np.array([item.unit for item in items], dtype=object)
    for place, (name, layer, cut) in enumerate(labels):
        some = np.isfinite(p[:, place, 1])
        uncut, top, random = p[some, place].T
        yield {
            "map": name,
            "layer": layer,
            "cut": cut,
            "p": float(uncut.mean()),
            "top": float(top.mean()),
            "random": float(random.mean()),
            **paired_columns(uncut if cut == WHOLE else random, top, units[some], "effect"),
            "n": len(uncut),
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
    size = max(1, round(SIZE * image.width / image.height)), SIZE
    gray = PIL.Image.blend(
        image.convert("L").convert("RGB").resize(size), PIL.Image.new("RGB", size, (255, 255, 255)), 0.3
    )
    alpha = PIL.Image.fromarray(np.uint8(np.abs(values).clip(0, 1) * 204)).resize(size, PIL.Image.Resampling.NEAREST)
    hues = np.where(values[..., None] >= 0, POSITIVE, NEGATIVE).astype(np.uint8)
    colors = PIL.Image.fromarray(hues).resize(size, PIL.Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    PIL.Image.composite(colors, gray, alpha).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
