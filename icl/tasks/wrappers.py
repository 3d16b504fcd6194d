"""Tasks made of another task: wrong labels, other demonstrations, other images, and images as text."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Annotated, Any, Literal, get_args
from weakref import WeakKeyDictionary

from annotated_types import Ge, Le

from icl import (
    PIL,
    ConfigError,
    DataError,
    Example,
    Fraction,
    Image,
    NestedComponent,
    Pool,
    StreamKey,
    Task,
    component,
    did_you_mean,
    np,
    pydantic_core,
)
from icl.edits import Edit, build_edit
from icl.registry import describe, entries
from icl.tasks.base import AlteredTask
from icl.tasks.generated import PLACES, DigitImage, Drawing, ImageFacts, PlacedShapes
from icl.tasks.generated.wording import NUMBER_WORDS, caption, plural, with_article
from icl.text.json_text import fold


@component("task", "mislabeled")
@dataclass(frozen=True, kw_only=True)
class MislabeledTask(AlteredTask):
    """A task with wrong answers for a share of its pool, the same for all queries. Its examples need options.

        task: {name: mislabeled, of: {name: gated}, share: 0.5}

    A member of the pool has a wrong answer with probability `share`, drawn uniformly from its other options. Queries
    keep their gold. Whether a member is wrong depends on its id and the seed only, and a larger share contains the
    errors of a smaller one. So a retriever can learn which members to avoid. The transform `noisy_labels` instead draws
    wrong answers anew for each query.
    """

    of: Annotated[Task, NestedComponent("task")]  # task whose pool is mislabeled
    share: Fraction = 0.5  # probability that a member of the pool has a wrong answer
    seed: int = 0  # random seed of the errors, independent of the seeds of a run

    @property
    def title(self) -> str:
        return f"{self.of.title} · {self.share:.0%} wrong labels" if self.share else self.of.title

    def altered(self, example: Example, in_pool: bool) -> Example:
        """Raises DataError for a member without another option."""
        rng = StreamKey(self.seed, example.id).numpy("mislabeled")
        if not in_pool or rng.random() >= self.share:
            return example
        right = {fold(answer) for answer in example.answers}
        others = [option for option in example.options if fold(option) not in right]
        if not others:
            raise DataError(
                f"mislabeled: '{example.id}' of the pool of {self.of.title} has no other option to answer with. Use a "
                "task with options, or the transform noisy_labels."
            )
        wrong = others[int(rng.integers(len(others)))]
        return replace(example, answers=(wrong,), label=None if example.label is None else wrong)


@component("task", "other_support")
@dataclass(frozen=True, kw_only=True)
class OtherSupportTask:
    """The queries of one task with the support pools of another.

    Demonstrations from another data set (Huang et al., 2506.07936: accuracy then often falls with the number of shots).

        task: {name: other_support, of: {name: hub, preset: ok_vqa}, support: {name: hub, preset: vqav2}}

    Queries come from `of`, demonstrations from the pools of `support`. If its queries have pools of their own, each
    query of `of` gets one of them, in turn. Compare with the task itself, which has the same query ids: the difference
    is what a demonstration is worth beyond its format. The control in the other direction is the task with 0 shots.

    No released code was compared.
    """

    of: Annotated[Task, NestedComponent("task")]  # task of the queries
    support: Annotated[Task, NestedComponent("task")]  # task of the demonstrations

    @property
    def title(self) -> str:
        return f"{self.of.title} · support {self.support.title}"

    @property
    def pool_shares_images(self) -> bool:
        """True: the two data sets may have images in common, which the leak policy then keeps apart."""
        return True

    @cached_property
    def queries(self) -> Sequence[Example]:
        return tuple(self.of.queries)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {query.id: place for place, query in enumerate(self.queries)}

    @cached_property
    def _pools(self) -> "WeakKeyDictionary[Pool, Pool]":
        return WeakKeyDictionary()

    def pool(self, query_id: str) -> Pool:
        self.of.pool(query_id)  # raises the error of an unknown query
        others = self.support.queries
        pool = self.support.pool(others[self._places[query_id] % len(others)].id)
        if pool not in self._pools:
            self._pools[pool] = Pool(tuple(replace(e, id=f"support-{e.id}") for e in pool.examples))
        return self._pools[pool]

    @property
    def pool_size(self) -> int:
        return self.support.pool_size


Where = Literal["query", "pool", "all"]
CLEAN = "clean"
USUAL = 3
"""Default severity."""


# Corruptions of images at five severities (Hendrycks and Dietterich, ICLR 2019), as edits.
#
# The parameters are those of Tiny ImageNet-C, whose images have sides of 64 pixels, as generated images do:
#
#     noise      Gaussian, standard deviation .04 .08 .12 .15 .18 of the range of a pixel
#     blur       Gaussian, standard deviation .5 .75 1 1.25 1.5 pixels at a side of 64, scaled with the shorter side
#     contrast   .4 .3 .2 .1 .05 of each channel's distance from its mean over the image
#     jpeg       quality 65 58 50 40 25
#
# The noise of an image is drawn once and scaled by the severity. The bytes of JPEG depend on the library that Pillow
# was built with. The others are the same on every machine. Any other edit can be a corruption too, with its own
# parameters instead of severities.

Severity = Annotated[int, Ge(0), Le(5)]

CorruptionKind = Literal["noise", "blur", "contrast", "jpeg"]


class CorruptionField:
    """Metadata of a field that holds a corruption: one of the four kinds, or an edit by its name, mapping or path."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return pydantic_core.core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        names = list(dict.fromkeys((*get_args(CorruptionKind), *entries("edit"))))
        return {"anyOf": [{"enum": names}, {"pattern": ":"}, {"type": "object", "required": ["name"]}]}

    @staticmethod
    def _read(node: Any) -> "CorruptionKind | Edit":
        kind: CorruptionKind | None = next((one for one in get_args(CorruptionKind) if one == node), None)
        if kind is not None:
            return kind
        if isinstance(node, str) and ":" not in node and node not in entries("edit"):
            names = dict.fromkeys((*get_args(CorruptionKind), *entries("edit")))
            raise ConfigError(f"no corruption named '{node}'.{did_you_mean(node, names)} (icl ls edit)")
        return build_edit(node, "by")


