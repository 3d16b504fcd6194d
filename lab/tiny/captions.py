"""Captions of scenes: CHAIR (Rohrbach et al., 2018) with (color, shape) pairs as objects."""

import re

import numpy as np
from torch import Tensor

from icl.tasks.generated.wording import plural
from icl.tasks.generated.world import COLORS, HELD_OUT_CONCEPTS, SHAPES, Concept
from lab.tiny.index import PoolIndex
from lab.tiny.layout import PromptLayout
from lab.tiny.questions import caption
from lab.tiny.runner import CheckpointRunner

_SHAPE = {form: s for s in SHAPES for form in (s, plural(s))}
_OBJECT = re.compile(rf"\b({'|'.join(COLORS)}) ({'|'.join(sorted(_SHAPE, key=len, reverse=True))})\b")


def mentioned(text: str) -> list[Concept]:
    """The (color, shape) pairs that a caption names, in order, with repetitions."""
    return [(color, _SHAPE[form]) for color, form in _OBJECT.findall(text.lower())]


def caption_scores(runner: CheckpointRunner, index: PoolIndex, features: Tensor, n: int) -> dict[str, tuple[int, int]]:
    """Counts for greedy zero-shot captions of n scenes.

    CHAIR_I: mentions of what is not there, of all mentions; CHAIR_S: captions with such a mention; recall: objects
    that are mentioned; exact: captions equal to the reference; "8 to 20 words": captions of that length.
    """
    rng = np.random.default_rng(12)
    out: dict[str, tuple[int, int]] = {}
    scenes = index.kind["scene"]
    has_held_out = np.array([any(g[:2] in HELD_OUT_CONCEPTS for g in index.groups[p]) for p in scenes])
    for label, among in (
        ("scenes of seen concepts", scenes[~has_held_out]),
        ("scenes with a held-out concept", scenes[has_held_out]),
    ):
        sequences = [[caption(rng, index, p)] for p in rng.choice(among, n).tolist()]
        texts = runner.generate(sequences, features, PromptLayout(), 32)
        false = mentions = bad = recalled = objects = exact = length = 0
        for turns, text in zip(sequences, texts, strict=True):
            concepts = {group[:2] for group in index.groups[turns[0].image]}
            named = mentioned(text)
            wrong = [c for c in named if c not in concepts]
            mentions, false, bad = mentions + len(named), false + len(wrong), bad + bool(wrong)
            recalled, objects = recalled + len(concepts & set(named)), objects + len(concepts)
            words = re.findall(r"\w+", text)
            length += 8 <= len(words) <= 20
            exact += words == re.findall(r"\w+", runner.processor.tokenizer.decode(turns[0].answer))
        out |= {
            f"CHAIR_I, {label}": (false, mentions),
            f"CHAIR_S, {label}": (bad, n),
            f"recall, {label}": (recalled, objects),
            f"exact, {label}": (exact, n),
            f"8 to 20 words, {label}": (length, n),
        }
    return out
