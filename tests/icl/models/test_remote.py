"""An endpoint over real HTTP: requests, retries, errors that end a run, and what records must not contain."""

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import completion, listed
from PIL import Image as PILImage

from decoding.arms.arm import parse_arm
from decoding.engine.requests import Counters, DecodingRequest, Failure
from decoding.engine.server_engine import run_requests
from icl import __version__, edits
from icl.errors import ConfigError, ModelError, PlanError
from icl.images import Image
from icl.models.base import Request
from icl.models.chat_messages import messages
from icl.models.endpoint import EndpointUnavailableError
from icl.models.remote import Remote
from icl.registry import build, entries
from icl.streams import StreamKey
from icl.testing.conformance import check_model
from icl.types import Generation, Part, Prompt, Turn, Usage

SHAPES = Path(__file__).parents[2] / "experiments" / "shapes.py"
PLAIN = Path(__file__).with_name("plain_strategy.py")


def image(level: int = 90) -> Image:
    return Image.from_pil(PILImage.new("RGB", (5, 4), (level, 10, 200)), f"gray {level}")


def request(question: str = "what?", options: tuple[str, ...] = (), scored: bool = False) -> Request:
    turns = (
        Turn("user", (Part(image(1), "demo[0].image[0]"), Part("Q: "), Part("what?", "demo[0].question"))),
        Turn("assistant", (Part("a dog", "demo[0].answer"),)),
        Turn("user", (Part(image(2), "query.image[0]"), Part(question, "query.question"))),
    )
    return Request(Prompt(turns), options, 6, score_options=scored)


@pytest.fixture
def remote(server: Any) -> Callable[..., Remote]:
    return lambda **more: Remote(**{"url": server.url, "model": "m", "backoff": 0.01, "retries": 2, **more})


def test_it_is_a_component_and_passes_the_checks_of_every_model(server: Any, remote: Callable[..., Remote]) -> None:
    assert entries("model")["remote"].target == "icl.models.remote:Remote"
    likeliest = dict.fromkeys(("dog", "cat", "wildcat", "yes", "no", "1", "2", "3"), 0.02) | {
        "yes": 0.1,
        "2": 0.1,
        "cat": 0.1,
    }

    def answer(number: int, body: dict[str, Any]) -> Any:
        words = body["messages"][-1]["content"][-1]["text"].split()
        tokens = {words[0]: 0.02} | likeliest | {words[-1]: 0.4}
        more = {"logprobs": listed(tokens)} if "logprobs" in body else {}
        return 200, {}, completion(" ".join(words[: body["max_tokens"] - 1]), **more)

    server.behavior = answer
    check_model(remote())


