"""The objects of a vocabulary that a caption names, by the rules of CHAIR (Rohrbach et al., EMNLP 2018).

Words are split as NLTK splits them and read in the singular. Two words can be one name ("hot dog"), a qualifier is no
object of its own ("baby elephant" is an elephant and no person), a home plate is no plate, and the seat of a toilet is
no chair. The longest name wins if several match.

The vocabulary `coco` has the 80 objects of COCO with their 403 names in the released code. Differs from the released
code where its library forms a wrong singular: it misses "bus" ("bu"), "ties", "canoes", "collies" and "magpies", and
by misspelled names "motor bike" and "cheesecake". The vocabulary `coco_released` repeats this: it gives the mentions of
the released code.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Any

from icl import DataError, Example

Name = tuple[str, ...]
"""The words of a name in the singular."""

ANIMALS = ("animal", "bear", "bird", "cat", "cow", "cub", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
PHRASES: Mapping[Name, str] = {
    **{(qualifier, animal): animal for qualifier in ("baby", "adult") for animal in ANIMALS},
    **{("passenger", vehicle): vehicle for vehicle in ("jet", "train")},
    ("toilet", "seat"): "toilet",
    ("bow", "tie"): "tie",
    ("home", "plate"): "home plate",
    ("motor", "bike"): "motor bike",
}
"""Two words -> the name that they stand for, which may be none of the vocabulary."""

IRREGULAR = {
    "feet": "foot", "gases": "gas", "geese": "goose", "lenses": "lens", "lives": "life", "mice": "mouse", "oxen": "ox",
    "people": "person", "quiches": "quiche", "quizzes": "quiz", "teeth": "tooth", "wives": "wife",
    "emus": "emu", "gnus": "gnu", "menus": "menu", "tutus": "tutu", "zebus": "zebu",
    "brownies": "brownie", "collies": "collie", "cookies": "cookie", "hoodies": "hoodie", "magpies": "magpie",
    "movies": "movie", "neckties": "necktie", "pies": "pie", "selfies": "selfie", "smoothies": "smoothie",
    "ties": "tie", "canoes": "canoe", "horseshoes": "horseshoe", "oboes": "oboe", "shoes": "shoe", "toes": "toe",
}  # fmt: skip
UNINFLECTED = frozenset(
    [
        *("abdomen", "atlas", "canvas", "chassis", "debris", "gas", "iris", "lens", "ramen", "scissors", "series"),
        *("species", "specimen", "tennis", "trellis"),
    ]
)
_ENDINGS = tuple(
    (re.compile(ending), singular_ending)
    for ending, singular_ending in (
        (r"men$", "man"),
        (r"children$", "child"),
        (r"(ch|sh|ss|x)es$", r"\1"),
        (r"(b|ct|mp|op|r|t)uses$", r"\1us"),  # not "houses" and "blouses"
        (r"([^aeiou])ies$", r"\1y"),
        (r"(al|el|ol|[^d]ea|oa|hie|ar|oo)ves$", r"\1f"),
        (r"(kni|wi)ves$", r"\1fe"),
        (r"oes$", "o"),
        (r"([^su])s$", r"\1"),
    )
)
_MARK = re.compile(
    r"[«“‘„`»”’\";@#$%&?!*\[\](){}<>\u2012-\u2015]|--|\.{2,}|[:,](?!\d)|\.(?=[\])}>\"'»”’ .!?]*(?:\s|$))"
)
_OPENING = re.compile(r"(?<!\w)'(?!(?:re|ve|ll|[mtsdn])\b)(?=\w)")
_CLITIC = re.compile(r"(?<=[^' ])(n't|'(?:s|m|d|ll|re|ve)?)(?=\s|$)")


@lru_cache(4096)
def singular(word: str) -> str:
    """The singular by rule: 'boxes' -> 'box', 'puppies' -> 'puppy', 'policemen' -> 'policeman'; 'bus' stays."""
    if word in UNINFLECTED:
        return word
    if word in IRREGULAR:
        return IRREGULAR[word]
    ending, singular_ending = next((pair for pair in _ENDINGS if pair[0].search(word)), (None, ""))
    return ending.sub(singular_ending, word) if ending else word


def split_words(caption: str) -> list[str]:
    """The words and marks of a caption in lower case: "The dog's ball." -> ["the", "dog", "'s", "ball", "."]."""
    marked = _OPENING.sub("' ", _MARK.sub(r" \g<0> ", caption.lower()))
    return _CLITIC.sub(r" \1", marked).split()


@dataclass(frozen=True)
class ObjectVocabulary:
    """The names that a caption can use for objects.

    Attributes:
        names: Name -> object.
        overlooked: Words as written that do not count, although their singular is a name.
    """

    names: Mapping[Name, str]
    overlooked: frozenset[str] = frozenset()

    def mentions(self, caption: str) -> list[str]:
        """The objects that a caption names, in order and with repetitions."""
        words = ["" if word in self.overlooked else singular(word) for word in split_words(caption)]
        mentions: list[tuple[str, str]] = []  # the last word of the name, and the object
        position = 0
        while position < len(words):
            for size in range(self._longest, 0, -1):
                name = tuple(words[position : position + size])
                if len(name) == size and (name in self.names or name in PHRASES):
                    standing_for = name if name in self.names else (PHRASES[name],)
                    if standing_for in self.names:
                        mentions.append((standing_for[-1], self.names[standing_for]))
                    break
            position += size
        of_toilet = any(word == "toilet" for word, _ in mentions)
        return [thing for word, thing in mentions if not (of_toilet and word == "seat")]

    @cached_property
    def _longest(self) -> int:
        return max(map(len, (*self.names, *PHRASES)))


def vocabulary_of(names: Mapping[str, str]) -> ObjectVocabulary:
    """A vocabulary of names in any number and case. names: name -> object."""
    as_written = {tuple(name.lower().split()): thing for name, thing in names.items()}  # "peoples" is "people" and "s"
    return ObjectVocabulary(as_written | {tuple(map(singular, name)): thing for name, thing in as_written.items()})


def mentioned_objects(caption: str, names: Mapping[str, str]) -> list[str]:
    """The objects that a caption names, in order and with repetitions. names: name -> object."""
    return _vocabulary(tuple(names.items())).mentions(caption)


def mentions_and_objects(caption: str, example: Example) -> tuple[list[str], set[str]] | None:
    """What a caption names, and the objects of the image. None if the example does not have both.

    `secret` of an example has `objects`, the objects in the image, and `vocabulary`: a list of names, a mapping from
    names to objects, or the name of a shipped vocabulary.
    """
    if "objects" not in example.secret or "vocabulary" not in example.secret:
        return None
    vocabulary: Any = example.secret["vocabulary"]
    if isinstance(vocabulary, str):
        return shipped_vocabulary(vocabulary).mentions(caption), set(example.secret["objects"])
    names = vocabulary if isinstance(vocabulary, Mapping) else {name: name for name in vocabulary}
    return mentioned_objects(caption, names), set(example.secret["objects"])


@lru_cache
def _vocabulary(names: tuple[tuple[str, str], ...]) -> ObjectVocabulary:
    return vocabulary_of(dict(names))


@lru_cache
def shipped_vocabulary(name: str) -> ObjectVocabulary:
    """The vocabulary `coco` or `coco_released`. Raises DataError for any other name."""
    if name not in ("coco", "coco_released"):
        raise DataError(
            f"There is no vocabulary '{name}'. Shipped are 'coco' and 'coco_released'. For other objects, write the "
            "names as a list, or as a mapping from names to objects."
        )
    data = json.loads(files("icl.text").joinpath("coco_objects.json").read_text(encoding="utf-8"))
    names = {name: thing for thing, all_names in data["objects"].items() for name in all_names}
    vocabulary = vocabulary_of(names)
    if name == "coco":
        return vocabulary
    released = data["released"]
    missed = {tuple(name.split()) for name in released["misses"]}
    counted = {name: thing for name, thing in vocabulary.names.items() if name not in missed}
    extra = {tuple(name.split()): thing for name, thing in released["misspells"].items()}
    return ObjectVocabulary(counted | extra, frozenset(released["overlooks"]))