CorruptionSource = Annotated[CorruptionKind | Annotated[Edit, NestedComponent("edit")], CorruptionField()]


@component("task", "corrupted")
@dataclass(frozen=True, kw_only=True)
class CorruptedTask(AlteredTask):
    """A task with corrupted images of its queries or its pool, by noise, blur, contrast, jpeg, or any edit.

    Any task under a domain shift: its images are corrupted (Hendrycks and Dietterich, ICLR 2019).

        task: {name: corrupted, of: {name: binding, ways: 4}, by: noise, severity: 3}

    With `where: query` (the default) only the queries are corrupted, so demonstrations have another domain. With `pool`
    only the pool is, and with `all` both are. Queries keep their ids, so severities are paired. `icl.tasks.wrappers`
    lists the parameters of each severity. Any image edit can be the corruption, also a user's:

        task: {name: corrupted, of: {name: binding}, by: {name: 'stripes.py:Stripes', width: 3}}

    The domain of an example is "noise 3" or "clean", after the domain of the task if it has one. It is stored in
    `domain` and in `meta`.
    """

    of: Annotated[Task, NestedComponent("task")]  # task to corrupt
    by: CorruptionSource = "noise"  # corruption of the images; or an edit with its parameters (icl ls edit)
    severity: Severity = USUAL  # severity of the first four, 1 to 5; 0: none
    where: Where = "query"  # owners of the images to corrupt
    seed: int = 0  # random seed of the corruptions, independent of the seeds of a run

    def __post_init__(self) -> None:
        if isinstance(self.by, Edit) and self.severity not in (0, USUAL):
            raise ConfigError(f"by: an edit has no severity but its own parameters. Remove severity: {self.severity}.")

    @property
    def title(self) -> str:
        where = "" if self.where == "query" else f" in {'the pool' if self.where == 'pool' else 'all'}"
        return f"{self.of.title} · {self.shift}{where}" if self.severity else self.of.title

    @property
    def shift(self) -> str:
        """Name of the shifted domain: 'noise 3', 'rotate (degrees 90)'."""
        if not isinstance(self.by, Edit):
            return f"{self.by} {self.severity}"
        node, defaults = describe(self.by), {one.name: one.default for one in fields(self.by)}
        name = node.pop("name").rpartition(":")[2]
        own = [
            f"{key} {value}"
            for key, value in node.items()
            if key in defaults and getattr(self.by, key) != defaults[key]
        ]
        return f"{name} ({', '.join(own)})" if own else str(name)

    def altered(self, example: Example, in_pool: bool) -> Example:
        severity = self.severity if self.where in ("all", "pool" if in_pool else "query") else 0
        domain = self.shift if severity else CLEAN
        whole = domain if example.domain is None else f"{example.domain}, {domain}"
        images = tuple(corrupt(image, self.by, severity, self.seed) for image in example.images)
        return replace(example, images=images, domain=whole, meta={**example.meta, "domain": whole})


NOISE = (0.04, 0.08, 0.12, 0.15, 0.18)
BLUR = (0.5, 0.75, 1.0, 1.25, 1.5)
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
QUALITY = (65, 58, 50, 40, 25)
SIDE = 64  # side of the images that BLUR applies to, in pixels


