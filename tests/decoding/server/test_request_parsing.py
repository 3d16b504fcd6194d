"""Parsing of chat requests with a strategy, without a server."""

import base64
from typing import Any

import pytest
from PIL import Image as PILImage

from decoding.lockstep.request_metadata import METADATA_KEY
from decoding.server.request_parsing import (
    MAX_CHARACTERS,
    MAX_OPTIONS,
    ExtendedOptions,
    extension_without_strategy,
    names_group,
    names_strategy,
    parse_request,
)
from icl.errors import ConfigError, DataError, ICLError
from icl.images import Image
from icl.models.chat_messages import data_url
from icl.models.icl_server import named_messages
from icl.streams import StreamKey
from icl.text.reasoning_blocks import FORCED_TOKENS
from icl.types import Part, Prompt, Turn

STOP = "stop must be a string or a list of strings, at most 64 of at most 1024 characters"
OPTIONS = "icl.options must be a list of at most 256 strings, each once"


def chat_body(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Which color?"}], "vllm_xargs": {"strategy": "greedy"}, **more}


def user(*pieces: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(pieces)}


def image(red: int) -> Image:
    return Image.from_pil(PILImage.new("RGB", (4, 4), (red, 0, 0)), f"image {red}")


def image_piece(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": url}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"stop": 5}, "stop must be a string or a list of strings, at most 64 of at most 1024 characters, not 5."),
        (
            {"stop": {"a": 1}},
            "stop must be a string or a list of strings, at most 64 of at most 1024 characters, not {'a': 1}.",
        ),
        (
            {"stop": ["a", ""]},
            "stop must be a string or a list of strings, at most 64 of at most 1024 characters, not ['a', ''].",
        ),
        (
            {"stop": ["a", 1]},
            "stop must be a string or a list of strings, at most 64 of at most 1024 characters, not ['a', 1].",
        ),
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1, not 0."),
        ({"max_tokens": 2.0}, "max_tokens must be an integer of at least 1, not 2.0."),
        ({"max_tokens": True}, "max_tokens must be an integer of at least 1, not True."),
        (
            {"max_tokens": 5, "max_completion_tokens": -1},
            "max_completion_tokens must be an integer of at least 1, not -1.",
        ),
        ({"n": 2}, "n: a request with a strategy returns one plain answer. Remove this field."),
        ({"logprobs": True}, "logprobs: a request with a strategy returns one plain answer. Remove this field."),
        ({"tools": [{}]}, "tools: a request with a strategy returns one plain answer. Remove this field."),
        (
            {"response_format": {}},
            "response_format: a request with a strategy returns one plain answer. Remove this field.",
        ),
        (
            {"presence_penalty": 1.5, "echo": True},
            "presence_penalty, echo: a request with a strategy returns one plain answer. Remove this field.",
        ),
        (
            {"logit_bias": {"5": 9}},
            "logit_bias: a request with a strategy returns one plain answer. Remove this field.",
        ),
        (
            {"max_token": 5},
            "max_token: a request with a strategy returns one plain answer. Remove this field. Did you mean "
            "'max_tokens'?",
        ),
        ({"stop": ["a"] * 65}, f"{STOP}, not {['a'] * 65!r:.80}."),
        ({"stop": "a" * 1025}, f"{STOP}, not '{'a' * 79}."),
        ({"max_thinking_tokens": -1}, "max_thinking_tokens must be an integer from 0 to 100000, not -1."),
        ({"max_thinking_tokens": 10**6}, "max_thinking_tokens must be an integer from 0 to 100000, not 1000000."),
        ({"max_thinking_tokens": True}, "max_thinking_tokens must be an integer from 0 to 100000, not True."),
        (
            {"max_thinking_tokens": 9, "stop": "."},
            "stop would also end the reasoning. Remove it, or max_thinking_tokens.",
        ),
        ({"user": "u" * 1025}, f"user must be a string of at most 1024 characters, not '{'u' * 79}."),
        ({"user": {"a": 1}}, "user must be a string of at most 1024 characters, not {'a': 1}."),
        ({"model": ["tiny"]}, "model must be a string of at most 1024 characters, not ['tiny']."),
        ({"stream": "no"}, "stream must be true or false, not 'no'."),
        ({"seed": 2**63}, "seed must be an integer of 64 bits, not 9223372036854775808."),
        ({"seed": "x"}, "seed must be an integer of 64 bits, not 'x'."),
        ({"seed": True}, "seed must be an integer of 64 bits, not True."),
        (
            {"icl": 5},
            "icl must be a mapping with the keys trace, top, options, normalize, reasoning, other, day, not 5.",
        ),
        (
            {"icl": {"tracing": 1}},
            "icl must be a mapping with the keys trace, top, options, normalize, reasoning, other, day, not "
            "{'tracing': 1}.",
        ),
        ({"icl": {"options": "red"}}, f"{OPTIONS}, not 'red'."),
        ({"icl": {"options": ["red", ""]}}, f"{OPTIONS}, not ['red', '']."),
        ({"icl": {"options": ["red", 5]}}, f"{OPTIONS}, not ['red', 5]."),
        ({"icl": {"options": ["a", "b", "a"]}}, f"{OPTIONS}, not ['a', 'b', 'a']."),
        ({"icl": {"options": list(map(str, range(257)))}}, f"{OPTIONS}, not {list(map(str, range(257)))!r:.80}."),
        (
            {"icl": {"options": ["a", "b"]}, "max_thinking_tokens": 9},
            "options are scored after the reasoning that icl.reasoning contains. Remove max_thinking_tokens, or "
            "icl.options.",
        ),
        ({"icl": {"reasoning": "Hm."}}, "icl.reasoning: it precedes options. Add icl.options, or remove it."),
        ({"icl": {"normalize": "words"}}, "icl.normalize must be one of sum, mean, bytes, not 'words'."),
        ({"icl": {"day": "today"}}, "icl.day must be a date, such as 2026-12-01, not 'today'."),
        ({"icl": {"top": -1}}, "icl.top must be a number of tokens, at most 256, not -1."),
        ({"icl": {"top": 257}}, "icl.top must be a number of tokens, at most 256, not 257."),
        ({"icl": {"top": 1.5}}, "icl.top must be a number of tokens, at most 256, not 1.5."),
        ({"icl": {"top": True}}, "icl.top must be a number of tokens, at most 256, not True."),
        ({"icl": {"other": []}}, "icl.other must be the prompt of another sample: a mapping with messages, not []."),
        ({"icl": {"other": {"messages": []}}}, "icl.other.messages must be a list with at least one message, not []."),
        (
            {"icl": {}, "stream": True},
            "icl: these results are available for complete answers only. Remove stream and stop.",
        ),
        (
            {"icl": {}, "stop": "."},
            "icl: these results are available for complete answers only. Remove stream and stop.",
        ),
    ],
)
def test_an_invalid_request_is_an_error_with_a_message(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_request(chat_body(**more))
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        (None, "messages must be a list with at least one message, not None."),
        ({"role": "user"}, "messages must be a list with at least one message, not {'role': 'user'}."),
        ([{"role": "assistant", "content": "red"}], "messages has no message of role 'user'."),
        (["hello"], "messages[0] must be a mapping with a role and content, not 'hello'."),
        (["hello", user({})], "messages[0] must be a mapping with a role and content, not 'hello'."),
        ([{"role": "tool"}, user({})], "messages[0].role must be system, user or assistant, not 'tool'."),
        ([user()], "messages[0].content must be a string, or a list of texts and images, not []."),
        ([{"role": "user", "content": 5}],
         "messages[0].content must be a string, or a list of texts and images, not 5."),
        ([user("x")], "messages[0].content[0] must be a mapping of type text or image_url, not 'x'."),
        ([user({"type": "text", "text": 5})], "messages[0].content[0].text must be a string, not 5."),
        ([user({"type": "text", "text": "x"}, {"type": "audio"})],
         "messages[0].content[1] must be a mapping of type text or image_url, not {'type': 'audio'}."),
        ([user({"type": "text", "text": "x", "name": "a b"})],
         "messages[0].content[0].name must be the name of a span, such as demo[0].answer, not 'a b'."),
        ([user({"type": "text", "text": "x", "name": 7})],
         "messages[0].content[0].name must be the name of a span, such as demo[0].answer, not 7."),
        ([user({"type": "text", "text": "x", "name": "a" * 81})],
         f"messages[0].content[0].name must be the name of a span, such as demo[0].answer, not '{'a' * 79}."),
        ([user(image_piece({"url": "https://example.com/a.png"}))],
         "messages[0].content[0]: send the image itself (data:image/png;base64,...). The server does not fetch URLs."),
        ([user(image_piece(5))],
         "messages[0].content[0]: send the image itself (data:image/png;base64,...). The server does not fetch URLs."),
    ],
)  # fmt: skip
def test_invalid_messages_are_an_error_with_a_message(messages: Any, sentence: str) -> None:
    with pytest.raises(ICLError) as error:
        parse_request(chat_body(messages=messages))
    assert str(error.value) == sentence


