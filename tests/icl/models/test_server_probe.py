"""Servers are probed before a run whose prompts have images."""

import json
from pathlib import Path

import PIL.Image
import pytest

from experiments.api import run
from experiments.report.page import write_report
from experiments.results.view_run import view_run
from experiments.sharing.card import make_card
from icl.errors import ModelError
from icl.images import Image
from icl.models.remote import checks_of, is_private
from icl.testing.faulty_server import FaultyServer
from icl.testing.vision_server import VisionServer, listen
from icl.types import Part, Prompt, Turn


class Counted:
    """A faulty server that keeps the bodies of its requests."""

    def __init__(self, **server):
        self.handler, self.requests = FaultyServer(VisionServer(**server).respond), 0

    def respond(self, request):
        self.requests += request.method == "POST"
        return self.handler.respond(request)


@pytest.fixture
def start(monkeypatch, tmp_path):
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))
    servers = []

    def start(**server):
        counted = Counted(**server)
        servers.append(listen(counted.respond))
        return counted, f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()


def study(folder: Path, url: str, more: str = "", name: str = "study", shots: int = 2) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(
        f"name: {name}\ntask: {{name: binding, ways: 2, queries: 3}}\nshots: {shots}\nseeds: [0]\nmetrics: [lenient]\n"
        f"model: {{name: remote, url: {url}, model: shapes{more}}}\n"
    )
    return file


def test_a_server_is_probed_once_and_the_run_and_its_card_say_so(start, tmp_path):
    counted, address = start()
    done = run(study(tmp_path, f"{address}/none/v1"), {}, tmp_path / "runs", quiet=True)
    assert counted.requests > 80
    [session] = json.loads((done.path / "run.json").read_text())["sessions"]
    [record] = session["probes"].values()
    assert (record["model"], record["status"], record["red"], record["open"]) == ("shapes", "ok", {}, {})
    sentence = f"The server {address}/none/v1 (shapes) was probed at {record['date']}: it reads every image."
    assert make_card(done)["probes"] == [sentence]
    assert sentence in write_report(view_run(done)).report.read_text(encoding="utf-8")
    before = counted.requests
    run(study(tmp_path, f"{address}/none/v1", name="again"), {}, tmp_path / "runs", quiet=True)
    assert counted.requests - before < 20  # the kept result is reused: what the server offers, and three samples


def test_a_fault_stops_the_run_before_its_samples_unless_it_may_go_on(start, tmp_path):
    _, address = start()
    file = study(tmp_path, f"{address}/earlier_dropped/v1")
    with pytest.raises(
        ModelError, match=r"does not read prompts as they are sent\. turns: image 1, 2, 3 of 4.*icl doctor server"
    ):
        run(file, {}, tmp_path / "runs", quiet=True)
    assert not list((tmp_path / "runs").rglob("cells/*/*.jsonl"))
    going_on = study(tmp_path, f"{address}/earlier_dropped/v1", ", probe: false")
    assert len(run(going_on, {}, tmp_path / "runs", quiet=True).samples()) == 3


def test_a_fault_that_the_prompts_do_not_meet_stops_nothing(start, tmp_path):
    _, address = start()
    done = run(study(tmp_path, f"{address}/earlier_dropped/v1", shots=0), {}, tmp_path / "runs", quiet=True)
    assert len(done.samples()) == 3


def test_what_cannot_be_determined_is_a_warning(start, tmp_path):
    _, address = start(sight=1e-4)
    done = run(study(tmp_path, f"{address}/none/v1"), {}, tmp_path / "runs", quiet=True)
    [(sentence, is_warning)] = view_run(done).probes.items()
    assert is_warning
    assert "no fault was found; it cannot tell about reads" in sentence


@pytest.mark.parametrize(
    ("images", "checks"),
    [
        ([[0]], set()),
        ([[1]], {"reads", "counts", "repeat", "cache", "together"}),
        ([[3]], {"each", "order", "cache"}),
        ([[1], [1], [1]], {"turns", "roles", "earlier", "place"}),
    ],
)
def test_the_checks_follow_the_shape_of_the_prompts(images, checks):
    part = Part(Image.from_pil(PIL.Image.new("RGB", (8, 8))))
    turns = tuple(Turn("user", (*[part] * count, Part("?"))) for [count] in images)
    chosen = set(checks_of(Prompt(turns)))
    assert checks <= chosen
    assert bool(chosen) is bool(checks)
    assert ("each" in chosen) is ("each" in checks)
    assert ("turns" in chosen) is ("turns" in checks)


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://10.1.2.3/v1", True),
        ("http://node7:8000/v1", True),
        ("https://api.example.com/v1", False),
        ("http://8.8.8.8/v1", False),
    ],
)
def test_an_address_elsewhere_is_probed_only_if_asked(url, private):
    assert is_private(url) is private


def test_a_damaged_result_is_not_trusted(start, tmp_path):
    counted, address = start()
    run(study(tmp_path, f"{address}/none/v1"), {}, tmp_path / "runs", quiet=True)
    (file,) = (tmp_path / "cache" / "probes").iterdir()
    damaged = ('{"red": "x"}', '{"red": {}, "open": 7, "date": "d"}', '{"red": []}', "{")
    for i, content in enumerate(damaged):
        file.write_text(content)
        before = counted.requests
        done = run(study(tmp_path, f"{address}/none/v1", name=f"again{i}"), {}, tmp_path / "runs", quiet=True)
        assert counted.requests - before > 80, content
        assert list(view_run(done).probes.values()) == [False], content
