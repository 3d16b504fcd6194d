import csv
import io
import os
import re
import sys
from threading import Thread

import pytest
from unread_run import says, write_unread_run

from experiments.cli import label
from experiments.cli.main import main
from experiments.results.labeling import make_queue
from experiments.store.labels import LABELS, read_labels

SCREEN = re.compile(r"\[(\d+) of (\d+)\]\n.*?accepted +(\S+)\n.*?output +([^\n]*)\n", re.DOTALL)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_unread_run(tmp_path_factory.mktemp("unread") / "run", queries=60)


@pytest.fixture
def run(source, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for path in source.path.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def _press(monkeypatch, keys):
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{key}\n" for key in keys)))


def test_each_key_is_written_at_once_and_the_command_goes_on_where_it_stopped(run, monkeypatch, capsys):
    keys = iter("jf u")

    def press():
        if (key := next(keys, None)) is None:
            raise KeyboardInterrupt
        return key

    with monkeypatch.context() as patched:
        patched.setattr(label, "read_key", press)
        assert main(["label", str(run), "--by", "ana", "--queries", "10"]) == 130
    labels = read_labels(run)
    assert [one for by_person in labels.people.values() for one in by_person.values()] == [True, False]
    first = [one[3] for one in SCREEN.findall(capsys.readouterr().out)]
    assert first[2] == first[4]  # taken back
    _press(monkeypatch, ["q"])
    assert main(["label", str(run), "--by", "ana", "--queries", "10"]) == 0
    out = capsys.readouterr().out
    assert SCREEN.findall(out)[0][3] == first[2]
    assert f"To go on: icl label {run} --queries 10" in out


def test_neither_arm_nor_score_nor_reading_is_shown_and_each_output_once(run, monkeypatch, capsys):
    _press(monkeypatch, " " * 200)
    assert main(["label", str(run), "--by", "ana"]) == 0
    out = capsys.readouterr().out
    labeling = out[: out.index("outputs labeled ")]
    assert not re.search("shot|random|greedy|lenient|unread", labeling)
    outputs = re.findall(r"question +([^\n]*)\n.*?output +([^\n]*)\n", out, re.DOTALL)
    assert len(outputs) == len(set(outputs)) > 30
    assert all(verdict is None for by_person in read_labels(run).people.values() for verdict in by_person.values())


def test_a_second_person_labels_all_again_and_disagreement_is_listed(run, monkeypatch, capsys):
    for by, key in (("ana", "j"), ("bo", "f")):
        _press(monkeypatch, key * 200)
        assert main(["label", str(run), "--by", by, "--queries", "5"]) == 0
    disputed = len(read_labels(run).disputed)
    assert f"ana and bo disagree on {disputed} outputs, left unread" in capsys.readouterr().out


def test_a_file_for_crowd_workers_comes_back_as_the_same_labels(run, tmp_path, monkeypatch, capsys):
    path = tmp_path / "outputs.csv"
    assert main(["label", str(run), "--export", str(path), "--queries", "20"]) == 0
    rows = list(csv.DictReader(path.open()))
    for row in rows:
        row["right"] = "right" if says(row["accepted"], row["output"]) else "wrong"
    rows[0]["right"], rows[1]["right"] = "?", ""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert main(["label", str(run), "--import", str(path), "--by", "crowd", "--queries", "20"]) == 0
    labels = read_labels(run)
    assert len(labels.people) == len(rows) - 1
    assert {key: labels.verdict(key) for key in labels.people} == {
        row["key"]: {"right": True, "wrong": False, "?": None}[row["right"]] for row in rows if row["right"]
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [("own,mostly", "row 2: 'mostly' is no verdict"), ("0000,right", "row 2: the run has no such output")],
)
def test_a_wrong_row_adds_no_label(run, tmp_path, capsys, row, message):
    own = make_queue(label.load_run(run).lazy_samples(), "lenient").first(5)[0].key
    (tmp_path / "a.csv").write_text(f"key,right\n{row.replace('own', own)}\n{own},right\n")
    assert main(["label", str(run), "--import", str(tmp_path / "a.csv")]) == 2
    assert message in capsys.readouterr().err
    assert not (run / LABELS).exists()


def test_a_run_that_is_read_whole_has_nothing_to_label(tmp_path, capsys):
    run = write_unread_run(tmp_path / "run", queries=20, prose=0)
    assert main(["label", str(run.path)]) == 2
    assert "has no output that 'lenient' cannot read" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_single_keys_in_a_terminal_label_a_run_to_the_end(run, monkeypatch):
    import pty

    terminal, own = pty.openpty()
    text, keys = "", 0

    def person():
        nonlocal text, keys
        screen = ""
        while len(data := os.read(terminal, 65536)) > 0 and b"\x04" not in data:
            screen, text = (one + data.decode().replace("\r\n", "\n") for one in (screen, text))
            while match := SCREEN.search(screen):
                os.write(terminal, b"j" if says(match[3], match[4]) else b"f")
                screen, keys = screen[match.end() :], keys + 1

    watcher = Thread(target=person)
    watcher.start()
    with os.fdopen(own, "r+b", buffering=0) as raw, monkeypatch.context() as patched:
        patched.setattr("sys.stdin", io.TextIOWrapper(os.fdopen(os.dup(own), "rb")))
        patched.setattr("sys.stdout", io.TextIOWrapper(os.fdopen(os.dup(own), "wb"), write_through=True))
        status = main(["label", str(run), "--by", "ana", "--queries", "4"])
        raw.write(b"\x04")
        watcher.join()
    assert status == 0
    assert not re.search("^[jf]", text, re.MULTILINE)  # keys are not echoed
    labels, queue = read_labels(run), make_queue(label.load_run(run).lazy_samples(), "lenient")
    assert {one.key: labels.verdict(one.key) for one in queue.first(4)} == {
        one.key: says(one.gold[0], one.text) for one in queue.first(4)
    }
