"""CoBSAT in text mode: what is latent, what the query has, and the score of a description."""

import pytest

from icl.errors import ConfigError
from icl.metrics.published_rules import names_one_word
from icl.registry import build
from icl.testing import check_task
from icl.types import Generation


def task(**parameters):
    return build("task", {"name": "cobsat", "queries": 40, **parameters})


@pytest.mark.parametrize("latent", ["attribute", "shape"])
def test_the_latent_word_is_in_the_images_and_descriptions_and_in_no_text(latent: str) -> None:
    cobsat = task(latent=latent)
    for query in cobsat.queries:
        word, pool = query.secret["latent"], cobsat.pool(query.id).examples
        assert not query.images
        assert query.question == query.secret["text"]
        assert len({e.question for e in pool}) == len(pool) == 7
        for example in pool:
            assert word in example.answer.split()
            assert word not in example.question
            assert example.question != query.question
            assert word in (example.images[0].load.color, example.images[0].load.shape)


def test_it_keeps_the_promises_of_a_task_for_every_attribute() -> None:
    for attribute, support in (("color", 7), ("texture", 7), ("size", 2)):
        check_task(task(attribute=attribute, queries=10))
        check_task(task(attribute=attribute, latent="shape", support=min(support, 3 if attribute == "texture" else 9),
                        queries=10))  # fmt: skip
    with pytest.raises(ConfigError, match="support 8 is more than the 7 other words"):
        task(support=8)


def test_a_description_names_both_words_and_no_other_of_their_lists() -> None:
    words = ["red", "blue"]
    assert names_one_word("A Red star.", "red", words)
    assert not names_one_word("a red and blue star", "red", words)
    assert not names_one_word("a reddish star", "red", words)
    query = task().queries[0]
    latent, text = query.secret["latent"], query.secret["text"]
    other = next(word for word in query.meta["words"]["latent"] if word != latent)

    def score(output: str, of: str) -> float | None:
        return build("metric", {"name": "cobsat", "of": of}).score(Generation(output), query)

    assert [score(f"a {latent} {text}", of) for of in ("both", "latent", "text")] == [1, 1, 1]
    assert [score(f"a {other} {text}", of) for of in ("both", "latent", "text")] == [0, 0, 1]
    assert [score(latent, of) for of in ("both", "latent", "text")] == [0, 1, 0]
