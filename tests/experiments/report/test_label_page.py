"""The page to label outputs: what it sends, what it refuses, and that each key is stored once."""

import re
import shutil
import urllib.error
import urllib.request
from dataclasses import replace
from threading import Thread
from urllib.parse import urlencode

import pytest
from unread_run import says, write_unread_run

from experiments.cli import label
from experiments.report.label_page import page
from experiments.results.labeling import Output
from experiments.store.labels import Label, append_labels, read_labels
from icl.errors import StoreError


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The address of the page of a run with six queries, its work, and the thread that serves it."""
    run = write_unread_run(tmp_path / "run", queries=8)
    (run.path / "images").mkdir()
    (run.path / "images" / "secret.png").write_bytes(b"not an image of an output")
    work = label.Work(run, "", "ana", 6)
    work.begin()
    addresses = []
    monkeypatch.setattr(label.webbrowser, "open", addresses.append)
    thread = Thread(target=work.serve, daemon=True)
    thread.start()
    while not addresses:
        thread.join(0.01)
    return addresses[0], work, thread


def _get(address, data=None, **headers):
    """(status, text, headers) of a request."""
    body = None if data is None else urlencode(data).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, headers)) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def test_every_output_is_labeled_on_the_page_and_the_server_ends(served):
    address, work, thread = served
    outputs = list(work.left)
    text = _get(address)[1]
    for output in outputs:
        assert f'value="{output.key}"' in text
        key = "j" if says(output.gold[0], output.text) else "f"
        text = _get(address, {"key": key, "output": output.key})[1]
    thread.join(10)
    assert not thread.is_alive()
    assert "Close this page" in text
    assert {one.key: read_labels(work.run.path).verdict(one.key) for one in outputs} == {
        one.key: says(one.gold[0], one.text) for one in outputs
    }


def test_a_form_that_is_sent_twice_counts_once_and_undo_takes_it_back(served):
    address, work, _ = served
    first, second = work.left[:2]
    for _ in range(2):
        assert f'value="{second.key}"' in _get(address, {"key": "j", "output": first.key})[1]
    assert set(read_labels(work.run.path).people) == {first.key}
    assert f'value="{first.key}"' in _get(address, {"key": "u", "output": second.key})[1]
    assert read_labels(work.run.path).people == {}
    _get(address, {"key": "q"})


def test_nothing_is_sent_without_the_secret_or_to_another_host_and_no_file_of_the_run(served):
    address, work, _ = served
    root = re.match(r"http://[^/]+/", address)[0]
    assert _get(root)[0] == 404
    assert _get(f"{root}guess/")[0] == 404
    assert _get(address, Host="attacker.example")[0] == 404
    assert _get(address, {"key": "j", "output": work.left[0].key}, Host="attacker.example")[0] == 404
    for name in ("secret", "images/secret.png", "../run.json", "run.json"):
        assert _get(f"{address}{name}")[0] == 404
    assert _get(address, {"key": "j" * 2000})[0] == 404
    assert read_labels(work.run.path).people == {}
    headers = _get(address)[2]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
    _get(address, {"key": "q"})


def test_an_image_is_sent_and_a_link_in_its_place_is_not(served):
    address, work, _ = served
    work.left[0] = replace(work.left[0], images=("link", "file"))
    folder = work.run.path / "images"
    (folder / "link.png").symlink_to(folder / "secret.png")
    shutil.copy(folder / "secret.png", folder / "file.png")
    assert [_get(f"{address}{name}")[0] for name in ("link", "file")] == [404, 200]
    _get(address, {"key": "q"})


def test_a_label_that_cannot_be_written_is_a_sentence_and_stays_open(served, monkeypatch):
    address, work, thread = served
    first, second = work.left[:2]
    _get(address, {"key": "j", "output": first.key})

    def fail(*_):
        raise StoreError("labels.jsonl cannot be written: No space left on device.")

    with monkeypatch.context() as full:
        full.setattr(label, "append_labels", fail)
        for form in ({"key": "j", "output": second.key}, {"key": "u", "output": second.key}):
            assert _get(address, form)[:2] == (500, "labels.jsonl cannot be written: No space left on device.")
            assert (work.pressed, work.left[0]) == ([first], second)
    assert thread.is_alive()
    assert f'value="{first.key}"' in _get(address, {"key": "u", "output": second.key})[1]
    assert read_labels(work.run.path).people == {}
    _get(address, {"key": "q"})


def test_a_run_that_is_labeled_to_the_end_is_not_served(tmp_path, monkeypatch, capsys):
    run = write_unread_run(tmp_path / "run", queries=8)
    monkeypatch.setattr(label.webbrowser, "open", pytest.fail)
    work = label.Work(run, "", "ana", 6)
    append_labels(run.path, [Label(one.key, True, "ana", look=6) for one in work.missing()])
    work.begin()
    work.serve()
    whole = len(work.queue.first(6))
    assert f"{whole} of {whole} outputs labeled" in capsys.readouterr().out


def test_text_of_data_and_model_is_escaped():
    hostile = "<script>alert(1)</script>\"'&"
    output = Output("k", "q", hostile, (), (hostile,), (hostile,), hostile, 0.0, True)
    assert "<script>alert" not in page(output, hostile, {"j": "right"})
