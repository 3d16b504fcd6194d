import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.store import sample_table
from experiments.store.sample_table import CACHE, SampleTable, column_path
from experiments.store.store import SampleWriter, Store
from icl.errors import StoreError
from icl.types import Sample

SAMPLES = (
    Sample(
        cell="c",
        query="q1",
        seed=0,
        question="é?",
        gold=("yes",),
        demos=(("d1", 0.5, "no"), ("d2", 1.0, "yes")),
        output="yes",
        scores={"strict": 1.0, "lenient": 1},
        baselines={"vote": {"strict": 0.0}},
        trace={"entropy": (0.25, 1e-9)},
        steps={"top": [[["a", 0.5]]]},
    ),
    Sample(cell="c", query="q2", seed=0, group="g", output="no", scores={"strict": 0.0}, dropped=2),
    Sample(cell="c", query="q3", seed=0, failed="the image is broken"),
)


def write(store: Store, *samples: Sample, worker: str = "0") -> None:
    with SampleWriter(store, worker) as writer:
        for sample in samples:
            writer.append(sample.cell, [sample])


def lines(store: Store, digest: str = "c") -> Path:
    return store.cell_folder(digest) / "0.jsonl"


def cache(store: Store, digest: str = "c") -> Path:
    return store.cell_folder(digest) / CACHE


def as_samples(table: SampleTable, rows: Any = None) -> list[dict[str, Any]]:
    """The rows of a table as the JSON mappings of `Store.samples`, without `cell`."""
    rows = np.arange(len(table)) if rows is None else np.asarray(rows, dtype=np.intp)
    samples: list[dict[str, Any]] = [{} for _ in rows]
    for name, values in table.values(list(table.columns), rows).items():
        for sample, value in zip(samples, values, strict=True):
            if isinstance(value, float) and np.isnan(value):
                continue
            *path, last = column_path(name)
            place = sample
            for key in path:
                place = place.setdefault(key, {})
            place[last] = value
    return samples


def stored_samples(store: Store, *digests: str) -> list[dict[str, Any]]:
    samples = [sample for digest in digests or ("c",) for sample in store.samples(digest)]
    return [{key: value for key, value in sample.items() if key != "cell"} for sample in samples]