def test_images_go_as_png_in_their_places_and_neighboring_texts_as_one(
    server: Any, remote: Callable[..., Remote]
) -> None:
    (answer,) = remote(extra={"seed": 3}).generate([request()])
    (body,) = server.bodies
    assert answer.text == "a cat"
    assert (answer.usage.prompt_tokens, answer.usage.new_tokens, answer.finish) == (7, 3, "stop")
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("m", 0, 6, 3)
    assert "logprobs" not in body
    assert server.headers[0]["path"] == "/v1/chat/completions"
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == "a dog"
    image_piece, text_piece = body["messages"][0]["content"]
    assert text_piece == {"type": "text", "text": "Q: what?"}
    head, _, data = image_piece["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    image = PILImage.open(io.BytesIO(base64.b64decode(data)))
    assert (image.format, image.size, image.getpixel((0, 0))) == ("PNG", (5, 4), (1, 10, 200))


def test_edits_of_images_are_sent_and_edits_of_processed_pixels_refused() -> None:
    blank = request().prompt.edit(edits.Blank())
    first, second = (messages(prompt)[0]["content"][0]["image_url"]["url"] for prompt in (request().prompt, blank))
    assert first != second
    with pytest.raises(ModelError, match="the edit DiffusionNoise changes processed pixels, but an endpoint"):
        messages(request().prompt.edit(edits.DiffusionNoise(500)))


def test_answers_come_in_order_and_never_more_than_allowed_are_in_flight(
    server: Any, remote: Callable[..., Remote]
) -> None:
    def slow(number: int, body: dict[str, Any]) -> str:
        time.sleep(0.03 if number % 2 else 0.01)
        return "it is " + body["messages"][-1]["content"][-1]["text"]

    server.behavior = slow
    model = remote(concurrency=3)
    answers = model.generate([request(f"q{i}") for i in range(12)])
    assert [one.text for one in answers] == [f"it is q{i}" for i in range(12)]
    assert server.max_concurrent == 3
    counters = model.counters()
    assert (counters["requests"], counters["retries"], counters["num_images"]) == (12, 0, 24)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_temporary_failures_are_retried(status: int, server: Any, remote: Callable[..., Remote]) -> None:
    server.behavior = lambda number, body: (status, {}, {"error": "busy"}) if number < 2 else "a cat"
    model = remote()
    (answer,) = model.generate([request()])
    assert answer.text == "a cat"
    assert model.counters()["retries"] == 2
    assert len(server.bodies) == 3


def test_retry_after_is_waited_for_in_seconds_and_as_a_date(server: Any, remote: Callable[..., Remote]) -> None:
    from email.utils import formatdate

    headers = [{"Retry-After": "0.3"}, {"Retry-After": formatdate(time.time() - 60, usegmt=True)}]
    server.behavior = lambda number, body: (429, headers[number], {}) if number < 2 else "a cat"
    began = time.monotonic()
    (answer,) = remote(backoff=30).generate([request()])
    assert answer.text == "a cat"
    assert 0.3 <= time.monotonic() - began < 10


def test_an_endpoint_that_asks_for_hours_is_not_waited_for(server: Any, remote: Callable[..., Remote]) -> None:
    server.behavior = lambda number, body: (429, {"Retry-After": "86400"}, {"error": {"message": "daily limit"}})
    with pytest.raises(EndpointUnavailableError, match=r"daily limit. It asks to wait for 86,400 s"):
        remote().generate([request()])


def test_a_request_that_goes_on_failing_fails_alone(server: Any, remote: Callable[..., Remote]) -> None:
    def poison(number: int, body: dict[str, Any]) -> Any:
        bad = body["messages"][-1]["content"][-1]["text"] == "bad"
        return (500, {}, {"error": {"message": "assertion failed"}}) if bad else "a cat"

    server.behavior = poison
    answers: dict[int, Any] = {}
    remote().generate_each([request("good"), request("bad"), request("fine")], answers.__setitem__)
    assert (answers[0].text, answers[2].text) == ("a cat", "a cat")
    assert answers[1].startswith(server.url)
    assert answers[1].endswith("status 500: assertion failed (after 3 tries).")


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"{half", r"the answer is not JSON \('\{half'\) \(after 3 tries\)"),
        (b"[1]", "the answer is not a JSON object"),
        (b"{}", r"the answer has no choices\[0\]\.message"),
        (b'{"choices": [{"message": null}]}', "the answer has no choices"),
        (b'{"choices": [{"message": {"content": 3}}]}', "content of the answer is not a string"),
        (b'{"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter"}]}', "withheld"),
        (b'{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}', r"no text \(content is null"),
        (b'{"choices": [{"message": {"role": "assistant"}}]}', r"no text \(content is null"),
        (b'{"choices": [{"message": {"content": null, "reasoning_content": "so"}}]}', "larger max_new_tokens"),
        (b'{"choices": [{"message": {"content": null, "refusal": "I will not"}}]}', "the model refuses: I will not"),
        (b'{"choices": [{"message": {"content": null, "tool_calls": [{}]}}]}', "a call of a tool"),
    ],
)
def test_an_answer_of_another_shape_is_reported(
    sent: bytes, message: str, server: Any, remote: Callable[..., Remote]
) -> None:
    server.behavior = lambda number, body: (200, {}, sent)
    with pytest.raises(ModelError, match=message):
        remote().generate([request()])


