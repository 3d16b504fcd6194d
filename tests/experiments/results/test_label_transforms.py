"""Arms with other labels in their demonstrations: in no sentence on gains and retrieval, and one sentence says so."""

from collections.abc import Callable

import pytest

from experiments.results.loaded_run import load_run
from experiments.results.run_view import RunView
from experiments.results.view_run import view_run
from experiments.store.store import Store
from icl.registry import resolve


@pytest.fixture
def changed(written: Callable) -> Callable[..., RunView]:
    """A run whose arms with demonstrations, of these retrievers, have a transform."""

    def make(*transforms: dict, of: tuple[str, ...] = ("random", "knn")) -> RunView:
        run = written(tasks=("shapes",), queries=8)
        store = Store(run.path)
        for digest in store.read_run()["cells"]:
            cell = store.read_cell(digest)
            if cell["shots"] and cell["retriever"] in of:
                store.write_cell(digest, {**cell, "transforms": list(transforms)})
        return view_run(load_run(run.path))

    return make


def sentences(view: RunView, topic: str) -> list[str]:
    return [one.sentence for one in view.findings if one.topic == topic]


def test_arms_with_flipped_labels_have_no_gain_and_the_analysis_is_named(changed: Callable) -> None:
    view = changed({"name": "flip_labels"})
    assert sentences(view, "ICL gain") == sentences(view, "Retrieval") == []
    (sentence,) = [one for one in sentences(view, "Answers") if "followed" in one]
    assert "with flip_labels a lower score" in sentence
    assert sentence.endswith("see `icl analyze RUN label_following`.")


def test_other_arms_of_the_run_keep_their_sentences(changed: Callable) -> None:
    view = changed({"name": "symbols", "words": []}, of=("knn",))
    (gain,) = sentences(view, "ICL gain")
    assert "random at" in gain
    assert "knn" not in gain
    assert sentences(view, "Retrieval") == []
    assert sentences(view, "Decoding")


def test_wrong_labels_have_an_analysis_of_their_own_and_a_share_of_none_is_no_change(changed: Callable) -> None:
    (sentence,) = [
        one for one in sentences(changed({"name": "noisy_labels", "share": 0.5}), "Answers") if "followed" in one
    ]
    assert "`icl analyze RUN noisy_labels`" in sentence
    view = changed({"name": "noisy_labels", "share": 0}, {"name": "captions"})
    assert not [one for one in sentences(view, "Answers") if "followed" in one]
    assert sentences(view, "ICL gain")
    assert sentences(view, "Retrieval")


def test_a_transform_says_itself_which_analysis_tells_of_it(changed: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve("transform", "captions"), "analysis", "copying", raising=False)
    (sentence,) = [one for one in sentences(changed({"name": "captions"}), "Answers") if "followed" in one]
    assert sentence.startswith("with captions a lower score")
    assert sentence.endswith("see `icl analyze RUN copying`.")
