import json
from pathlib import Path

from experiments.launch.sample_counter import SampleCounter
from experiments.store.store import Store

A, B = "a" * 16, "b" * 16


def line(query: str, cell: str = A, failed: str = "") -> str:
    told = {"cell": cell, "query": query, "seed": 0, "output": "x"}
    return json.dumps({**told, "failed": failed} if failed else told) + "\n"


def put(folder: Path, text: str, cell: str = A, worker: str = "0") -> None:
    path = folder / "cells" / cell / f"{worker}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def test_it_counts_what_is_new_and_a_query_once(tmp_path: Path) -> None:
    tally = SampleCounter(Store(tmp_path), [(A, 3), (B, 1)], None)
    assert (tally.poll(), tally.done, tally.samples, tally.cells_done) == ([], 0, 4, 0)
    put(tmp_path, line("q1") + line("q2"))
    put(tmp_path, line("q2") + line("q3")[:-9], worker="1")
    tally.poll()
    assert (tally.done, tally.cells_done) == (2, 0), "half a line is not counted"
    put(tmp_path, line("q3")[-9:], worker="1")
    put(tmp_path, line("q1", B), B)
    tally.poll()
    assert (tally.done, tally.cells_done) == (4, 2)


def test_a_failed_sample_is_told_once_and_counts_as_finished_when_it_is(tmp_path: Path) -> None:
    tally = SampleCounter(Store(tmp_path), [(A, 2)], None)
    put(tmp_path, line("q1", failed="no image") + line("q2"))
    assert tally.poll() == [("q1", "no image")]
    assert (tally.poll(), tally.done, tally.failed) == ([], 2, 1)
    put(tmp_path, line("q1"))
    assert (tally.poll(), tally.done, tally.failed) == ([], 2, 0)


def test_files_that_were_put_together_are_counted_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tally = SampleCounter(store, [(A, 3)], None)
    put(tmp_path, line("q1") + line("q2"), worker="w-1")
    put(tmp_path, line("q3"), worker="w-2")
    tally.poll()
    store.replace_samples(A, list(store.samples(A)))
    tally.poll()
    assert (tally.done, [path.name for path in (tmp_path / "cells" / A).iterdir()]) == (3, ["0.jsonl"])


def test_a_file_that_was_written_anew_is_counted_anew(tmp_path: Path) -> None:
    tally = SampleCounter(Store(tmp_path), [(A, 3)], None)
    put(tmp_path, line("q1", failed="no image, for a long reason") + line("q2"))
    tally.poll()
    (tmp_path / "cells" / A / "0.jsonl").write_text(line("q1") + line("q2"))
    tally.poll()
    assert (tally.done, tally.failed) == (2, 0)
    put(tmp_path, line("q3"))
    tally.poll()
    assert (tally.done, tally.cells_done) == (3, 1)


def test_the_files_of_some_workers_alone(tmp_path: Path) -> None:
    put(tmp_path, line("q1"))
    put(tmp_path, line("q2"), worker="w-1")
    tally = SampleCounter(Store(tmp_path), [(A, None)], ["w-1", "w-2"])
    tally.poll()
    assert (tally.done, tally.samples) == (1, 0)