@dataclass(frozen=True)
class Corruption(Edit):
    """One kind of corruption at one severity, 1 to 5. stream: random stream of the noise."""

    kind: CorruptionKind = "noise"
    severity: int = 1
    stream: int = 0

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        level = self.severity - 1
        if self.kind == "noise":
            return _noised(image, NOISE[level], self.stream)
        if self.kind == "blur":
            return image.filter(PIL.ImageFilter.GaussianBlur(BLUR[level] * min(image.size) / SIDE))
        return _flat(image, CONTRAST[level]) if self.kind == "contrast" else _packed(image, QUALITY[level])


def corrupt(image: Image, by: CorruptionKind | Edit, severity: int, seed: int = 0) -> Image:
    """The image at this severity, unchanged at 0. Random numbers depend on the image and the seed."""
    if severity == 0:
        return image
    key = StreamKey(seed, image.identity)
    if isinstance(by, Edit):
        return image.edit(by.bind(key, "corruption"))
    return image.edit(Corruption(by, severity, key.number("corruption", 63) if by == "noise" else 0))


def _noised(image: "PIL.Image.Image", size: float, stream: int) -> "PIL.Image.Image":

    pixels = np.asarray(image) / 255
    noise = np.random.Generator(np.random.Philox(key=stream)).normal(size=pixels.shape)
    return PIL.Image.fromarray((np.clip(pixels + size * noise, 0, 1) * 255).round().astype(np.uint8))


def _flat(image: "PIL.Image.Image", contrast: float) -> "PIL.Image.Image":

    pixels = np.asarray(image) / 255
    means = pixels.mean((0, 1), keepdims=True)
    return PIL.Image.fromarray((np.clip((pixels - means) * contrast + means, 0, 1) * 255).round().astype(np.uint8))


def _packed(image: "PIL.Image.Image", quality: int) -> "PIL.Image.Image":
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return PIL.Image.open(buffer).convert("RGB")


@component("task", "as_text")
@dataclass(frozen=True, kw_only=True)
class AsTextTask(AlteredTask):
    """A generated task with its images written as words, or the task itself for comparison.

    The same task as text and as images, as in a study of multimodal ICL with text and image demonstrations
    (2604.13403).

        task: {name: as_text, of: {name: operators}, form: text}        "image: 3 ? 2. what is the result?"
        task: {name: as_text, of: {name: operators}, form: image}       unchanged

    Images of generated tasks are drawn from facts, which are written in words before the question. Queries keep their
    ids, so the two forms are paired. Run both under several numbers of shots: the effect of images is the interaction
    of form and shots, since both forms can be equal at 0 shots. `where: demos` or `query` changes one side only.

    Differs from the released code in the tasks, which are generated here, and in the wording.
    """

    of: Annotated[Task, NestedComponent("task")]  # generated task
    form: Literal["text", "image"] = "text"  # words in place of images, or the images
    where: Literal["all", "query", "demos"] = "all"  # owners of the images that become words
    text: str = "image: {words}. "  # format of each image's words before the question

    @property
    def title(self) -> str:
        return f"{self.of.title} · as {self.form}"

    def altered(self, example: Example, in_pool: bool) -> Example:
        meta = {**example.meta, "form": self.form}
        if self.form == "image" or self.where not in ("all", "demos" if in_pool else "query"):
            return replace(example, meta=meta)
        words = "".join(self.text.format(words=words_of(image)) for image in example.images)
        return replace(example, images=(), question=words + example.question, meta=meta)


def words_of(image: Image) -> str:
    """The facts of a generated image in words. Raises DataError for another image, or an edited one."""
    recipe: Any = image.load
    if isinstance(recipe, Drawing) and not image.edits:
        return _in_words(recipe.render()[1])
    if isinstance(recipe, DigitImage) and not image.edits:
        return str(recipe.value)
    if isinstance(recipe, PlacedShapes) and not image.edits:
        placed = zip(recipe.concepts, recipe.cells, strict=True)
        return ", ".join(f"{with_article(' '.join(concept))} at the {PLACES[cell]}" for concept, cell in placed)
    raise DataError(
        f"as_text: {image.origin} has no facts to write in words. It must be an unedited image of a generated task, "
        "such as those of operators, binding or counting."
    )


def _in_words(facts: ImageFacts) -> str:
    if facts.kind == "digits":
        return f"{facts.left} ? {facts.right}"
    if facts.kind == "scene":
        return caption(facts.groups)
    texture = f"{facts.texture} " if facts.texture else ""
    shape = f"{texture}{facts.color} {plural(facts.shape or '', facts.count or 1)}"
    if facts.kind == "count":
        return f"{NUMBER_WORDS[facts.count or 0]} {shape}"
    size = f"{facts.size} " if facts.size else ""
    return f"{with_article(size + shape)} at the {facts.place}"
