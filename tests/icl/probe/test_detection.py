"""Faults are found, and correct servers are not accused."""

import json
from pathlib import Path

import httpx2
import pytest

from icl.probe.instrument import Status
from icl.probe.run import probe
from icl.probe.server import Server
from icl.testing.faulty_server import FAULTS, FaultyServer
from icl.testing.vision_server import VisionServer

HIDDEN = [name for name, fault in FAULTS.items() if not fault.found_by]
DETECTED = [name for name, fault in FAULTS.items() if fault.found_by]


def faulty(name, **server):
    handler = FaultyServer(VisionServer(**server).respond, delay=0.01 if name.startswith("busy") else 0.0)
    return Server(f"http://test/{name}/v1", "", transport=httpx2.MockTransport(handler.respond))


def statuses(result, status):
    return [row.check for row in result.rows if row.status is status]


@pytest.mark.parametrize("name", DETECTED)
def test_each_fault_is_found_by_its_check_with_the_requests_that_show_it(name):
    result = probe(faulty(name), [FAULTS[name].found_by])
    [row] = result.rows
    assert row.status is Status.RED
    assert row.curl
    assert result.exit_status == 1


@pytest.mark.parametrize("name", HIDDEN)
def test_a_fault_that_keeps_every_relation_between_answers_is_not_found(name):
    result = probe(faulty(name), ["reads", "detail", "each", "order", "cache", "files"])
    assert not statuses(result, Status.RED)


@pytest.mark.parametrize(
    ("server", "open_checks"),
    [
        ({}, 0),
        ({"noise": 0.02}, 0),
        ({"noise": 0.1}, 0),
        ({"sight": 0.01}, 0),
        ({"log_probabilities": False, "counts_cached": False}, 0),
        ({"most_images": 4}, 0),
    ],
)
def test_a_correct_server_has_no_fault(server, open_checks):
    result = probe(Server("http://test/v1", "", transport=VisionServer(**server).transport()))
    assert statuses(result, Status.RED) == []
    assert len(statuses(result, Status.OPEN)) == open_checks


@pytest.mark.parametrize(("ending", "status"), [("\N{REPLACEMENT CHARACTER}", Status.OK), ("!", Status.RED)])
def test_a_stream_may_hold_back_a_character_that_the_last_token_cut_and_nothing_else(ending, status):
    correct = VisionServer(log_probabilities=False, counts_cached=False)

    def respond(request):
        response = correct.respond(request)
        if request.method == "GET" or json.loads(request.content).get("stream"):
            return response
        data = response.json()
        for choice in data["choices"]:
            choice["message"]["content"] += ending
        return httpx2.Response(response.status_code, json=data)

    [row] = probe(Server("http://test/v1", "", transport=httpx2.MockTransport(respond)), ["stream"]).rows
    assert row.status is status


def test_a_model_that_hardly_sees_is_no_fault_of_its_server_and_never_ok():
    result = probe(Server("http://test/v1", "", transport=VisionServer(sight=1e-4).transport()))
    assert statuses(result, Status.RED) == []
    assert {"reads", "each", "turns", "order", "cache", "place"} <= set(statuses(result, Status.OPEN))
    assert result.exit_status == 2


@pytest.mark.parametrize("name", ["last_only", "first_repeated", "sorted_images", "busy_swapped", "deduplicated"])
def test_faults_are_found_without_log_probabilities(name):
    checks = None if name == "last_only" else [FAULTS[name].found_by]  # one server is probed by all of them
    result = probe(faulty(name, log_probabilities=False, counts_cached=False), checks)
    assert result.compared == "texts"
    assert FAULTS[name].found_by in statuses(result, Status.RED)


@pytest.mark.parametrize("name", ["last_only", "cached_by_text", "busy_swapped", "at_most_4", "answers_removed"])
def test_faults_are_found_under_noise(name):
    result = probe(faulty(name, noise=0.02), [FAULTS[name].found_by])
    assert statuses(result, Status.RED)


@pytest.mark.parametrize("name", ["reversed_from_3", "rotated"])
@pytest.mark.parametrize("hidden", [{}, {"log_probabilities": False}])
def test_a_permutation_is_named_by_its_cause(name, hidden):
    """By log-probabilities of the prompt; without them, by the number of cached tokens."""
    [row] = probe(faulty(name, **hidden), ["place"]).rows
    order = {"reversed_from_3": "D C B A", "rotated": "D A B C"}[name]
    assert row.status is Status.RED
    assert f"the model gets A B C D in the order {order}" in row.text


@pytest.mark.parametrize(("fault", "status"), [("none", Status.OK), ("reversed_from_3", Status.RED)])
def test_the_cache_decides_where_every_image_changes_the_same_scores(fault, status):
    """The server scores the last token alone. The prompts of this way must not be in the cache of the next one."""
    correct = VisionServer()

    def respond(request):
        data = correct.respond(request).json()
        if scores := data.get("prompt_logprobs"):
            data["prompt_logprobs"] = [*([None] * (len(scores) - 1)), scores[-1]]
        return httpx2.Response(200, json=data)

    transport = httpx2.MockTransport(FaultyServer(respond).respond)
    [row] = probe(Server(f"http://test/{fault}/v1", "", transport=transport), ["place"]).rows
    assert row.status is status
    assert "come from the cache" in row.text


def test_a_server_whose_scores_ignore_images_has_an_open_place():
    [row] = probe(faulty("all_dropped", counts_cached=False), ["place"]).rows
    assert row.status is Status.OPEN
    assert row.text == "no score of the prompt changes with image k"


def test_a_permutation_is_not_called_ok_where_nothing_shows_it():
    [row] = probe(faulty("reversed_from_3", log_probabilities=False, counts_cached=False), ["place"]).rows
    assert row.status is Status.OPEN


def test_the_commands_show_the_fault():
    """Both requests of the fault have one answer, which they have not without the fault."""
    [row] = probe(faulty("last_only"), ["each"]).rows
    bodies = [json.loads(command.split("-d '", 1)[1][:-1].replace("'\\''", "'")) for command in row.curl]
    assert all(command.startswith("curl -s http://test/last_only/v1/chat/completions") for command in row.curl)
    assert len(bodies) == 2
    for respond, is_faulty in ((FaultyServer(VisionServer().respond).respond, True), (VisionServer().respond, False)):
        path = "/last_only/v1/chat/completions" if is_faulty else "/v1/chat/completions"
        requests = [httpx2.Request("POST", f"http://test{path}", content=json.dumps(body)) for body in bodies]
        first, second = (respond(request).json()["choices"][0]["logprobs"] for request in requests)
        assert (first == second) is is_faulty


def test_the_key_is_in_no_result():
    server = Server("http://test/v1", "", key="secret-key", transport=VisionServer().transport())
    result = probe(server, ["each"])
    assert "secret-key" not in json.dumps(result.to_json()) + server.curl(())
    assert "$KEY" in server.curl(())


def test_the_page_lists_the_faults_with_their_checks_and_threads():
    page = (Path(__file__).parents[3] / "docs" / "probe.md").read_text(encoding="utf-8")
    for fault in FAULTS.values():
        if fault.name != "none":
            where = f"`{fault.found_by}`" if fault.found_by else "not found: every relation holds"
            assert f"| {fault.text[0].lower()}{fault.text[1:]} | {where} | {fault.seen_in} |" in page