def test_an_empty_answer_is_an_answer_and_null_is_a_failed_sample(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.api import run

    monkeypatch.setenv("TEST_ENDPOINT_KEY", "sk-secret")
    server.behavior = lambda number, body: "" if number % 2 else (200, {}, completion(None))
    frame = run(experiment(tmp_path, server.url), {}, tmp_path / "runs", quiet=True).samples()
    silent = frame["failed"].notna()
    assert silent.sum() == 6
    assert frame["failed"][silent].str.contains("the answer has no text").all()
    assert (frame["lenient"][~silent] == 0).all()


def test_a_malformed_answer_is_requested_again(server: Any, remote: Callable[..., Remote]) -> None:
    server.behavior = lambda number, body: "a cat" if number else (200, {}, b'{"choices": [{"mess')
    assert remote().generate([request()])[0].text == "a cat"


def test_an_answer_that_cannot_be_decompressed_is_requested_again(server: Any, remote: Callable[..., Remote]) -> None:
    server.behavior = lambda number, body: "a cat" if number else (200, {"Content-Encoding": "gzip"}, b"no gzip")
    assert remote().generate([request()])[0].text == "a cat"


def test_a_slow_answer_times_out(server: Any, remote: Callable[..., Remote]) -> None:
    free = threading.Event()
    server.behavior = lambda number, body: (free.wait(20), "late")[1]
    with pytest.raises(ModelError, match=r"no answer within 0\.2 s \(model\.timeout\) \(after 2 tries\)"):
        remote(timeout=0.2, retries=1).generate([request()])
    free.set()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "it rejects the key .*model.key_env, which is not set"),
        (404, "a name that it serves?"),
        (302, "Set model.url to the final address"),
    ],
)
def test_an_endpoint_that_refuses_every_request_ends_the_run_at_once(
    status: int, message: str, server: Any, remote: Callable[..., Remote]
) -> None:
    server.behavior = lambda number, body: (status, {"Location": "http://other"}, {"error": {"message": "no"}})
    answers: dict[int, Any] = {}
    with pytest.raises(EndpointUnavailableError, match=message):
        remote(concurrency=1).generate_each([request(f"q{i}") for i in range(20)], answers.__setitem__)
    assert answers == {}
    assert len(server.bodies) == 1


def test_nothing_is_sent_after_a_refusal_while_an_answer_is_being_stored(
    server: Any, remote: Callable[..., Remote]
) -> None:
    server.behavior = lambda number, body: "a cat" if number == 0 else (401, {}, {"error": {"message": "no"}})
    stored: list[int] = []

    def store(i: int, answer: Generation | str) -> None:
        time.sleep(0.3)
        stored.append(i)

    with pytest.raises(EndpointUnavailableError, match="rejects the key"):
        remote(concurrency=1).generate_each([request(f"q{i}") for i in range(20)], store)
    assert stored == [0]
    assert len(server.bodies) == 2


def test_a_retry_that_a_refusal_ends_is_no_failure_of_its_sample(server: Any, remote: Callable[..., Remote]) -> None:
    is_waiting = threading.Event()

    def behavior(number: int, body: dict[str, Any]) -> Any:
        if "q0" in json.dumps(body):
            is_waiting.set()
            return 500, {"Retry-After": "60"}, {"error": {"message": "busy"}}
        is_waiting.wait(10)
        time.sleep(0.1)
        return 401, {}, {"error": {"message": "no"}}

    server.behavior = behavior
    answers: dict[int, Any] = {}
    with pytest.raises(EndpointUnavailableError, match="rejects the key"):
        remote(concurrency=2).generate_each([request(f"q{i}") for i in range(20)], answers.__setitem__)
    assert answers == {}
    assert len(server.bodies) == 2


def test_an_invalid_request_is_not_retried(server: Any, remote: Callable[..., Remote]) -> None:
    server.behavior = lambda number, body: (400, {}, {"error": {"message": "too many images"}})
    with pytest.raises(ModelError, match="the server rejected the request: status 400: too many images"):
        remote().generate([request()])
    assert len(server.bodies) == 1


def test_the_key_comes_from_the_environment_and_is_in_no_message(
    server: Any, remote: Callable[..., Remote], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = remote(key_env="TEST_ENDPOINT_KEY")
    with pytest.raises(ModelError, match="the environment variable TEST_ENDPOINT_KEY is empty"):
        model.load()
    monkeypatch.setenv("TEST_ENDPOINT_KEY", "sk-secret")
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "sk-of-another-endpoint")
    model.generate([request()])
    assert server.headers[0]["authorization"] == "Bearer sk-secret"
    remote().generate([request()])
    assert "authorization" not in server.headers[1]
    assert "sk-of-another-endpoint" not in str(server.headers)
    server.behavior = lambda number, body: (401, {}, {"error": {"message": "Incorrect API key: sk-secret"}})
    with pytest.raises(EndpointUnavailableError) as error:
        model.generate([request()])
    assert "Incorrect API key: ***" in str(error.value)
    assert "sk-secret" not in f"{error.value}{model!r}{model.endpoint!r}{model.digest}"


YES_NO = ("yes", "no")


