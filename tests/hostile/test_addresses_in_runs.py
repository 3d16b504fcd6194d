"""A run directory names an address and an environment variable. What reads the run contacts and reads neither."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Server

import icl
from experiments.cli.main import main
from icl.errors import ModelError
from icl.registry import build
from icl.untrusted import untrusted

SECRET = "secret-of-this-machine"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The stranger's server. The stranger's run names an environment variable of the reader."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VARIABLE", SECRET)
        yield (made := Server())
        made.stop()


def remote(server: Server) -> dict[str, Any]:
    return {"name": "remote", "url": server.url, "model": "m", "key_env": "VARIABLE", "retries": 0, "probe": False}


def forget(server: Server) -> None:
    for requests in (server.bodies, server.headers, server.gets):
        requests.clear()


@pytest.fixture(scope="module", params=["model", "axis", "judge"])
def owned(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that its owner computed with the server: its cells, scores and card fit together."""
    study: dict[str, Any] = {
        "name": "received",
        "task": {"name": "existence", "queries": 3, "pool_size": 4},
        "grid": {"shots": [0, 1]},
        **{
            "model": {"model": remote(server)},
            "axis": {"model": remote(server) | {"url": "http://localhost:1"}},
            "judge": {"model": "fake-vote", "metrics": ["lenient", {"name": "judge", "judge": remote(server)}]},
        }[request.param],
    }
    if request.param == "axis":
        study["grid"]["model.url"] = [server.url]
    forget(server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICL_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = icl.run(study, runs=tmp_path_factory.mktemp("runs"), quiet=True).path
        assert main(["report", str(folder), "--as", "card"]) == 0
    assert any(SECRET in str(headers) for headers in server.headers)
    return folder


@pytest.fixture
def received(owned: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, and a reader without a cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))
    forget(server)
    return shutil.copytree(owned, tmp_path / owned.name)


@pytest.mark.parametrize(
    "words",
    [
        ("check",),
        ("analyze", "influence"),
        ("analyze", "information_flow"),
        ("analyze", "pool_coverage"),
        ("show", "prompt"),
        ("report",),
        ("report", "--as", "card", "--out", "card"),
    ],
    ids=" ".join,
)
def test_a_command_that_reads_a_run_contacts_no_address_of_it(
    words: tuple[str, ...], received: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    main([words[0], str(received), *words[1:]])
    assert (server.headers, server.gets) == ([], [])
    assert SECRET not in "".join(capsys.readouterr())


@pytest.mark.parametrize("owned", ["model", "axis"], indirect=True)
def test_verify_contacts_the_address_with_trust(received: Path, server: Server) -> None:
    main(["check", str(received), "--quiet", "--trust"])
    assert any(SECRET in str(headers) for headers in server.headers)


def test_the_prompt_of_a_remote_model_is_shown_without_trust(
    received: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(received), "prompt"]) == 0
    assert "query.image[0]" in capsys.readouterr().out


def test_the_sentence_names_the_address_and_the_variable(server: Server) -> None:
    with untrusted(Path("received")):
        model = build("model", remote(server))
    with pytest.raises(ModelError) as refused:
        model.load()
    assert str(refused.value) == (
        f"received: model.url {server.url} is not contacted, and the environment variable VARIABLE is not read without "
        "--trust, because a run directory may be somebody else's. Check it, then add --trust, or use the experiment "
        "file instead of the run."
    )
