"""Tests of captions of scenes."""

from icl.metrics.hallucination import ChairI, ChairRecall, ChairS
from icl.tasks.generated.scenes import VOCABULARY, CaptionsTask
from icl.text.object_mentions import mentioned_objects
from icl.types import Generation


def test_a_reference_names_every_object_of_its_scene_and_no_other():
    for query in CaptionsTask().queries:
        caption = Generation(query.answer)
        assert ChairI().score(caption, query) == ChairS().score(caption, query) == 0
        assert ChairRecall().score(caption, query) == 1
        assert 8 <= len(query.answer.split()) <= 20


def test_every_object_of_the_vocabulary_is_recognized_in_singular_and_plural():
    from icl.tasks.generated.wording import plural

    names = {name: name for name in VOCABULARY}
    for name in VOCABULARY:
        color, shape = name.split()
        assert mentioned_objects(f"there is one {name} here", names) == [name]
        assert mentioned_objects(f"there are three {color} {plural(shape)} here", names) == [name]


def test_a_caption_of_another_scene_is_caught():
    first, second = next(
        (a, b) for a in CaptionsTask().queries for b in CaptionsTask().queries
        if not set(a.secret["objects"]) & set(b.secret["objects"])
    )  # fmt: skip
    assert ChairI().score(Generation(second.answer), first) == 1
