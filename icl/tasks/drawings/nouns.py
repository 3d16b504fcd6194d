"""The noun that a drawing shows, from its title and keywords: WordNet says which words name concrete things.

A noun is a reconstruction from titles that people wrote, and part of them mislead: a roller is titled by the wall
that it paints.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icl.errors import DataError

PERSON = "person"
CATEGORIES: Mapping[str, str] = {
    "05": "animal", "06": "artifact", "08": "body part", "13": "food", "17": "natural object", "18": PERSON,
    "20": "plant",
}  # fmt: skip
"""Number of a WordNet lexicographer file -> category. These files hold concrete things. Persons are no noun of a
drawing, because titles name their nations and roles."""

PLURALS = (
    ("ies", "y"), ("ves", "f"), ("ses", "s"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("oes", "o"), ("s", ""),
)  # fmt: skip
_AFTER = re.compile(
    r"\b(?:with|of|in|on|from|for|by|and|at|to|the|drawn|under|over|behind|without|holding|eating|called)\b"
)
"""What stands before the first of these words names the thing."""

DEPICTION = frozenset(
    """
    icon clip art clipart drawing picture image outline line color colour style flat simple cartoon silhouette
    front side right left top bottom back view pair piece group kind type vector design base general major minor
    light dark standard double single square round half quarter slice set stock up down upper lower tool machine
    device vehicle animal mammal insect transport building clothing instrument furniture electronics hardware
    fruit vegetable thing object item general one two three four five led main
    """.split()  # noqa: SIM905 (a list of words reads better as text)
)
"""Words about how a thing is drawn, or about a class of things. The word before them is the noun."""

COLORS = frozenset(
    [
        "red",
        "blue",
        "green",
        "yellow",
        "black",
        "white",
        "orange",
        "pink",
        "brown",
        "gray",
        "grey",
        "gold",
        "silver",
        "purple",
        "violet",
    ]
)
"""Colors, which are nouns only where they are the whole title ("An orange")."""

ARTICLES = frozenset({"a", "an"})

OTHER_THINGS = frozenset(
    """
    sign symbol flag map logo letter number card template button pattern theme part body head face hand place work
    display medium mark end lot use form shape board tip match family cover load pin leg cap activity land world
    coin cent dollar road island antenna rings female cone semaphore jigsaw switch cross stand can general foot
    game set europe africa asia america
    """.split()  # noqa: SIM905
)
"""Words after which a title names no thing that the drawing shows: a road sign is no road. Some are noise in titles."""

MIN_LETTERS = 3


@dataclass(frozen=True)
class Nouns:
    """The nouns of WordNet that name concrete things.

    Attributes:
        category: Noun -> category of its first sense, with '_' between words. '' for other nouns.
        irregular: Irregular plural -> singular.
    """

    category: Mapping[str, str]
    irregular: Mapping[str, str]

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> "Nouns":
        """Reads `data.noun`, `index.noun` and `noun.exc` of WordNet 3.0. Raises DataError if one is missing."""
        if missing := {"data.noun", "index.noun", "noun.exc"} - files.keys():
            raise DataError(f"the package wordnet-base has no {', '.join(sorted(missing))}: it is another version.")
        text = {name: content.decode("utf-8") for name, content in files.items()}
        numbers = {line[:8]: line[9:11] for line in text["data.noun"].splitlines() if not line.startswith(" ")}
        category = {}
        for line in text["index.noun"].splitlines():
            if not line.startswith(" "):
                words = line.split()
                first_sense = words[-int(words[2])]
                category[words[0]] = CATEGORIES.get(numbers[first_sense], "")
        pairs = (line.split() for line in text["noun.exc"].splitlines())
        return cls(category, {plural: singular for plural, singular, *_ in pairs})

    def singular(self, word: str) -> str | None:
        """The singular of a noun, or None for other words."""
        if word in self.irregular:
            return self.irregular[word]
        if word in self.category:
            return word
        stems = (word[: -len(end)] + new for end, new in PLURALS if word.endswith(end))
        return next((stem for stem in stems if stem in self.category), None)

    def noun_of(self, title: str, keywords: Sequence[str] = ()) -> str | None:
        """The noun that a title names: the last concrete noun before the first preposition, in the singular.

        Two words that WordNet has as one noun are one ("ice cream"). If the title has none there, the first keyword
        that the title contains counts.
        """
        plain = re.sub(r"[^a-z ]", " ", title.lower().replace("_", " ").replace("’", "'"))
        for part in _AFTER.split(plain):
            words = [word for word in part.split() if word not in ARTICLES]
            for i in range(len(words) - 1, -1, -1):
                one = self.singular(words[i]) or words[i]
                if one in OTHER_THINGS or self.category.get(one) == PERSON:
                    return None
                if i and words[i - 1] not in DEPICTION | COLORS and self._names_thing(f"{words[i - 1]}_{words[i]}"):
                    return f"{words[i - 1]} {words[i]}"
                if self._is_concrete(one) and (one not in COLORS or len(words) == 1):
                    return one
        named = (self.singular(word) for word in keywords if re.search(rf"\b{re.escape(word)}s?\b", plain))
        return next((one for one in named if one and one not in OTHER_THINGS and self._is_concrete(one)), None)

    def _is_concrete(self, noun: str) -> bool:
        return len(noun) >= MIN_LETTERS and noun not in DEPICTION and self._names_thing(noun)

    def _names_thing(self, noun: str) -> bool:
        return self.category.get(noun, "") not in ("", PERSON)
