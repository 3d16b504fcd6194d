"""Scenes of several groups of shapes, for counting, existence and captions. Groups are known, the rest is random."""

from functools import lru_cache

from icl.streams import StreamKey
from icl.tasks.generated.drawing import Drawing
from icl.tasks.generated.world import Concept, ShapeGroup, scene_groups


@lru_cache(maxsize=20_000)
def scene(seed: int, name: str, at_least: int = 1) -> Drawing:
    """A scene of one to three groups, and at least `at_least`, with objects by popularity and companionship."""
    rng = StreamKey(seed, name).numpy("groups")
    groups = scene_groups(rng)
    if len(groups) < at_least:
        groups = scene_groups(rng, groups=at_least)
    return Drawing(seed, name, "scene", groups=groups)


def groups_of(drawing: Drawing) -> tuple[ShapeGroup, ...]:
    """The groups of a scene. Empty for another kind of drawing."""
    return drawing.groups or ()


def noun(concept: Concept) -> str:
    """A concept in words: 'red circle'."""
    return " ".join(concept)
