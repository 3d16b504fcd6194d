from typing import Any

import pytest

from decoding.lockstep.wanted import wanted
from icl.errors import ConfigError


def asked(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Which colour?"}], "vllm_xargs": {"strategy": "greedy"}, **more}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"stop": 5}, "stop is a text or a list of texts, not 5."),
        ({"stop": {"a": 1}}, "stop is a text or a list of texts, not {'a': 1}."),
        ({"stop": ["a", ""]}, "stop is a text or a list of texts, not ['a', '']."),
        ({"max_tokens": 0}, "max_tokens is a number of tokens, at least 1, not 0."),
        ({"n": 2}, "n: a request with a strategy gives one plain answer; leave it out."),
    ],
)
def test_a_request_that_cannot_be_meant_is_a_sentence(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        wanted(asked(**more))
    assert str(error.value) == sentence


@pytest.mark.parametrize(("said", "stop"), [(None, ()), ("END", ("END",)), (["a", "b"], ("a", "b"))])
def test_a_request_stops_at_one_text_or_at_several(said: Any, stop: tuple[str, ...]) -> None:
    assert wanted(asked(stop=said)).stop == stop
