"""`icl push` on a hub on loopback: what is sent, what is not, and what is refused."""

import io
import json
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from hub_server import Hub, hub

from experiments.analyses.stored_results import AnalysisOptions, read_basis, read_results, store_result
from experiments.api import load_run
from experiments.cli.main import main
from experiments.results.loaded_run import Run
from experiments.sharing.push import Scrubber, copy_scrubbed, scrubber_of
from experiments.store.store import Store

Push = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with hub() as running:
        yield running


@pytest.fixture
def push(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Push:
    """Runs `icl push` as the account of the hub."""
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def call(*words: object) -> tuple[int, str]:
        status = main(["push", *map(str, words)])
        return status, "".join(capsys.readouterr())

    return call


def test_a_push_lists_its_files_and_sends_samples_tables_report_and_card(push: Push, server: Hub, made: Path) -> None:
    status, text = push(made, "--to", "me/first", "--yes")
    assert status == 0, text
    files = server.files["me/first"]
    assert server.repositories["me/first"] is True, "private"
    assert f"private data set me/first on {server.url}" in text
    assert f"pushed       {server.url}/datasets/me/first" in text
    assert all(name in text for name in files)
    assert {"README.md", "card.json", "report.html", "run.json", "samples.parquet", "tables/scores.csv"} <= set(files)
    assert files["README.md"].decode().startswith("---\npretty_name: t\ntags: [mm-icl,")
    frame, samples = pd.read_parquet(io.BytesIO(files["samples.parquet"])), load_run(made).samples()
    for column in ("query", "decoding", "seed", "output", "lenient"):
        assert frame[column].tolist() == samples[column].tolist()


def test_what_was_pushed_is_a_run_directory_that_its_card_describes(
    push: Push, server: Hub, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(made, "--to", "me/whole", "--yes")
    for name, data in server.files["me/whole"].items():
        (tmp_path / "back" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / name).write_bytes(data)
    assert main(["check", str(tmp_path / "back"), "--samples", "0"]) == 0, capsys.readouterr()
    pd.testing.assert_frame_equal(load_run(tmp_path / "back").scores("lenient"), load_run(made).scores("lenient"))


def test_neither_images_nor_the_machine_nor_its_paths_are_pushed(
    push: Push, server: Hub, copy: Path, edit: Callable[[Path, str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, digest = Store(copy), load_run(copy).info["cells"][0]
    samples = list(store.samples(digest))
    samples[0] |= {"output": f"see {copy}/x.png", "meta": {"file": "/data/secret-place/cats/7.png"}}
    samples[1] = {**samples[1], "failed": "open of C:\\Users\\jane\\cat.png on node-0815.cluster failed"}
    store.replace_samples(digest, samples)
    edit(
        copy / "run.json", '"observe": "none"', '"observe": [{"name": "mlflow", "tracking_uri": "http://secret-host"}]'
    )
    edit(copy / "invocations.jsonl", json.dumps(platform.node()), '"node-0815.cluster"')
    assert any((copy / "images").iterdir())
    assert push(copy, "--to", "me/private", "--yes")[0] == 0
    files = server.files["me/private"]
    texts = {name: data.decode() for name, data in files.items() if not name.endswith(".parquet")}
    texts["samples.parquet"] = pd.read_parquet(io.BytesIO(files["samples.parquet"])).to_csv()
    assert "see copy/x.png" in texts["samples.parquet"]
    secrets = [str(copy.parent), "secret", "node-0815", "jane", str(Path(__file__).parents[1]), "tracking_uri"]
    assert {secret: [name for name, text in texts.items() if secret in text] for secret in secrets} == {
        secret: [] for secret in secrets
    }
    assert "see copy/x.png" in texts[f"cells/{digest}/0.jsonl"], "the answer is there, without the folder"
    assert '"file": "7.png"' in texts[f"cells/{digest}/0.jsonl"]
    assert "shapes.py:Shapes" in texts["run.json"]
    assert not [name for name in files if name.startswith("images/")]
    assert "data:image" not in texts["report.html"]
    assert push(copy, "--to", "me/private", "--yes", "--images")[0] == 0
    assert [name for name in files if name.startswith("images/")]
    assert "data:image" in files["report.html"].decode()
    assert push(copy, "--to", "me/private", "--yes")[0] == 0
    assert not [name for name in files if name.startswith("images/")], "an earlier push's images are removed"


def test_stored_analyses_are_copied_without_paths_and_fit_the_copy(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made, run)
    table = pd.DataFrame({"where": [f"{Path.home()}/secret/x.png"], "n": [3]})
    store_result(run, AnalysisOptions("own"), read_basis(run), table, "doc")
    copy_scrubbed(load_run(run), tmp_path / "copy")
    (one,), refusals = read_results(tmp_path / "copy")
    assert (one.outdated, refusals, one.table["where"].tolist()) == ("", [], ["x.png"])


def test_nothing_is_sent_without_a_yes(push: Push, server: Hub, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, text = push(made, "--to", "me/unasked")
    assert (status, "add --yes" in text, "README.md" in text) == (2, True, True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question: False)
    status, text = push(made, "--to", "me/unasked")
    assert (status, "nothing was pushed." in text) == (1, True)
    assert "me/unasked" not in server.repositories


def test_a_public_repository_needs_the_flag(push: Push, server: Hub, made: Path) -> None:
    assert push(made, "--to", "me/open", "--yes", "--public")[0] == 0
    assert server.repositories["me/open"] is False
    status, text = push(made, "--to", "me/open", "--yes")
    assert (status, "me/open exists and is public. Add --public" in text) == (2, True)


@pytest.mark.parametrize(
    "case",
    [
        ("me", "hf_right", "--to me: the repository is OWNER/NAME, such as me/my-run."),
        ("me/a b", "hf_right", "--to me/a b: "),
        ("me/x", "", "no token of a hub: run `hf auth login`, or set HF_TOKEN"),
        ("me/x", "hfü", "the token of the hub has a character that no token has"),
        ("me/x", "hf a", "the token of the hub has a character that no token has"),
        ("me/x", "hf_wrong", "The token is not valid: run `hf auth login`."),
        ("others/x", "hf_right", "The token may not write there"),
    ],
)
def test_a_push_that_cannot_be_is_refused_with_a_sentence(
    push: Push, server: Hub, made: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[str, str, str]
) -> None:
    to, token, sentence = case
    monkeypatch.setenv("HF_TOKEN", token)
    status, text = push(made, "--to", to, "--yes")
    assert (status, sentence in text) == (2, True), text
    assert to not in server.repositories


def test_a_hub_that_is_down_is_a_sentence(push: Push, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    status, text = push(made, "--to", "me/x", "--yes")
    assert (status, f"me/x on {address}" in text, "push again when the hub can be reached" in text) == (2, True, True)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/data/models/qwen", "qwen"),
        ("/data/my models/qwen 2", "qwen 2"),
        ("/home/me/mine.py:Mine", "mine.py:Mine"),
        ("~/models/qwen", "qwen"),
        ("C:\\models\\qwen", "qwen"),
        ("~alice/x/y", "y"),
        ("open of ~alice/y failed, about ~5/10", "open of y failed, about ~5/10"),
        ("file:///home/alice/secret/x.png", "file:///x.png"),
        ("file:/home/alice/secret/x.png", "file:/x.png"),
        ("see file://localhost/home/alice/my%20cats/x.png.", "see file://localhost/x.png."),
        ("file:///C:/Users/alice/x.png", "file:///x.png"),
        ("sqlite:////home/alice/secret/mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite+pysqlite:////home/alice/a.db?mode=ro", "sqlite+pysqlite:///a.db?mode=ro"),
        ("died on NODE7, then Node7.cluster", "died on machine, then machine.cluster"),
        ("cannot open /data/cats/7.png: no such file", "cannot open 7.png: no such file"),
        ("org/model", "org/model"),
        ("/m/01g317", "/m/01g317"),
        ("the label /m/01g317 of /m/cats/1.png", "the label /m/01g317 of 1.png"),
        ("https://a.example/b/c", "https://a.example/b/c"),
        ("yes/no, and/or, 1/2", "yes/no, and/or, 1/2"),
        ("died on node7 at 3", "died on machine at 3"),
        ("", ""),
    ],
)
def test_paths_become_names_and_other_text_stays(text: str, clean: str) -> None:
    scrubber = Scrubber(("node7",), ("/home/me",))
    assert scrubber.metadata({"a": [text]}) == {"a": [clean]}
    assert scrubber.sample({"output": text})["output"] == text.replace("/home/me", "me")


def test_the_scrubber_knows_this_machine_and_those_of_the_run(made: Path) -> None:
    scrubber = scrubber_of(Run(made))
    assert platform.node() in scrubber.hosts
    assert str(made.resolve()) in scrubber.folders
