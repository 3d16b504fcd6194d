"""Errors about an old name say the new one."""

import pytest

from icl.errors import ConfigError
from icl.registry import PACKAGES, build, entries
from icl.renamed_names import RENAMED, RENAMED_WORDS, new_name, suggest


def test_a_row_answers_only_where_the_new_name_is_valid(monkeypatch):
    monkeypatch.setitem(RENAMED, "parameter:reach", "num_candidates")
    assert new_name("parameter", "reach", ["num_candidates"]) == "num_candidates"
    assert new_name("parameter", "reach", ["k"]) is None
    assert new_name("component", "reach", ["num_candidates"]) is None


def test_a_row_may_belong_to_one_component(monkeypatch):
    monkeypatch.setitem(RENAMED, "parameter:knn.size", "k")
    monkeypatch.setitem(RENAMED, "parameter:size", "side")
    assert new_name("parameter", "size", ["k", "side"], "knn") == "k"
    assert new_name("parameter", "size", ["k", "side"], "random") == "side"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("no_picture", "no_image"),
        ("pictures", "images"),
        ("mean_colour", "mean_color"),
        ("normalise", "normalize"),
        ("labelled", "labeled"),
        ("centred", "centered"),
    ],
)
def test_a_renamed_word_is_recognized_inside_a_name(old, new):
    assert new_name("component", old, [new]) == new


def test_the_end_of_the_sentence_names_the_new_name_or_the_nearest_one():
    assert suggest("parameter", "picture", ["image"]) == ": it is now 'image'."
    assert suggest("parameter", "imgae", ["image"]) == ". Did you mean 'image'?"
    assert suggest("parameter", "zzz", ["image"]) == "."


@pytest.mark.parametrize(
    ("kind", "node", "message"),
    [
        ("strategy", "no_picture", "no strategy named 'no_picture': it is now 'no_image'. (icl ls strategy)"),
        ("edit", "mean_colour", "no edit named 'mean_colour': it is now 'mean_color'. (icl ls edit)"),
        ("embedder", "centred", "no embedder named 'centred': it is now 'centered'."),
        ("transform", "pictures", "no transform named 'pictures': it is now 'images'."),
        ("retriever", {"name": "knn", "by": "picture"}, "not 'picture': it is now 'image'."),
    ],
)
def test_an_old_name_is_answered_with_the_new_one(kind, node, message):
    with pytest.raises(ConfigError) as error:
        build(kind, node)
    assert message in str(error.value)


def test_an_old_parameter_is_answered_with_the_new_one(monkeypatch):
    monkeypatch.setitem(RENAMED, "parameter:knn.similarity_input", "by")
    with pytest.raises(ConfigError, match=r"retriever 'knn' has no parameter 'similarity_input': it is now 'by'\."):
        build("retriever", {"name": "knn", "similarity_input": "image"})


def test_every_component_row_leads_to_a_component():
    names = {name for kind in PACKAGES for name in entries(kind)}
    rows = {old: new for old, new in RENAMED.items() if old.startswith("component:")}
    assert set(rows.values()) <= names
    assert not {old.removeprefix("component:") for old in rows} & names


def test_no_component_has_an_old_word_in_its_name():
    for kind in PACKAGES:
        for name in entries(kind):
            assert not any(word in name.split("_") for word in RENAMED_WORDS)