def scores(server: Any, remote: Remote, options: tuple[str, ...], likeliest: dict[str, float]) -> dict[str, float]:
    server.behavior = lambda number, body: (200, {}, completion(next(iter(likeliest)), logprobs=listed(likeliest)))
    return dict(remote.generate([request(options=options, scored=True)])[0].option_scores)


def test_options_are_scored_by_the_first_token(server: Any, remote: Callable[..., Remote]) -> None:
    option_scores = scores(server, remote(), YES_NO, {" Yes": 0.4, "No": 0.3, "y": 0.1, "maybe": 0.05})
    assert server.bodies[0]["logprobs"] is True
    assert server.bodies[0]["top_logprobs"] == 20
    assert option_scores == pytest.approx({"yes": -0.6931472, "no": -1.2039728})


def test_an_option_that_is_not_listed_has_no_score_where_it_cannot_be_the_best(
    server: Any, remote: Callable[..., Remote]
) -> None:
    option_scores = scores(server, remote(), ("red", "blue"), {"red": 0.9, "the": 0.001})
    assert option_scores == pytest.approx({"red": -0.1053605})


def test_an_option_that_is_not_listed_and_could_be_the_best_is_an_error(
    server: Any, remote: Callable[..., Remote]
) -> None:
    with pytest.raises(ModelError, match=r"blue is not among the 2 likeliest tokens, but could still be the best"):
        scores(server, remote(), ("red", "blue"), {"red": 0.4, "the": 0.1})


@pytest.mark.parametrize(
    ("options", "likeliest", "message"),
    [
        (("two", "three"), {"t": 0.6, "two": 0.1}, "begin with the same token"),
        (("red", "blue"), {"the": 0.9, "a": 0.1}, "are not among the likeliest tokens"),
    ],
)
def test_inconclusive_log_probabilities_give_no_scores(
    options: tuple[str, ...], likeliest: dict[str, float], message: str, server: Any, remote: Callable[..., Remote]
) -> None:
    with pytest.raises(
        ModelError, match=f"cannot be scored by the first token .*{message}.* Use `answer_mode: generate`"
    ):
        scores(server, remote(), options, likeliest)


def test_a_shared_beginning_that_cannot_change_the_best_is_ignored(server: Any, remote: Callable[..., Remote]) -> None:
    option_scores = scores(server, remote(), ("two", "three"), {"two": 0.7, "three": 0.1, "t": 0.05})
    assert option_scores["two"] > option_scores["three"]


