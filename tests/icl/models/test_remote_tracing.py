"""Traces of responses of servers."""

import pytest

from icl.models.remote_tracing import _trace


@pytest.mark.parametrize("end", [[], [""], ["<end>"]])
def test_the_token_that_ends_an_answer_is_none_of_its_tokens(end):
    steps = [
        {"token": token, "top_logprobs": [{"token": token, "logprob": -0.1}, {"token": "b", "logprob": -9999.0}]}
        for token in ["dark", " red", *end]
    ]
    choice = {"message": {"content": "dark red"}, "finish_reason": "stop", "logprobs": {"content": steps}}
    trace = _trace({"choices": [choice], "usage": {"prompt_tokens": 7}, "prompt_token_ids": [1, 2]})
    assert (trace.tokens, trace.stopped, trace.answer) == (("dark", " red"), True, "dark red")
    assert trace.margins[0] == pytest.approx(99.9)
    assert (trace.ids, trace.prompt_tokens) == ((1, 2), 7)