def test_a_thinking_budget_comes_on_top_of_the_answer() -> None:
    request = parse_request(chat_body(max_tokens=5, max_thinking_tokens=20))
    assert (request.max_thinking_tokens, request.max_output_tokens) == (20, 25 + FORCED_TOKENS)
    assert parse_request(chat_body(max_tokens=5)).max_output_tokens == 5
    assert parse_request(chat_body(max_thinking_tokens=20)).max_output_tokens is None


@pytest.mark.parametrize("body", [{"icl": {"top": 3}}, {"max_thinking_tokens": 0}])
def test_an_extension_without_a_strategy_is_noticed(body: dict[str, Any]) -> None:
    assert extension_without_strategy(body) == next(iter(body))
    assert extension_without_strategy({"icl": None, "max_thinking_tokens": None}) == ""
    assert extension_without_strategy([body]) == ""


def test_neutral_values_are_accepted() -> None:
    neutral = {"n": 1, "logprobs": False, "tools": None, "response_format": None, "seed": None, "icl": None}
    assert parse_request(chat_body(**neutral)) == parse_request(chat_body())


@pytest.mark.parametrize(("value", "stop"), [(None, ()), ("END", ("END",)), (["a", "b"], ("a", "b"))])
def test_a_request_stops_at_one_text_or_at_several(value: Any, stop: tuple[str, ...]) -> None:
    assert parse_request(chat_body(stop=value)).stop == stop


