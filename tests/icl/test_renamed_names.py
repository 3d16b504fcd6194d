"""Errors about an old name give the new one."""

from dataclasses import fields

import pytest

from experiments.analyses.catalog import find_analysis, list_analyses
from experiments.config.keys import KEYS, CompareSpec
from icl.component_node import RENAMED, RENAMED_WORDS, new_name, suggest
from icl.errors import ConfigError
from icl.parameter_docs import parameter_docs
from icl.registry import PACKAGES, build, entries, resolve


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
    assert set(rows("component").values()) <= names
    assert not set(rows("component")) & names


def rows(kind: str) -> dict[str, str]:
    return {old.partition(":")[2]: new for old, new in RENAMED.items() if old.startswith(f"{kind}:")}


def test_every_row_is_of_one_kind_and_renames_something() -> None:
    assert sorted(RENAMED) == sorted(
        f"{kind}:{old}" for kind in ("component", "parameter", "key", "value", "analysis") for old in rows(kind)
    )
    assert [old for old, new in RENAMED.items() if old.partition(":")[2].rpartition(".")[2] == new] == []
    assert not set(RENAMED_WORDS) & set(RENAMED_WORDS.values())


def test_every_parameter_row_leads_to_a_parameter() -> None:
    parameters = {
        name: {doc.key for doc in parameter_docs(resolve(kind, name))} for kind in PACKAGES for name in entries(kind)
    }
    for old, new in rows("parameter").items():
        component, _, parameter = old.rpartition(".")
        owners = [parameters[component]] if component else [keys for keys in parameters.values() if new in keys]
        assert owners, old
        assert all(new in keys and parameter not in keys for keys in owners), old


def test_every_value_row_leads_to_a_value() -> None:
    values = {
        value
        for kind in PACKAGES
        for name in entries(kind)
        for doc in parameter_docs(resolve(kind, name))
        for value in doc.kind.replace(",", " ").split()
    }
    assert set(rows("value").values()) <= values


def test_every_key_row_leads_to_a_key_of_the_experiment_file() -> None:
    keys = {*KEYS, *(f.name for f in fields(CompareSpec))}
    assert set(rows("key").values()) <= keys
    assert not set(rows("key")) & keys


def test_every_analysis_row_leads_to_an_analysis() -> None:
    assert set(rows("analysis").values()) <= set(list_analyses())
    assert not set(rows("analysis")) & set(list_analyses())
    with pytest.raises(ConfigError, match=r"no analysis named 'pool': it is now 'pool_coverage'\. There are "):
        find_analysis("pool")


def test_an_old_preset_is_answered_with_the_new_one() -> None:
    with pytest.raises(
        ConfigError, match=r"'cad' has no preset 'summarisation': it is now 'summarization'\. Presets: "
    ):
        build("strategy", {"name": "cad", "preset": "summarisation"})


def test_no_component_has_an_old_word_in_its_name():
    for kind in PACKAGES:
        for name in entries(kind):
            assert not any(word in name.split("_") for word in RENAMED_WORDS)
