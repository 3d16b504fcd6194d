"""Retrievers and rerankers that want an answer of the model, on the models that people use."""

from pathlib import Path
from typing import Any

import pytest

from experiments.api import load_model, load_task, retrieve, run
from icl.models.answer_likelihood import answers, demo_prompt
from icl.streams import StreamKey
from retrievers.machinery.encoder import Encoder

TASK: dict[str, Any] = {"name": "binding", "ways": 2, "queries": 2}
TINY = {"name": "hf", "path": "tiny"}


@pytest.mark.parametrize("keys", [{"retriever": "sqa"}, {"retriever": "random", "rerankers": ["caption"]}])
def test_they_run_on_a_model_with_sessions(keys: dict[str, Any], tmp_path: Path) -> None:
    config = {"name": "t", "task": TASK, "model": TINY, "shots": 2, "max_new_tokens": 4, **keys}
    frame = run(config, runs=tmp_path, quiet=True).samples()
    assert frame["failed"].isna().all()
    assert frame["demos"].map(len).tolist() == [2, 2]


def test_the_first_answer_is_that_of_the_shipped_model() -> None:
    """`sqa` searches by the question and the model's answer to the query alone. A knn by that text has equal scores."""
    task, model = load_task(**TASK), load_model(**TINY)
    query = task.queries[0]
    (caption,) = answers(model, [demo_prompt(query.query, [], StreamKey(0, query.id))], 16)
    assert caption
    context = retrieve("sqa", task, query, shots=3, model=model)
    pool = task.pool(query.id)
    texts = Encoder().embed_texts([f"{query.question} {caption}", *(f"{e.question} {e.answer}" for e in pool.examples)])
    scores = dict(zip((e.id for e in pool.examples), (texts[1:] @ texts[0]).tolist(), strict=True))
    assert [demo.score for demo in context.demos] == pytest.approx(
        [scores[d.example.id] for d in context.demos], abs=1e-4
    )
    best = sorted((s for i, s in scores.items() if i != query.id), reverse=True)[:3]
    assert sorted((demo.score for demo in context.demos), reverse=True) == pytest.approx(best, abs=1e-4)
