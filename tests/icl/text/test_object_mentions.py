"""Tests of object mentions: against the released CHAIR code, and by the nouns of COCO."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from icl.errors import DataError
from icl.metrics.hallucination import ChairI
from icl.text.object_mentions import mentioned_objects, shipped_vocabulary, singular, split_words
from icl.types import Example, Generation

GOLDEN = [
    json.loads(line) for line in (Path(__file__).parents[1] / "golden/chair_mentions.jsonl").read_text().splitlines()
]
DATA = json.loads(files("icl.text").joinpath("coco_objects.json").read_text())
NAMES = {name: thing for thing, names in DATA["objects"].items() for name in names}
IRREGULAR = {
    "aircraft": "aircraft", "bison": "bison", "calf": "calves", "cattle": "cattle", "child": "children",
    "children": "children", "goose": "geese", "grandchild": "grandchildren", "knife": "knives", "knive": "knives",
    "luggage": "luggage", "mouse": "mice", "ox": "oxen", "oxen": "oxen", "people": "people", "person": "people",
    "pocketknife": "pocketknives", "scissors": "scissors", "sheep": "sheep", "skis": "skis", "thief": "thieves",
    "watercraft": "watercraft",
}  # fmt: skip
WRONG_WHEN_RELEASED = (
    *("bus", "airbus", "minibus", "ties", "canoes", "collies", "doggies", "magpies", "thieves"),
    *("iphone", "cheesecake", "motor bike", "stove top oven"),
)


def plurals(name):
    """English plurals of a noun: buffalos and buffaloes."""
    if name in IRREGULAR:
        return [IRREGULAR[name]]
    if name.endswith("man"):
        return [f"{name[:-3]}men"] if not name.endswith("human") else [f"{name}s"]
    if name.endswith(("ch", "sh", "s", "x")):
        return [f"{name}es"]
    if name.endswith("y") and name[-2] not in "aeiou":
        return [f"{name[:-1]}ies"]
    if name.endswith("o"):
        return [f"{name}s", f"{name}es"]
    return [f"{name}s"]


def test_mentions_are_those_of_the_released_code():
    vocabulary = shipped_vocabulary("coco_released")
    different = [case["caption"] for case in GOLDEN if vocabulary.mentions(case["caption"]) != case["mentions"]]
    assert different == []
    assert len(GOLDEN) >= 300


def test_the_corrected_vocabulary_differs_only_in_nouns_that_the_released_code_gets_wrong():
    vocabulary = shipped_vocabulary("coco")
    different = [case["caption"].lower() for case in GOLDEN if vocabulary.mentions(case["caption"]) != case["mentions"]]
    assert different
    assert [caption for caption in different if not any(noun in caption for noun in WRONG_WHEN_RELEASED)] == []


def test_every_noun_of_coco_is_one_mention_in_singular_and_plural():
    vocabulary = shipped_vocabulary("coco")
    forms = {form: thing for name, thing in NAMES.items() for form in (name, *plurals(name))}
    different = {form for form, thing in forms.items() if vocabulary.mentions(f"Here, the {form}.") != [thing]}
    assert different == set()
    assert len(forms) > 780


def test_the_vocabulary_has_the_objects_of_coco():
    assert (len(DATA["objects"]), len(NAMES)) == (80, 403)
    assert all(thing in names for thing, names in DATA["objects"].items())


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("a baby elephant and a baby", ["elephant", "person"]),
        ("a toilet seat and a seat", ["toilet"]),
        ("a urinal and a seat", ["toilet", "chair"]),
        ("the batter at home plate", []),
        ("a bow tie", ["tie"]),
        ("dog, cat; bird", ["dog", "cat", "bird"]),
        ("hot, dog", ["dog"]),
        ("the dog's and dogs' bowl", ["dog", "dog", "bowl"]),
        ("a dog.a cat", ["cat"]),
    ],
)
def test_the_rules_of_chair(caption, objects):
    assert shipped_vocabulary("coco").mentions(caption) == objects


def test_a_name_of_the_vocabulary_goes_before_the_phrases_of_chair():
    assert mentioned_objects("at home plate", {"home plate": "base"}) == ["base"]
    assert mentioned_objects("a baby dog", {"baby dog": "puppy", "dog": "dog"}) == ["puppy"]
    assert mentioned_objects("a baby dog", {"dog": "dog", "baby": "person"}) == ["dog"]


@pytest.mark.parametrize(
    ("word", "one"),
    [
        ("houses", "house"), ("horses", "horse"), ("blouses", "blouse"), ("viruses", "virus"), ("octopuses", "octopus"),
        ("wolves", "wolf"), ("leaves", "leaf"), ("shelves", "shelf"), ("scarves", "scarf"), ("gloves", "glove"),
        ("olives", "olive"), ("stoves", "stove"), ("tomatoes", "tomato"), ("shoes", "shoe"), ("policemen", "policeman"),
        ("cities", "city"), ("movies", "movie"), ("glasses", "glass"), ("specimen", "specimen"), ("tennis", "tennis"),
    ],
)  # fmt: skip
def test_the_singular_of_endings_with_exceptions(word, one):
    assert singular(word) == one


def test_words_are_split_from_marks_and_contractions():
    assert split_words("The dog's \"ball\" isn't red-hot.") == [
        "the", "dog", "'s", '"', "ball", '"', "is", "n't", "red-hot", ".",
    ]  # fmt: skip


def test_an_example_can_name_a_shipped_vocabulary():
    example = Example("e", (), "?", ("a",), secret={"objects": ["person"], "vocabulary": "coco"})
    assert ChairI().score(Generation("a man and a bus"), example) == 0.5
    unknown = Example("e", (), "?", ("a",), secret={"objects": ["person"], "vocabulary": "cocoa"})
    with pytest.raises(DataError, match=r"There is no vocabulary 'cocoa'\. Shipped are 'coco' and 'coco_released'"):
        ChairI().score(Generation("a man"), unknown)
