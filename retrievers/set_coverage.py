"""Set coverage (Set-BSR, Gupta et al., EMNLP 2023): together the demonstrations show every part of the query.

    argmax over sets Z of  sum over the parts t of q of  w_t  max over z in Z, j in z of  cos(t, j)

Greedy, in the order of picking; when no member adds anything, coverage starts anew with those that are left. Parts are
words, patches, or both, half the weight to each modality (576 patches would drown eight words); within a modality all
weigh alike (no inverse document frequencies), and special tokens take no part. A score is what the demonstration covers
by itself.
"""

from dataclasses import dataclass
from typing import ClassVar

from icl.registry import component
from retrievers.fine import Fine
from retrievers.selection import Covered


@component("retriever", "set_coverage")
@dataclass(frozen=True)
class SetCoverage(Fine):
    """Demonstrations that together match every patch or word of the query (Set-BSR)."""

    ranked: ClassVar[bool] = False

    def choose(self, matches: Covered, k: int) -> list[int]:
        return matches.pick(k)