@pytest.mark.parametrize(
    ("fields", "limit"),
    [({}, None), ({"max_tokens": None}, None), ({"max_tokens": 1}, 1), ({"max_completion_tokens": 7}, 7),
     ({"max_completion_tokens": 7, "max_tokens": 9}, 7)],
)  # fmt: skip
def test_the_new_name_of_the_token_limit_has_priority(fields: Any, limit: int | None) -> None:
    assert parse_request(chat_body(**fields)).max_tokens == limit


def test_the_other_fields_of_a_request_are_parsed() -> None:
    plain = parse_request(chat_body())
    assert (plain.stream, plain.model, plain.token_ids, plain.extended, plain.stream_usage) == (
        False,
        "",
        False,
        None,
        False,
    )
    assert plain.prompt.key == StreamKey(0, "")
    full = parse_request(
        chat_body(
            stream=True, model="tiny", return_token_ids=True, stream_options={"include_usage": True}, seed=4, user="q"
        )
    )
    assert (full.stream, full.model, full.token_ids, full.extended, full.stream_usage) == (
        True,
        "tiny",
        True,
        None,
        True,
    )
    assert full.prompt.key == StreamKey(4, "q")
    assert not parse_request(chat_body(stream_options={"include_usage": False})).stream_usage
    assert not parse_request(chat_body(stream_options=[1])).stream_usage


def test_the_key_icl_is_parsed() -> None:
    assert parse_request(chat_body(icl={})).extended == ExtendedOptions()
    more = {"trace": True, "top": MAX_OPTIONS, "options": ["yes", "no"], "normalize": "bytes"}
    assert parse_request(chat_body(icl=more)).extended == ExtendedOptions(
        trace=True, top=256, options=("yes", "no"), normalize="bytes"
    )
    many = tuple(map(str, range(MAX_OPTIONS)))
    assert parse_request(chat_body(icl={"options": list(many)})).extended == ExtendedOptions(options=many)


def test_the_prompt_of_another_sample_is_the_paired_prompt() -> None:
    other = {"messages": [{"role": "user", "content": "Another?"}], "seed": 3, "user": "q9"}
    prompt = parse_request(chat_body(icl={"other": other}, seed=1)).prompt
    assert prompt.paired_prompt is not None
    assert prompt.paired_prompt.key == StreamKey(3, "q9")
    assert (prompt.paired_prompt.text, prompt.text, prompt.key) == (
        "[user] Another?", "[user] Which color?", StreamKey(1, ""),
    )  # fmt: skip
    assert parse_request(chat_body(icl={"other": None})).prompt.paired_prompt is None


