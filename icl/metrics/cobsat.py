"""CoBSAT's accuracy in text mode (Zeng et al., 2402.01293): a description names both words and no other of their lists.

    right(list) = the output has the list's gold word, and no other word of the list
    both        = right(latent) and right(text)

Words count as whole words in any case. An example has its lists in `meta["words"]` and its gold words in `secret`, as
the tasks `cobsat` and `vl_icl` make them. Other examples have no score.

Differs from the released code in the judge: there a vision-language model answers two questions with ten options each
about an image or a description. VL-ICL's judge asks one yes/no question for each word.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from icl import Better, Example, Generation, component

SIDES = ("latent", "text")


def names_one_word(output: str, word: str, words: Sequence[str]) -> bool:
    """Whether the output has `word` and no other of `words`, as whole words in any case."""
    spaced = " ".join(["", *re.findall(r"[^\W_]+", output.lower()), ""])
    return {one.lower() for one in words if f" {one.lower()} " in spaced} == {word.lower()}


@component("metric", "cobsat")
@dataclass(frozen=True)
class CobsatMetric:
    """Whether a description names the latent word and the word of the text, and no other word of their lists."""

    of: Literal["both", "latent", "text"] = "both"  # which word must be right

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        lists = example.meta.get("words")
        if not isinstance(lists, dict) or not set(SIDES) <= lists.keys() & example.secret.keys():
            return None
        sides = SIDES if self.of == "both" else (self.of,)
        return float(all(names_one_word(generation.text, str(example.secret[s]), lists[s]) for s in sides))
