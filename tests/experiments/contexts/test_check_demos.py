from types import SimpleNamespace
from typing import Any

from experiments.contexts.contexts import check_demos
from icl.types import Example, RetrievedExample


def test_a_retriever_that_returns_examples_is_a_sentence() -> None:
    example = Example("a", (), "what?", ("x",))
    pool: Any = SimpleNamespace(by_id={"a": example})
    retriever: Any = SimpleNamespace()
    wrong: Any = (example,)
    assert check_demos(retriever, wrong, 1, pool) == (
        "retriever SimpleNamespace returned a value of type Example, not a RetrievedExample."
    )
    right = (RetrievedExample("a"),)
    assert check_demos(retriever, right, 1, pool) == right
