"""Tests of object existence in POPE's samplings."""

from collections import Counter

import pytest

from icl.errors import ConfigError
from icl.tasks.generated.scenes import ExistenceTask
from icl.tasks.generated.world import CONCEPTS, companion, popularity

SAMPLINGS = ["random", "popular", "adversarial"]


def object_of(example) -> str:
    return example.meta["object"]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_yes_objects_are_there_and_no_objects_are_not(sampling):
    for example in ExistenceTask(sampling=sampling, per_image=6).queries:
        assert (example.answer == "yes") == (object_of(example) in example.secret["objects"])
        assert object_of(example) in example.question


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("per_image", [1, 2, 6])
def test_labels_are_balanced_and_their_place_does_not_tell_them(sampling, per_image):
    task = ExistenceTask(sampling=sampling, per_image=per_image, query_limit=120)
    assert Counter(e.answer for e in task.queries) == {"yes": 60, "no": 60}
    assert Counter(e.answer for e in task.pool("").examples)["yes"] in (99, 100, 101)
    if per_image > 1:
        assert {e.answer for e in task.queries[::per_image]} == {"yes", "no"}


def test_the_share_of_yes_is_a_parameter():
    assert sum(e.answer == "yes" for e in ExistenceTask(yes_ratio=0.3).queries) == 90
    assert sum(e.answer == "yes" for e in ExistenceTask(yes_ratio=1.0).queries) == 300
    assert sum(e.answer == "yes" for e in ExistenceTask(yes_ratio=0.0).queries) == 0


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("ratio", "yes"), [(0.25, 60), (0.5, 120), (0.75, 180)])
def test_label_ratios_are_exact_in_every_sampling_and_their_place_tells_nothing(sampling, ratio, yes):
    task = ExistenceTask(sampling=sampling, yes_ratio=ratio, query_limit=240)
    assert Counter(e.answer for e in task.queries) == {"yes": yes, "no": 240 - yes}
    assert Counter(e.answer for e in task.pool("").examples)["yes"] == 200 * ratio
    for place in (0, 1):
        share = sum(e.answer == "yes" for e in task.queries[place::2]) / 120
        assert abs(share - ratio) < 0.12


def test_questions_about_an_image_share_a_group_and_ask_different_objects():
    groups: dict[str, list] = {}
    for example in ExistenceTask(per_image=6).queries:
        groups.setdefault(example.group, []).append(example)
    for examples in groups.values():
        assert len(examples) == len({object_of(e) for e in examples}) == 6
        assert len({e.images[0].origin for e in examples}) == 1


def test_samplings_ask_about_the_same_scenes_and_the_same_present_objects():
    tasks = [ExistenceTask(sampling=sampling) for sampling in SAMPLINGS]
    for examples in zip(*(task.queries for task in tasks), strict=True):
        assert len({e.images[0].origin for e in examples}) == 1
        assert len({e.answer for e in examples}) == 1
        if examples[0].answer == "yes":
            assert len({object_of(e) for e in examples}) == 1


def test_absent_objects_follow_their_sampling():
    concept_of = {" ".join(c): c for c in CONCEPTS}
    frequent = sorted(CONCEPTS, key=popularity, reverse=True)

    def absent(sampling):
        return [e for e in ExistenceTask(sampling=sampling, query_limit=400).queries if e.answer == "no"]

    spread = Counter(object_of(e) for e in absent("random"))
    assert len(spread) > 60
    assert {concept_of[object_of(e)] for e in absent("popular")} <= set(frequent[: 10 + 3])
    for example in absent("adversarial"):
        present = {concept_of[name] for name in example.secret["objects"]}
        companions = {companion(c) for c in present} - present
        assert not companions or concept_of[object_of(example)] in companions


def test_more_yes_questions_than_a_scene_has_objects_are_refused():
    with pytest.raises(ConfigError, match="needs more than 3 objects in a scene"):
        ExistenceTask(per_image=6, yes_ratio=0.9)
