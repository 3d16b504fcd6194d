"""AMBER from its released files to its scores, against the released rules written out again."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from icl.errors import DataError
from icl.metrics.base import ScoredSample
from icl.registry import build
from icl.testing import check_task
from icl.types import Generation

RELATED = {"sky": [], "grass": ["ground", "lawn"], "dog": ["puppy"], "ship": ["boat"], "person": ["man", "woman"],
           "sun": [], "lake": ["water"], "light": []}  # fmt: skip
TRUTHS = [(["sky", "grass", "dog"], ["sun", "person"]), (["ship", "ship", "lake"], ["person"])]
TEXTS = [
    "A puppy runs on the lawns under a clear sky. The dogs are happy, and the sun shines on a man.",
    "Two boats on the water, one light, and a woman with a woman in grass.",
]
TYPES = ("discriminative-attribute-state", "discriminative-hallucination")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder `data` of a release with two images, their descriptions and two questions about each."""
    folder = tmp_path / "AMBER" / "data"
    (folder / "query").mkdir(parents=True)
    (folder.parent / "image").mkdir()
    names = [f"AMBER_{i}.jpg" for i in (1, 2)]
    for i, name in enumerate(names):
        PILImage.new("RGB", (8, 8), (90 * i, 1, 2)).save(folder.parent / "image" / name)
    write(folder, "query/query_generative.json",
          [{"id": i, "image": name, "query": "Describe this image."} for i, name in enumerate(names, 1)])  # fmt: skip
    questions = [{"id": 3 + i, "image": names[i // 2], "query": f"Is it {i}?"} for i in range(4)]
    write(folder, "query/query_discriminative.json", questions)
    write(folder, "query/query_discriminative-existence.json", questions[1::2])
    annotations = [
        *(
            {"id": i, "type": "generative", "truth": truth, "hallu": hallu}
            for i, (truth, hallu) in enumerate(TRUTHS, 1)
        ),
        *({"id": 3 + i, "type": TYPES[i % 2], "truth": ("yes", "no")[i % 2]} for i in range(4)),
    ]
    write(folder, "annotations.json", annotations)
    write(folder, "relation.json", RELATED)
    (folder / "safe_words.txt").write_text("light\nrange\n")
    return folder


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def amber(folder: Path, **more: Any) -> Any:
    return build("task", {"name": "amber", "path": str(folder), **more}, "x.yaml:2")


SIMILAR = {"sun": ["sky"], "man": ["sun"], "grass": ["lake", "person"], "sky": ["grass"]}
"""Near synonyms, which the released code finds by word vectors."""


def is_near(word: str, other: str, similar: Any) -> bool:
    return word == other or other in similar.get(word, ())


def released(nouns: list[str], truth: list[str], hallu: list[str], similar: Any) -> tuple[int, int, int, int, int, int]:
    """(hallucinated, mentions, covered, objects, expected and named, expected) by the released loop over lists."""
    right = [
        *((word, i) for i, name in enumerate(truth) for word in RELATED[name]),
        *((n, i) for i, n in enumerate(truth)),
    ]
    false = [
        *((word, i) for i, name in enumerate(hallu) for word in RELATED[name]),
        *((n, i) for i, n in enumerate(hallu)),
    ]
    flags, covered, cognitive = 0, [0] * len(truth), [0] * len(hallu)
    for noun in nouns:
        if noun == "light":
            continue
        if noun in [word for word, _ in right]:
            covered[next(i for word, i in right if word == noun)] = 1
            continue
        if noun in [word for word, _ in false]:
            cognitive[next(i for word, i in false if word == noun)] = 1
        for word, i in false:
            if is_near(noun, word, similar):
                cognitive[i] = 1
                break
        for word, i in right:
            if is_near(noun, word, similar):
                covered[i] = 1
                break
        else:
            flags += 1
    return flags, len(nouns), sum(covered), len(truth), sum(cognitive), len(hallu)


def test_near_synonyms_are_lists_of_words(data: Path) -> None:
    for content, sentence in (
        ({"sun": "sky"}, "the value of 'sun' is not a list of words"),
        ({"sun": [3]}, "of 'sun' is not a list"),
        ([], "not a JSON object"),
    ):
        write(data, "similar.json", content)
        with pytest.raises(DataError, match=rf"similar\.json.* {sentence}"):
            _ = amber(data, part="generative", similar="similar.json").queries


@pytest.mark.parametrize("similar", [{}, SIMILAR])
def test_descriptions_are_scored_by_the_released_rules(data: Path, similar: Any) -> None:
    write(data, "similar.json", similar)
    more = {"similar": "similar.json"} if similar else {}
    task = amber(data, part="generative", pool_fraction=0, **more)
    assert [e.answer for e in task.queries] == ["sky, grass, dog", "ship, lake"]
    nouns = [["puppy", "lawn", "sky", "dog", "sun", "man"], ["boat", "water", "light", "woman", "woman", "grass"]]
    counts = [released(words, *truth, similar) for words, truth in zip(nouns, TRUTHS, strict=True)]
    sums = [sum(values) for values in zip(*counts, strict=True)]
    expected = {
        "amber_chair": sums[0] / sums[1], "amber_cover": sums[2] / sums[3], "amber_cog": sums[4] / sums[5],
        "amber_hal": sum(one[0] > 0 for one in counts) / 2,
    }  # fmt: skip
    assert [one[0] for one in counts] == ([1, 2] if similar else [2, 3])
    assert [one[1:] for one in counts] == [(6, 3, 3, 2, 2), (6, 2, 3, 1, 1)]
    for name, value in expected.items():
        metric = build("metric", name)
        scores = [metric.score(Generation(text=text), e) for text, e in zip(TEXTS, task.queries, strict=True)]
        assert all(0 <= score <= 1 for score in scores)
        samples = [ScoredSample(e.id, score, e.group) for e, score in zip(task.queries, scores, strict=True)]
        statistic = metric.run_level(samples).statistic if hasattr(metric, "run_level") else sum(scores) / 2
        assert statistic == pytest.approx(value), name


def test_questions_have_their_truth_and_share_no_image_with_the_pool(data: Path) -> None:
    task = amber(data)
    check_task(task)
    assert {e.group for e in task.queries}.isdisjoint({e.group for e in task.pool(task.queries[0].id).examples})
    assert [(e.answer, e.options, e.meta["type"]) for e in task.queries] == [
        ("yes", ("yes", "no"), TYPES[0]), ("no", ("yes", "no"), TYPES[1]),
    ]  # fmt: skip
    assert task.queries[0].images[0].open().size == (8, 8)
    existence = amber(data, part="existence", pool_fraction=0)
    assert [e.answer for e in existence.queries] == ["no", "no"]
    assert build("metric", "amber_chair").score(Generation(text="a dog"), task.queries[0]) is None


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("annotations.json", [{"id": 3, "type": "x", "truth": "yes"}], "annotations.json has no truth of query 4"),
        ("annotations.json", [{"id": 3, "type": "x", "truth": ["sky"]}], "the truth of query 3 is .*, not yes or no"),
        ("annotations.json", [{"id": 3, "type": "x"}], "entry 0 has no 'truth'. An entry has id, type, truth"),
        ("annotations.json", {"a": 1}, "annotations.json is not a JSON list"),
        ("query/query_discriminative.json", [{"id": 3}], "entry 0 has no 'image'"),
    ],
)
def test_files_that_do_not_fit_are_named(data: Path, name: str, content: Any, sentence: str) -> None:
    write(data, name, content)
    with pytest.raises(DataError, match=sentence):
        _ = amber(data, pool_fraction=0).queries
    with pytest.raises(DataError, match=r"query_discriminative\.json cannot be read .*`path` is the folder data of"):
        _ = amber(data.parent).queries
