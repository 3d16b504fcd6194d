"""CoBSAT's own files (Zeng et al., COLM 2024): ten tasks of text-to-image in-context learning, in text mode.

    datasets/color_car/red_car.jpg    the image of an attribute and an object: folders ATTRIBUTE_OBJECT
    datasets/color_object.csv         columns image, caption: the description of each image

A task has two lists of ten words. The demonstrations share a latent word of one list, and each has another text of the
other list: with the latent word "car", the texts are colors. A model that answers with text describes the next image.
The metric `cobsat` reads both words. The control is the transform `images` with `how: removed`.

The 1,000 prompts of a task are the published ones: the release shuffles both lists with Python's generator, seed 123.
Their words depend on the number of demonstrations, so `demonstrations` and `shots` are equal: 2, 4, 6 or 8. The pool of
a query has its demonstrations in the published order. The retriever `bm25` with `order: as_retrieved` keeps this order,
because the query shares no word with them.

Differs from the released code in the answer of a demonstration, which is its two words or the caption; there a
demonstration is a text and an image. Images as answers need a model that returns images, and none does here.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from random import Random
from typing import Annotated, Literal

from annotated_types import Ge, Le

from icl import DataError, Example, Image, component
from icl.tasks.base import LimitedTask, SeveralPoolsTask, limited_choice
from icl.tasks.cell_values import RelativePaths

WORDS: Mapping[str, tuple[str, ...]] = {
    "color": ("yellow", "white", "red", "purple", "pink", "orange", "green", "brown", "blue", "black"),
    "background": ("beach", "desert", "glacier", "volcano", "park", "gym", "waterfall", "space", "cave", "seafloor"),
    "style": ("watercolor", "sketch", "pixel", "origami", "lego", "icon", "graffiti", "futuristic", "3d", "old"),
    "action": ("swim", "sleep", "sing", "run", "read", "fly", "eat", "drink", "cry", "angry"),
    "texture": ("wood", "wicker", "sequined", "plastic", "paper", "metal", "leather", "lace", "denim", "ceramic"),
    "object": ("leaf", "hat", "cup", "chair", "car", "box", "book", "ball", "bag", "apple"),
    "animal": ("zebra", "tiger", "sheep", "pig", "monkey", "lion", "dog", "cow", "cat", "bird"),
}
"""The words of each list, as file names and in the order of the release."""
PROMPT_WORDS: Mapping[str, str] = {"3d": "wireframe", "park": "amusement park"}
"""Words that prompts and the judge's questions write differently from file names."""
PROMPTS, SEED = 1000, 123


@component("task", "cobsat_release")
@dataclass(frozen=True, kw_only=True)
class CobsatReleaseTask(RelativePaths, SeveralPoolsTask, LimitedTask):
    """CoBSAT's ten tasks from its released images: descriptions of the next image, with the published prompts."""

    path: str  # folder `datasets` of the release
    attribute: Literal["color", "background", "style", "action", "texture"] = "color"  # the attribute of the images
    latent: Literal["object", "attribute"] = "object"  # word that the demonstrations share; object is task I of a pair
    demonstrations: Annotated[int, Ge(1), Le(8)] = 4  # number of demonstrations of the published prompts
    wording: Literal["default", "misleading", "exact"] = "default"  # latent word in texts: none, another, the right one
    answers: Literal["words", "captions"] = "words"  # answers: both words, or the caption in the release

    @property
    def title(self) -> str:
        return f"CoBSAT {self.attribute.capitalize()}-{'I' if self.latent == 'object' else 'II'}"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        ids = [f"cobsat-{number:04d}" for number in range(PROMPTS)]
        chosen = limited_choice(ids, self.query_limit, self.seed, "cobsat", key="queries", whole=f"of {self.title}")
        return tuple(self._example(ids[i], i, self.demonstrations) for i in chosen)

    def pool_key(self, query_id: str) -> str | None:
        number = query_id.removeprefix("cobsat-")
        return query_id if number.isdecimal() and f"cobsat-{int(number):04d}" == query_id else None

    def pool_examples(self, key: str) -> tuple[Example, ...]:
        number = int(key.removeprefix("cobsat-"))
        return tuple(self._example(f"{key}-s{i}", number, i) for i in range(self.demonstrations))

    @property
    def pool_size(self) -> int:
        return self.demonstrations

    @property
    def _pair(self) -> tuple[str, str]:
        """The names of the two lists: attribute, then object."""
        return self.attribute, "animal" if self.attribute in ("background", "action") else "object"

    @property
    def _turn(self) -> int:
        """The step of a slice that turns (attribute, object) into (text, latent word), and back."""
        return 1 if self.latent == "object" else -1

    def _example(self, name: str, number: int, place: int) -> Example:
        """The example at a place of a prompt; the query follows the demonstrations and has no image."""
        texts, latents = (WORDS[name] for name in self._pair[:: self._turn])
        order, latent_order = published_prompts()[number]
        text, latent = texts[order[place]], latents[latent_order[self.demonstrations + 1]]
        named = {"default": "", "exact": f" {latent}", "misleading": f" {latents[latent_order[place]]}"}[self.wording]
        attribute, thing = (text, latent)[:: self._turn]
        file = f"{attribute}_{thing}.jpg"
        return Example(
            id=name,
            images=() if place == self.demonstrations else (self._image(thing, file),),
            question=_prompt_word(text) + named,
            answers=(
                f"{_prompt_word(attribute)} {_prompt_word(thing)}" if self.answers == "words" else self._caption(file),
            ),
            meta={"words": {"latent": [*map(_prompt_word, latents)], "text": [*map(_prompt_word, texts)]}},
            secret={"latent": _prompt_word(latent), "text": _prompt_word(text)},
        )

    def _image(self, thing: str, file: str) -> Image:
        return Image.from_path(self._place(self.path) / f"{self.attribute}_{thing}" / file, f"CoBSAT {file}")

    def _caption(self, file: str) -> str:
        path = self._place(self.path) / f"{'_'.join(self._pair)}.csv"
        captions = _captions(path)
        if file not in captions:
            raise DataError(f"CoBSAT: {path} has no caption of the image '{file}'.")
        return captions[file]


@lru_cache(maxsize=1)
def published_prompts() -> Sequence[tuple[Sequence[int], Sequence[int]]]:
    """The orders of the texts and of the latent words of each prompt (`prompts_list_default.json` of the release)."""
    rng, texts, latents = Random(SEED), list(range(10)), list(range(10))
    prompts = []
    for _ in range(PROMPTS):
        rng.shuffle(texts)
        rng.shuffle(latents)
        prompts.append((tuple(texts), tuple(latents)))
    return prompts


def _prompt_word(word: str) -> str:
    return PROMPT_WORDS.get(word, word)


@lru_cache(maxsize=8)
def _captions(path: Path) -> Mapping[str, str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["image"]: row["caption"].strip() for row in csv.DictReader(file)}
    except OSError as error:
        raise DataError(
            f"CoBSAT: {path} cannot be read ({error.strerror}). Its data set is yzeng58/CoBSAT on the Hugging Face "
            "hub; unpack datasets.zip, and give the folder `datasets`."
        ) from error
    except KeyError as error:
        raise DataError(f"CoBSAT: {path} has no column {error}. Its columns are image and caption.") from error