def test_messages_become_demonstrations_and_the_query() -> None:
    first, second = image(10), image(20)
    messages = [
        {"role": "system", "content": "Answer briefly."},
        user(image_piece({"url": data_url(first)}), {"type": "text", "text": "Which?"}, {"type": "text", "text": "\n"}),
        {"role": "assistant", "content": "red"},
        user(image_piece(data_url(first)), image_piece(data_url(second)), {"type": "text", "text": "And?"}),
        {"role": "assistant", "content": "The"},
    ]
    prompt = parse_request(chat_body(messages=messages)).prompt
    assert [(turn.role, [part.name for part in turn.parts]) for turn in prompt.turns] == [
        ("system", ["instruction"]),
        ("user", ["demo[0].image[0]", "demo[0].question", ""]),
        ("assistant", ["demo[0].answer"]),
        ("user", ["query.image[0]", "query.image[1]", "query.question"]),
        ("assistant", ["demo[1].answer"]),
    ]
    assert [part.text for turn in prompt.turns for part in turn.parts if part.image is None] == [
        "Answer briefly.", "Which?", "\n", "red", "And?", "The",
    ]  # fmt: skip
    assert [image.digest for image in prompt.images] == [first.digest, first.digest, second.digest]


def test_a_prompt_survives_the_way_through_messages() -> None:
    parts = (Part(image(1), "query.image[0]"), Part("Question: ", ""), Part("Which?", "query.question"))
    demo = (Turn("user", (Part("Which?", "demo[0].question"),)), Turn("assistant", (Part("red", "demo[0].answer"),)))
    prompt = Prompt((*demo, Turn("user", parts)), StreamKey(2, "q1"))
    back = parse_request(chat_body(messages=named_messages(prompt), seed=2, user="q1")).prompt
    assert back.digest == prompt.digest
    assert back.key == prompt.key
    names = [[part.name for part in turn.parts] for turn in prompt.turns]
    assert [[part.name for part in turn.parts] for turn in back.turns] == names


def test_an_image_comes_from_the_request_itself() -> None:
    with pytest.raises(DataError, match=r"messages\[0\]\.content\[0\]: the image is not base64: "):
        parse_request(chat_body(messages=[user(image_piece("data:image/png;base64,?"))]))
    mangled = parse_request(
        chat_body(messages=[user(image_piece("data:image/png;base64," + base64.b64encode(b"no").decode()))])
    )
    with pytest.raises(ICLError, match=r"messages\[0\]\.content\[0\]"):  # it is opened later
        _ = mangled.prompt.images[0].digest


def test_texts_together_have_a_limit() -> None:
    half = {"role": "user", "content": "x" * (MAX_CHARACTERS // 2)}
    assert len(parse_request(chat_body(messages=[half, half])).prompt.turns) == 2
    with pytest.raises(DataError, match="more than 1048576 characters"):
        parse_request(chat_body(messages=[half, half, {"role": "user", "content": "x"}]))


@pytest.mark.parametrize(
    ("body", "strategy", "group"),
    [
        ({"vllm_xargs": {"strategy": "vcd"}}, True, False),
        ({"vllm_xargs": {METADATA_KEY: "{}"}}, False, True),
        ({"vllm_xargs": {"other": 1}}, False, False),
        ({"vllm_xargs": "strategy lockstep"}, False, False),
        ({"strategy": "vcd", METADATA_KEY: "{}"}, False, False),
        (["vllm_xargs"], False, False),
        (None, False, False),
    ],
)
def test_requests_with_a_strategy_or_a_group_are_recognized(body: Any, strategy: bool, group: bool) -> None:
    assert (names_strategy(body), names_group(body)) == (strategy, group)


def test_keys_that_change_no_answer_are_accepted() -> None:
    """Some clients send every default."""
    neutral = {"n": 1, "presence_penalty": 0.0, "tools": [], "logit_bias": None, "response_format": {"type": "text"}}
    idle = {"metadata": {"run": "7"}, "service_tier": "auto", "priority": 3, "max_completion_tokens": None}
    assert parse_request(chat_body(max_tokens=5, **neutral, **idle)) == parse_request(chat_body(max_tokens=5))
