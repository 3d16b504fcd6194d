"""Servers that cannot be probed, in a sentence."""

import json

import httpx2
import pytest

from icl.probe.prompts import user
from icl.probe.run import base_address
from icl.probe.server import RefusedError, Server, UnusableServerError
from icl.testing.vision_server import VisionServer

CHAT = VisionServer()
HTML = "<html><body>It works!</body></html>"


def server(respond, model="shapes", **more):
    def by_path(request):
        return respond(request) if request.method == "POST" else CHAT.respond(request)

    return Server("http://test/v1", model, transport=httpx2.MockTransport(by_path), **more)


def reply(status, **content):
    return lambda _: httpx2.Response(status, **content)


def has_images(request):
    return b"image_url" in request.content


@pytest.mark.parametrize(
    ("respond", "sentence"),
    [
        (reply(401, json={"error": "no"}), r"asks for a key \(status 401\).*--key-env NAME"),
        (reply(403, json={"error": "no"}), r"asks for a key"),
        (reply(200, text=HTML), r"does not take a text: the response is not JSON: <html>"),
        (reply(200, text='{"choices": [{"mess'), r"the response is not JSON"),
        (reply(200, json={"ok": True}), r"the response is no chat completion"),
        (reply(404, json={"error": {"message": "no such model"}}), r"does not take a text: status 404.*no such model"),
        (
            lambda request: (
                reply(400, json={"error": "text only"})(request) if has_images(request) else CHAT.respond(request)
            ),
            r"model 'shapes' at http://test/v1 does not take an image: status 400.*text only",
        ),
    ],
)
def test_a_server_that_cannot_be_probed_is_a_sentence(respond, sentence):
    with pytest.raises(UnusableServerError, match=sentence):
        server(respond).connect()


@pytest.mark.parametrize(
    ("status", "sentence"), [(429, "limits the rate"), (503, "is not ready: it may still load its model")]
)
def test_a_busy_server_is_asked_again_and_then_a_sentence(status, sentence, monkeypatch):
    waited = []
    monkeypatch.setattr("icl.probe.server.time.sleep", waited.append)
    with pytest.raises(UnusableServerError, match=sentence):
        server(reply(status, text="busy", headers={"Retry-After": "7"})).connect()
    assert waited == [7.0, 7.0, 7.0]


def test_a_server_that_recovers_is_probed(monkeypatch):
    monkeypatch.setattr("icl.probe.server.time.sleep", lambda _: None)
    left = [503, 429]
    recovering = server(lambda request: httpx2.Response(left.pop()) if left else CHAT.respond(request))
    assert recovering.connect()["model"] == "shapes"


def test_an_internal_error_counts_only_if_it_repeats():
    left = [500]
    failing_once = server(lambda request: httpx2.Response(left.pop()) if left else CHAT.respond(request))
    assert failing_once.answer(user("A")).top
    with pytest.raises(RefusedError, match="status 500"):
        server(reply(500)).answer(user("A"))


def test_a_dropped_connection_is_no_verdict():
    left = [httpx2.ReadError("gone"), httpx2.RemoteProtocolError("gone")]

    def respond(request):
        if left:
            raise left.pop()
        return CHAT.respond(request)

    assert server(respond).answer(user("A")).top


def test_a_server_that_is_down_is_a_sentence():
    with pytest.raises(UnusableServerError, match=r"no server answers at http://127.0.0.1:9/v1.*Is it running"):
        Server("http://127.0.0.1:9/v1", "").connect()


def test_a_request_that_takes_too_long_is_refused():
    def respond(_):
        raise httpx2.ReadTimeout("slow")

    with pytest.raises(RefusedError, match="no answer within 3 s"):
        server(respond, timeout=3.0).answer(user("A"))


def test_the_model_is_chosen_if_there_is_one_and_named_if_there_are_several():
    assert server(CHAT.respond, model="").connect()["model"] == "shapes"
    with pytest.raises(UnusableServerError, match="serves no model 'other', but shapes"):
        server(CHAT.respond, model="other").connect()

    def two(request):
        return httpx2.Response(200, json={"data": [{"id": "one"}, {"id": "two"}]})

    several = Server("http://test/v1", "", transport=httpx2.MockTransport(two))
    with pytest.raises(UnusableServerError, match=r"serves one, two. Name one"):
        several.connect()


def test_a_page_in_place_of_the_list_of_models_asks_for_the_base_address():
    pages = Server("http://test", "", transport=httpx2.MockTransport(reply(200, text=HTML)))
    with pytest.raises(UnusableServerError, match=r"is not a list of models: <html>.*mostly ends in /v1"):
        pages.connect()


def test_fewer_log_probabilities_are_asked_for_if_twenty_are_refused():
    def at_most_5(request):
        if json.loads(request.content).get("top_logprobs", 0) > 5:
            return httpx2.Response(400, json={"error": "top_logprobs must be at most 5"})
        return CHAT.respond(request)

    limited = server(at_most_5)
    limited.connect()
    assert (limited.listed, limited.of_texts) == (5, False)


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("https://host/openai/v1", "https://host/openai/v1"),
        ("http://host/v1/", "http://host/v1/"),
    ],
)
def test_the_address_gets_a_scheme_and_v1(written, address):
    assert base_address(written) == address


def completion(**choice):
    return {"choices": [{"message": {"content": "a"}, **choice}], "usage": {"prompt_tokens": 3}}


@pytest.mark.parametrize(
    "content",
    [
        {"choices": {"0": 1}},
        {"choices": [None]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": ["a"]}}]},
        {**completion(), "usage": [1]},
        completion(logprobs=["a"]),
        completion(logprobs={"content": [None]}),
        completion(logprobs={"content": [{"top_logprobs": [None]}]}),
        completion(logprobs={"content": [{"top_logprobs": [{"logprob": -1.0}]}]}),
        completion(logprobs={"content": [{"top_logprobs": [{"token": "a", "logprob": "x"}]}]}),
    ],
)
def test_a_response_of_another_shape_is_a_refusal(content):
    with pytest.raises(RefusedError, match=r"chat completion|has no text|not of the protocol"):
        server(reply(200, json=content)).answer(user("A"))


def test_deep_long_and_wrongly_packed_responses_are_refusals():
    deep = "[" * 200_000
    for respond, sentence in (
        (reply(200, text=deep), "is not JSON"),
        (lambda _: httpx2.Response(200, stream=httpx2.ByteStream(b"x" * (17 * 2**20))), "more than 16 MiB"),
        (
            lambda _: httpx2.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx2.ByteStream(b"no gzip")),
            "cannot be read",
        ),
    ):
        with pytest.raises(RefusedError, match=sentence):
            server(respond).answer(user("A"))


@pytest.mark.parametrize(("header", "seconds"), [("nan", 30.0), ("-5", 0.0), ("1e9", 30.0), ("Wed, 1 Dec", 1.0)])
def test_an_odd_time_to_wait_is_kept_within_bounds(header, seconds, monkeypatch):
    waited = []
    monkeypatch.setattr("icl.probe.server.time.sleep", waited.append)
    left = [header]
    busy = server(lambda r: httpx2.Response(429, headers={"Retry-After": left.pop()}) if left else CHAT.respond(r))
    assert busy.answer(user("A")).top
    assert waited == [seconds]


def test_a_list_of_models_that_does_not_arrive_is_a_sentence():
    def drop(_):
        raise httpx2.RemoteProtocolError("gone")

    with pytest.raises(UnusableServerError, match=r"/models: the connection broke 4 times"):
        Server("http://test/v1", "", transport=httpx2.MockTransport(drop)).connect()