def test_an_endpoint_without_log_probabilities_is_an_error(server: Any, remote: Callable[..., Remote]) -> None:
    with pytest.raises(ModelError, match=r"the answer has no log-probabilities. Use `answer_mode: generate`"):
        remote().generate([request(options=YES_NO, scored=True)])


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"url": "127.0.0.1:8000"}, "is not an http address"),
        ({"url": "https://me:secret@host/v1"}, "Put the key into `key_env`"),
        ({"url": "https://host/v1?key=secret"}, "Put the key into `key_env`"),
        ({"extra": {"messages": []}}, "messages is set by the backend"),
        (
            {"template": {"a": 1}, "extra": {"chat_template_kwargs": {}}},
            "chat_template_kwargs is set by the backend or its own fields",
        ),
        ({"concurrency": 0}, "concurrency"),
        ({"api_key": "sk-secret"}, "has no parameter 'api_key'.* It takes url, model, key_env"),
    ],
)
def test_wrong_parameters_are_config_errors(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("model", {"name": "remote", "url": "http://host/v1", "model": "m", **node})


def test_the_digest_depends_on_requests_and_not_on_speed() -> None:
    own = Remote("http://host/v1", "m").digest
    assert Remote("http://host/v1/", "m", concurrency=1, timeout=3, retries=0, key_env="X").digest == own
    assert Remote("http://host/v1", "m", template={}).digest == own
    others = [
        Remote("http://host/v1", "n"),
        Remote("http://host/v1", "m", extra={"temperature": 1}),
        Remote("http://host/v1", "m", template={"enable_thinking": False}),
    ]
    assert own not in {other.digest for other in others}


def experiment(folder: Path, url: str, more: str = "") -> Path:
    file = folder / "grid.yaml"
    file.write_text(
        f"name: far\ntask: {{name: {SHAPES}:Shapes, queries: 6}}\nshots: 2\nseeds: [0, 1]\n"
        f"model: {{name: remote, url: {url}, model: m, retries: 1, backoff: 0.01, concurrency: 2, probe: false, "
        f"key_env: TEST_ENDPOINT_KEY}}\n{more}"
    )
    return file


def test_a_server_that_goes_away_leaves_the_rest_to_the_same_command(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.api import run

    monkeypatch.setenv("TEST_ENDPOINT_KEY", "sk-secret")
    file = experiment(tmp_path, server.url)
    server.behavior = lambda number, body: "red" if number < 6 else None  # hangs up in the middle of the run
    with pytest.raises(ModelError, match=r"the connection failed: .*Finished answers are stored"):
        run(file, {}, tmp_path / "runs", quiet=True)
    answered = sum(len(path.read_text().splitlines()) for path in (tmp_path / "runs").rglob("cells/*/*.jsonl"))
    assert answered == 5
    port = server.http.server_port
    server.stop()
    with pytest.raises(ModelError, match="the connection failed"):
        run(file, {}, tmp_path / "runs", quiet=True)
    server.start(port)
    server.bodies.clear()
    server.behavior = lambda number, body: "red"
    frame = run(file, {}, tmp_path / "runs", quiet=True).samples()
    assert len(server.bodies) == 1 + 12 - 5  # a run answers one prompt before its samples
    assert len(frame) == 12
    assert frame["failed"].isna().all()
    files = [path for path in (tmp_path / "runs").rglob("*") if path.suffix in (".json", ".jsonl", ".html", ".csv")]
    assert files
    assert not any("sk-secret" in path.read_text() for path in files)


def test_failed_samples_are_requested_again_by_the_same_command(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.api import run

    monkeypatch.setenv("TEST_ENDPOINT_KEY", "sk-secret")
    file = experiment(tmp_path, server.url)
    server.behavior = lambda number, body: (400, {}, {"error": "no"}) if number in (3, 7) else "red"
    first = run(file, {}, tmp_path / "runs", quiet=True).samples()
    assert first["failed"].notna().sum() == 2
    server.bodies.clear()
    server.behavior = lambda number, body: "red"
    again = run(file, {}, tmp_path / "runs", quiet=True).samples()
    assert len(server.bodies) == 1 + 2  # a run answers one prompt before its samples
    assert again["failed"].isna().all()


def test_a_plan_for_a_server_that_is_loading_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from decoding.server.http import LoadingResponder
    from experiments.config.config import load_config
    from experiments.grid.feasibility import check_requirements
    from experiments.grid.grid import expand

    monkeypatch.setenv("TEST_ENDPOINT_KEY", "sk-secret")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        responder = LoadingResponder()
        responder.start(sock)
        try:
            file = experiment(tmp_path, f"http://127.0.0.1:{sock.getsockname()[1]}/v1", "decoding: vcd\n")
            with pytest.raises(PlanError) as error:
                check_requirements(expand(load_config(file)))
        finally:
            responder.stop()
    assert "the server is not ready (status 503: the server is loading its model" in str(error.value)
    assert "Run the command again once it is." in str(error.value)
    assert "cannot give" not in str(error.value)


def test_a_strategy_is_refused_when_the_plan_is_made(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.api import run

    monkeypatch.setenv("TEST_ENDPOINT_KEY", "sk-secret")
    with pytest.raises(PlanError, match="decoding 'vcd' needs next-token logits") as error:
        run(experiment(tmp_path, server.url, "decoding: vcd\n"), {}, tmp_path / "runs", quiet=True)
    assert "runs only on a server of `icl serve`, and this endpoint is none" in str(error.value)
    assert "/strategies: status 404" in str(error.value)
    assert server.bodies == []


def icl_serve(strategies: tuple[str, ...] = ("greedy", "vcd", "contrast")) -> dict[str, Any]:
    """The description of a server of `icl serve`."""
    description = {"server": "mm-icl", "version": __version__, "branches": 16, "strategies": list(strategies)}
    return {"/v1/strategies": description}


def generation(text: str, **more: Any) -> Any:
    """The response of such a server to a request with a strategy."""
    fields = asdict(Generation(text, (5, 6), usage=Usage(20, 3, 6), trace={"gap": (0.5, 0.25, 1.0)})) | more
    details = {"usage": {"prompt_tokens_details": {"cached_tokens": 8}}}
    return 200, {}, {"choices": [{"icl": fields}]} | details


def test_a_server_of_icl_serve_is_recognized_by_its_description(server: Any, remote: Callable[..., Remote]) -> None:
    assert remote().abilities == Remote.abilities == {"generate", "score"}
    server.get_replies = icl_serve()
    assert remote().abilities == {"generate", "score", "strategies"}
    server.get_replies = {"/v1/strategies": {"server": "another", "strategies": []}}
    assert "strategies" not in remote().abilities
    server.get_replies = icl_serve()["/v1/strategies"] | {"version": "9"}
    server.get_replies = {"/v1/strategies": server.get_replies}
    assert "the server runs mm-icl 9" in remote().notes[0]


def test_strategies_are_sent_to_icl_serve_with_named_parts_and_all_parameters(
    server: Any, remote: Callable[..., Remote]
) -> None:
    server.get_replies = icl_serve()
    server.behavior = lambda number, body: generation("blue")
    model, prompt = remote(extra={"priority": 1}), replace(request().prompt, key=StreamKey(7, "q9"))
    arms = [
        parse_arm(arm)
        for arm in (
            "greedy",
            {"name": "vcd", "alpha": 0.5, "sampling": {"temperature": 0.7, "top_k": 5}},
            {"name": "contrast", "branches": [{"change": "noise", "step": 900}], "weights": [2, -1]},
        )
    ]
    (answer, *_) = run_requests(model, [DecodingRequest(prompt, arm, max_new_tokens=9) for arm in arms])
    assert answer == Generation("blue", (5, 6), "stop", Usage(20, 3, 6), {"gap": (0.5, 0.25, 1.0)})
    assert model.counters()["cached_tokens"] == 24
    assert len(server.bodies) == 3
    sent = {}
    for body in server.bodies:
        assert (body["seed"], body["user"], body["max_tokens"], body["priority"]) == (7, "q9", 9, 1)
        names = [piece["name"] for message in body["messages"] for piece in message["content"]]
        assert names == [part.name for part in prompt.parts()]
        node = json.loads(body["vllm_xargs"]["strategy"])
        sent[node["name"]] = parse_arm(node)
    assert {name: arm.config for name, arm in sent.items()} == {
        arm.config["strategy"]["name"]: arm.config for arm in arms
    }


def test_arguments_of_the_chat_template_go_with_every_request(server: Any, remote: Callable[..., Remote]) -> None:
    remote(template={"enable_thinking": False}).generate([request()])
    server.get_replies, server.behavior = icl_serve(), lambda number, body: generation("blue")
    run_requests(remote(template={"enable_thinking": False}), [DecodingRequest(request().prompt, parse_arm("greedy"))])
    assert ["vllm_xargs" in body for body in server.bodies] == [False, True]
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in server.bodies)


def test_the_day_of_the_run_goes_to_a_server_that_takes_it(server: Any, remote: Callable[..., Remote]) -> None:
    server.behavior = lambda number, body: generation("blue")
    for more in ({}, {"template": ["enable_thinking"]}):
        server.get_replies = {"/v1/strategies": icl_serve()["/v1/strategies"] | more}
        model = remote()
        model.set_day(date(2026, 11, 30))
        run_requests(model, [DecodingRequest(request().prompt, parse_arm("greedy"))])
    assert [body["icl"].get("day") for body in server.bodies] == [None, "2026-11-30"]


def test_a_plan_checks_arguments_that_the_server_lists(server: Any, remote: Callable[..., Remote]) -> None:
    model = remote(template={"enable_thinkin": False})
    assert model.plan_notes[0].startswith("template: this endpoint does not say which arguments its chat template")
    server.get_replies = {"/v1/strategies": icl_serve()["/v1/strategies"] | {"template": ["enable_thinking"]}}
    with pytest.raises(ModelError, match=r"^model\.template: the chat template at .* does not read 'enable_thinkin'"):
        _ = remote(template={"enable_thinkin": False}).plan_notes
    assert remote(template={"enable_thinking": False}).plan_notes == remote().plan_notes == ()


def test_a_thinking_budget_is_sent_to_icl_serve_and_its_answer_says_what_was_cut(
    server: Any, remote: Callable[..., Remote]
) -> None:
    server.get_replies = icl_serve()
    cut = generation("<think> a b\n</think>\n\nblue")
    cut[2]["choices"][0]["icl"] |= {"thinking": "cut"}
    cut[2]["choices"][0]["icl"]["usage"] |= {"thinking_tokens": 2}
    server.behavior = lambda number, body: cut
    model = remote()
    assert model.thinking_budget_refusal() is None
    limits = {"max_new_tokens": 4, "max_thinking_tokens": 2}
    jobs = [DecodingRequest(request().prompt, parse_arm("greedy"), **limits, stop_strings=("b",)) for _ in range(2)]
    jobs.append(replace(jobs[0], max_thinking_tokens=3))
    answers = run_requests(model, jobs)
    assert sorted(body["max_thinking_tokens"] for body in server.bodies) == [2, 3]
    for answer in answers:
        assert isinstance(answer, Generation)
        assert (answer.thinking, answer.usage.thinking_tokens) == ("cut", 2)
        assert answer.text == "<think> a b\n</think>\n\n"  # a stop string ends the answer, not the reasoning


def test_an_endpoint_that_is_not_icl_serve_refuses_a_thinking_budget(
    server: Any, remote: Callable[..., Remote]
) -> None:
    refusal = remote().thinking_budget_refusal() or ""
    assert "cannot continue an answer after its reasoning was cut" in refusal
    assert "status 404" in refusal


def test_equal_requests_are_sent_once_and_noised_ones_by_their_stream(
    server: Any, remote: Callable[..., Remote]
) -> None:
    server.get_replies = icl_serve()
    server.behavior = lambda number, body: generation("blue")
    prompts = [replace(request().prompt, key=StreamKey(seed, "q")) for seed in (0, 1, 1)]
    counters = Counters()
    run_requests(
        remote(), [DecodingRequest(prompt, parse_arm(arm)) for prompt in prompts for arm in ("greedy", "vcd")], counters
    )
    sent = [(json.loads(body["vllm_xargs"]["strategy"])["name"], body["seed"]) for body in server.bodies]
    assert sorted(sent) == [("greedy", 0), ("vcd", 0), ("vcd", 1)]
    assert (counters.decoding_requests, counters.requests_reused) == (6, 3)


def test_an_adapter_is_requested_by_name_and_a_missing_one_is_an_error(
    server: Any, remote: Callable[..., Remote]
) -> None:
    remote(adapter="tuned").generate([request()])  # another endpoint knows for itself
    server.get_replies = icl_serve()
    remote(adapter="tuned").load()  # one of an older version does not say
    server.get_replies = {"/v1/strategies": icl_serve()["/v1/strategies"] | {"adapters": ["tuned"]}}
    server.behavior = lambda number, body: generation("blue")
    model = remote(adapter="tuned")
    run_requests(model, [DecodingRequest(request().prompt, parse_arm("vcd"))])
    assert [body["model"] for body in server.bodies] == ["tuned", "tuned"]
    assert model.digest != remote().digest
    with pytest.raises(ModelError, match=r"has no adapter 'tunes'. Did you mean 'tuned'\? It has tuned: start it with"):
        run_requests(remote(adapter="tunes"), [DecodingRequest(request().prompt, parse_arm("vcd"))])
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("decoding: icd\n", r"the server \(mm-icl .*\) has no strategy 'icd'"),
        ("decoding: {name: mask_only, of: vcd}\n", "has no strategy 'mask_only'"),
        (f"decoding: '{PLAIN}:Plain'\n", "is your own code, and a server runs only strategies that it knows by name"),
        ("decoding: vcd\nmodel.extra: {temperature: 1}\n", "model.extra sets temperature"),
    ],
)
def test_what_the_server_cannot_run_is_reported_by_the_plan(
    more: str, message: str, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.api import run

    monkeypatch.setenv("TEST_ENDPOINT_KEY", "sk-secret")
    server.get_replies = icl_serve()
    decoding, _, extra = more.partition("model.extra: ")
    overrides = [f"model.extra={extra.strip()}"] if extra else []
    with pytest.raises(PlanError, match=message):
        run(experiment(tmp_path, server.url, decoding), overrides, tmp_path / "runs", quiet=True)
    assert server.bodies == []


def test_an_answer_of_icl_serve_without_a_generation_fails_its_request(
    server: Any, remote: Callable[..., Remote]
) -> None:
    server.get_replies = icl_serve()
    server.behavior = lambda number, body: (200, {}, completion("plain"))
    (result,) = run_requests(remote(), [DecodingRequest(request().prompt, parse_arm("vcd"))])
    assert isinstance(result, Failure)
    assert "has no choices[0].icl" in result.reason