@contextmanager
def no_parsing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The JSON lines may be hashed and not parsed."""
    with monkeypatch.context() as patch:
        patch.setattr("experiments.store.store.parse_line", lambda _: pytest.fail("a line was parsed"))
        yield


def test_a_table_equals_the_samples_of_the_store_with_and_without_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    write(store, *SAMPLES)
    assert as_samples(SampleTable(store, ["c"])) == stored_samples(store)
    assert cache(store).is_file()
    expected = stored_samples(store)
    with no_parsing(monkeypatch):
        assert as_samples(SampleTable(store, ["c"])) == expected


def test_rows_come_in_the_order_in_which_they_are_requested(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, *SAMPLES)
    write(store, *(Sample(cell="d", query=f"q{i}", seed=0, output=str(i), meta={"i": i}) for i in range(4)))
    table = SampleTable(store, ["c", "d"])
    every = stored_samples(store, "c", "d")
    rows = [5, 0, 3, 3, 1, 6]
    assert as_samples(table) == every
    assert as_samples(table, rows) == [every[row] for row in rows]
    assert as_samples(table, [2, -1]) == [every[2], {}], "-1 is a row without values"
    assert as_samples(table, []) == []


def test_a_sample_more_is_in_the_next_table(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for i, sample in enumerate(SAMPLES):
        write(store, sample)
        assert len(SampleTable(store, ["c"])) == i + 1
    write(store, Sample(cell="c", query="q3", seed=0, output="better late"), worker="b")
    assert as_samples(SampleTable(store, ["c"])) == stored_samples(store)
    assert as_samples(SampleTable(store, ["c"]))[2] == {"query": "q3", "seed": 0, "output": "better late"}


def test_a_changed_line_of_the_same_size_and_time_is_read_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, *SAMPLES)
    SampleTable(store, ["c"])
    before = lines(store).stat()
    lines(store).write_text(lines(store).read_text().replace('"output": "no"', '"output": "or"'))
    os.utime(lines(store), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert lines(store).stat().st_size == before.st_size
    assert as_samples(SampleTable(store, ["c"])) == stored_samples(store)


def test_the_cell_decides_which_lines_are_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, *SAMPLES)
    assert len(SampleTable(store, ["c"])) == 3
    store.write_cell("c", {"seed": 1})
    assert len(SampleTable(store, ["c"])) == 0


@pytest.mark.parametrize("part", range(100))
def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr(sample_table, "HELD_BYTES", part % 2 * 2**20)
    store = Store(tmp_path)
    write(store, *SAMPLES)
    table = SampleTable(store, ["c"])
    data = bytearray(cache(store).read_bytes())
    place = len(data) * part // 100
    for damaged in (data[:place], data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]):
        cache(store).write_bytes(damaged)
        assert as_samples(table) == stored_samples(store), "a table that is in use"
        assert as_samples(SampleTable(store, ["c"])) == stored_samples(store)


def test_a_cache_that_cannot_be_written_is_not_needed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, *SAMPLES)
    cache(store).mkdir()
    assert as_samples(SampleTable(store, ["c"])) == stored_samples(store)
    assert sorted(path.name for path in store.cell_folder("c").iterdir()) == [CACHE, "0.jsonl"]


@pytest.mark.parametrize("limit", [0, 2**20])
def test_a_table_in_use_keeps_its_rows_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(sample_table, "HELD_BYTES", limit)
    store = Store(tmp_path)
    write(store, *SAMPLES[:2], worker="b")
    table = SampleTable(store, ["c"])
    write(store, SAMPLES[2], worker="a")
    assert len(SampleTable(store, ["c"])) == 3, "another process writes the cache of three samples, in another order"
    assert [sample["query"] for sample in as_samples(table)] == ["q1", "q2"]
    assert as_samples(table) == stored_samples(store)[1:]


def test_a_table_in_use_of_samples_that_are_gone_is_an_error_if_its_caches_are_too_large_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    write(store, *SAMPLES)
    in_memory = SampleTable(store, ["c"])
    monkeypatch.setattr(sample_table, "HELD_BYTES", 0)
    table = SampleTable(store, ["c"])
    lines(store).write_text("")
    SampleTable(store, ["c"])
    assert [sample["query"] for sample in as_samples(in_memory)] == ["q1", "q2", "q3"]
    with pytest.raises(StoreError, match=r"was changed while it was read\. Try again\."):
        as_samples(table)


def test_cells_may_have_other_fields_and_other_types(tmp_path: Path) -> None:
    """Such as lines of another version, or lines that somebody wrote by hand."""
    store = Store(tmp_path)
    fields: tuple[dict[str, Any], ...] = (
        {"output": "a", "dropped": 1, "usage": {"n": 1}},
        {"output": "b", "dropped": 1.5, "note": {"own": [1]}},
        {"output": 5, "dropped": 10**30, "group": "\ud800", "baselines": {"vote": 1}},
        {"output": True, "dropped": "many", "note": "text"},
        {},
    )
    for i, own in enumerate(fields):
        folder = store.cell_folder(f"c{i}")
        folder.mkdir(parents=True)
        rows = [own, *([] if i % 2 else [fields[i - 1]])]
        text = [json.dumps({"cell": f"c{i}", "query": f"q{j}", "seed": 0, **row}) for j, row in enumerate(rows)]
        (folder / "0.jsonl").write_text("\n".join(text) + "\n")
    digests = [f"c{i}" for i in range(len(fields))]
    for _ in range(2):
        assert as_samples(SampleTable(store, digests)) == stored_samples(store, *digests)


def test_a_run_without_samples_is_an_empty_table(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.cell_folder("c").mkdir(parents=True)
    assert as_samples(SampleTable(store, ["c", "d"])) == as_samples(SampleTable(store, [])) == []
    assert not store.cell_folder("d").exists()


def test_equal_values_are_one_object_unless_they_must_not_be(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, *(Sample(cell="c", query=f"q{i}", seed=0, options=("a", "b")) for i in range(2)))
    table, rows = SampleTable(store, ["c"]), np.arange(2)
    for shared, one in (((), True), ((True,), True), ((False,), False)):
        first, second = table.values(["options"], rows, *shared)["options"]
        assert first == second == ["a", "b"]
        assert (first is second) is one


def test_small_columns_of_several_cells_equal_those_that_are_read_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, *(Sample(cell="c", query=f"q{i}", seed=0, options=("a", f"{i}"), gold=("a",)) for i in range(3)))
    write(store, Sample(cell="d", query="q0", seed=0, finish="stop"))
    rows = np.array([3, 1, -1, 0, 2])
    for name in ("options", "gold", "finish"):
        together, alone = (SampleTable(store, ["c", "d"]).values([name], rows, shared) for shared in (True, False))
        assert repr(together) == repr(alone)


def test_rows_may_be_missing_and_in_any_order(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, *(Sample(cell="c", query=f"q{i}", seed=0, dropped=i + 1) for i in range(3)))
    table = SampleTable(store, ["c"])
    values = table.values(["query", "dropped"], np.array([-1, 2, -1, 0, 2]))
    assert [str(value) for value in values["query"]] == ["nan", "q2", "nan", "q0", "q2"]
    assert [str(value) for value in values["dropped"]] == ["nan", "3", "nan", "1", "3"]


def test_a_column_has_the_common_type_of_its_cells(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for digest, score in (("c", 1), ("d", 0)):
        with SampleWriter(store) as writer:
            writer.append(digest, [Sample(cell=digest, query="q", seed=0, dropped=1, scores={"a": score, "b": score})])
    with SampleWriter(store) as writer:
        writer.append("e", [Sample(cell="e", query="q", seed=0, scores={"a": 0.5})])
    types = SampleTable(store, ["c", "d", "e"]).columns
    path = "scores\x1f"
    assert (types["dropped"], types["seed"], types[f"{path}a"], types[f"{path}b"]) == (
        "int64",
        "int64",
        "double",
        "int64",
    )
    assert types["query"] not in ("json", "int64")
