import json
from pathlib import Path

from experiments.launch.sample_counter import SampleCounter
from experiments.store.store import Store

A, B = "a" * 16, "b" * 16


def line(query: str, cell: str = A, failed: str = "") -> str:
    sample = {"cell": cell, "query": query, "seed": 0, "output": "x"}
    return json.dumps({**sample, "failed": failed} if failed else sample) + "\n"


def put(folder: Path, text: str, cell: str = A, worker: str = "0") -> None:
    path = folder / "cells" / cell / f"{worker}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def test_new_samples_are_counted_and_each_query_once(tmp_path: Path) -> None:
    counter = SampleCounter(Store(tmp_path), [(A, 3), (B, 1)], None)
    assert (counter.poll(), counter.done, counter.samples, counter.cells_done) == ([], 0, 4, 0)
    put(tmp_path, line("q1") + line("q2"))
    put(tmp_path, line("q2") + line("q3")[:-9], worker="1")
    counter.poll()
    assert (counter.done, counter.cells_done) == (2, 0), "half a line is not counted"
    put(tmp_path, line("q3")[-9:], worker="1")
    put(tmp_path, line("q1", B), B)
    counter.poll()
    assert (counter.done, counter.cells_done) == (4, 2)


def test_a_failed_sample_is_reported_once_and_counts_as_finished_when_it_is(tmp_path: Path) -> None:
    counter = SampleCounter(Store(tmp_path), [(A, 2)], None)
    put(tmp_path, line("q1", failed="no image") + line("q2"))
    assert counter.poll() == [("q1", "no image")]
    assert (counter.poll(), counter.done, counter.failed) == ([], 2, 1)
    put(tmp_path, line("q1"))
    assert (counter.poll(), counter.done, counter.failed) == ([], 2, 0)


def test_merged_files_are_counted_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    counter = SampleCounter(store, [(A, 3)], None)
    put(tmp_path, line("q1") + line("q2"), worker="w-1")
    put(tmp_path, line("q3"), worker="w-2")
    counter.poll()
    store.replace_samples(A, list(store.samples(A)))
    counter.poll()
    assert (counter.done, [path.name for path in (tmp_path / "cells" / A).iterdir()]) == (3, ["0.jsonl"])


def test_a_rewritten_file_is_counted_again(tmp_path: Path) -> None:
    counter = SampleCounter(Store(tmp_path), [(A, 3)], None)
    put(tmp_path, line("q1", failed="no image, for a long reason") + line("q2"))
    counter.poll()
    (tmp_path / "cells" / A / "0.jsonl").write_text(line("q1") + line("q2"))
    counter.poll()
    assert (counter.done, counter.failed) == (2, 0)
    put(tmp_path, line("q3"))
    counter.poll()
    assert (counter.done, counter.cells_done) == (3, 1)


def test_only_files_of_the_workers_are_counted(tmp_path: Path) -> None:
    put(tmp_path, line("q1"))
    put(tmp_path, line("q2"), worker="w-1")
    counter = SampleCounter(Store(tmp_path), [(A, None)], ["w-1", "w-2"])
    counter.poll()
    assert (counter.done, counter.samples) == (1, 0)
