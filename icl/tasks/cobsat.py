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
demonstration is a text and an image. No model here returns images. Images that another program made for these prompts
are scored by the task `cobsat_images`: a model answers the release's two questions about each of them.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from random import Random
from typing import Annotated, Literal

from annotated_types import Ge, Le

from icl import DataError, Example, Image, component
from icl.tasks.base import LimitedTask, Pool, SeveralPoolsTask, SharedPoolTask, limited_choice
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


ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, kw_only=True)
class CobsatPrompts(RelativePaths, LimitedTask):
    """Base class of tasks on CoBSAT's published prompts."""

    attribute: Literal["color", "background", "style", "action", "texture"] = "color"  # the attribute of the images
    latent: Literal["object", "attribute"] = "object"  # word that the demonstrations share; object is task I of a pair
    demonstrations: Annotated[int, Ge(1), Le(8)] = 4  # number of demonstrations of the published prompts

    @property
    def title(self) -> str:
        return f"CoBSAT {self.attribute.capitalize()}-{'I' if self.latent == 'object' else 'II'}"

    def chosen(self) -> Mapping[str, int]:
        """Id of a query -> the number of its prompt."""
        ids = [f"cobsat-{number:04d}" for number in range(PROMPTS)]
        places = limited_choice(ids, self.query_limit, self.seed, "cobsat", key="queries", whole=f"of {self.title}")
        return {ids[i]: i for i in places}

    @property
    def pair(self) -> tuple[str, str]:
        """The names of the two lists: attribute, then object."""
        return self.attribute, "animal" if self.attribute in ("background", "action") else "object"

    @property
    def turn(self) -> int:
        """The step of a slice that turns (attribute, object) into (text, latent word), and back."""
        return 1 if self.latent == "object" else -1

    def words(self, number: int, place: int) -> tuple[str, str, str]:
        """The text at a place of a prompt, the latent word, and the misleading word of this place."""
        texts, latents = (WORDS[name] for name in self.pair[:: self.turn])
        order, latent_order = published_prompts()[number]
        return texts[order[place]], latents[latent_order[self.demonstrations + 1]], latents[latent_order[place]]


@component("task", "cobsat_release")
@dataclass(frozen=True, kw_only=True)
class CobsatReleaseTask(CobsatPrompts, SeveralPoolsTask):
    """CoBSAT's ten tasks from its released images: descriptions of the next image, with the published prompts."""

    path: str  # folder `datasets` of the release
    wording: Literal["default", "misleading", "exact"] = "default"  # latent word in texts: none, another, the right one
    answers: Literal["words", "captions"] = "words"  # answers: both words, or the caption in the release

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(self._example(name, number, self.demonstrations) for name, number in self.chosen().items())

    def pool_key(self, query_id: str) -> str | None:
        number = query_id.removeprefix("cobsat-")
        return query_id if number.isdecimal() and f"cobsat-{int(number):04d}" == query_id else None

    def pool_examples(self, key: str) -> tuple[Example, ...]:
        number = int(key.removeprefix("cobsat-"))
        return tuple(self._example(f"{key}-s{i}", number, i) for i in range(self.demonstrations))

    @property
    def pool_size(self) -> int:
        return self.demonstrations

    def _example(self, name: str, number: int, place: int) -> Example:
        """The example at a place of a prompt; the query follows the demonstrations and has no image."""
        text, latent, misleading = self.words(number, place)
        named = {"default": "", "exact": f" {latent}", "misleading": f" {misleading}"}[self.wording]
        attribute, thing = (text, latent)[:: self.turn]
        file = f"{attribute}_{thing}.jpg"
        return Example(
            id=name,
            images=() if place == self.demonstrations else (self._image(thing, file),),
            question=_prompt_word(text) + named,
            answers=(
                f"{_prompt_word(attribute)} {_prompt_word(thing)}" if self.answers == "words" else self._caption(file),
            ),
            meta={
                "words": {
                    kind: [*map(_prompt_word, WORDS[of])]
                    for kind, of in zip(("latent", "text"), self.pair[:: -self.turn], strict=True)
                }
            },
            secret={"latent": _prompt_word(latent), "text": _prompt_word(text)},
        )

    def _image(self, thing: str, file: str) -> Image:
        return Image.from_path(self._place(self.path) / f"{self.attribute}_{thing}" / file, f"CoBSAT {file}")

    def _caption(self, file: str) -> str:
        path = self._place(self.path) / f"{'_'.join(self.pair)}.csv"
        captions = _captions(path)
        if file not in captions:
            raise DataError(f"CoBSAT: {path} has no caption of the image '{file}'.")
        return captions[file]


@component("task", "cobsat_images")
@dataclass(frozen=True, kw_only=True)
class CobsatImagesTask(CobsatPrompts, SharedPoolTask):
    """Images that another program made for CoBSAT's prompts: the released judge's two questions about each.

    An image is right if both answers are (`metrics: [group_accuracy]`), at 0 shots. The release's judge is LLaVA-1.5.
    """

    path: str  # folder of the images, such as cobsat-0000.png; the names are the ids of cobsat_release's queries

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        chosen, folder = self.chosen(), self._place(self.path)
        files = {file.stem: file for file in sorted(folder.glob("cobsat-*")) if file.suffix.lower() in ENDINGS}
        if missing := [name for name in chosen if name not in files]:
            raise DataError(
                f"{self.title}: path: {folder} has no image of {len(missing):,} of {len(chosen):,} prompts, such as "
                f"{missing[0]}.png. Add them (the release counts a missing image as wrong: a blank one does), or set "
                "queries."
            )
        return tuple(one for name, number in chosen.items() for one in self._questions(name, number, files[name]))

    @cached_property
    def _pool(self) -> Pool:
        return Pool(())

    def _questions(self, name: str, number: int, file: Path) -> Iterator[Example]:
        """A question on the attribute and one on the object, with the words of their lists as numbered options."""
        gold = self.words(number, self.demonstrations)[:2][:: self.turn]
        subjects = (f"{self.attribute} (of the main object)", "main object")
        for kind, word, subject in zip(self.pair, gold, subjects, strict=True):
            numbered = " ".join(f"({i}){_prompt_word(one)}" for i, one in enumerate(WORDS[kind], 1))
            yield Example(
                id=f"{name}-{kind}",
                images=(Image.from_path(file, f"CoBSAT {file.name}"),),
                question=f"What is the {subject} in this image? Answer from the following options: {numbered}. "
                "Answer the number only and do not include any other texts (e.g., 1).",
                answers=(str(WORDS[kind].index(word) + 1),),
                options=tuple(map(str, range(1, len(WORDS[kind]) + 1))),
                group=name,
                secret={"word": _prompt_word(word)},
            )


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
    except (AttributeError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"CoBSAT: {path} is not a CSV file in UTF-8 with an image and a caption in each row ({error})."
        ) from error
