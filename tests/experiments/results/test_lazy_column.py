from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.results.lazy_column import LazyColumn, load_details
from experiments.stats import flags_by_value, to_records
from experiments.store.sample_table import SampleTable


@pytest.fixture
def run(written: Any) -> Any:
    return written(queries=4, traced=True)


def test_the_lazy_frame_has_the_values_of_the_whole_one(run: Any) -> None:
    lazy, whole = run.lazy_samples(), run.samples()
    assert list(lazy) == list(whole)
    assert {name for name in lazy if isinstance(lazy[name].array, LazyColumn)} >= {"prompt", "demos", "trace", "gold"}
    assert not any(isinstance(whole[name].array, LazyColumn) for name in whole)
    pd.testing.assert_frame_equal(load_details(lazy), whole)
    for name in ("prompt", "demos", "trace"):
        assert lazy[name].dropna().tolist() == whole[name].dropna().tolist()


def test_rows_are_chosen_as_in_any_column(run: Any) -> None:
    lazy, whole = run.lazy_samples()["demos"], run.samples()["demos"]
    present = whole[whole.notna()].index
    assert lazy.isna().tolist() == whole.isna().tolist()
    assert lazy.loc[present[::-1]].tolist() == whole.loc[present[::-1]].tolist()
    assert lazy[whole.notna()].iloc[0] == whole[present[0]]
    assert lazy.iloc[2:5].array.rows.tolist() == [2, 3, 4]
    assert lazy[whole.notna()].map(len).tolist() == whole[whole.notna()].map(len).tolist()
    missing = lazy.reindex([present[0], -5])
    assert missing.iloc[0] == whole[present[0]]
    assert np.isnan(missing.iloc[1])
    assert pd.concat([lazy[:2], lazy[4:6]]).array.rows.tolist() == [0, 1, 4, 5]


def test_equal_texts_of_a_small_column_have_one_number(run: Any) -> None:
    lazy = run.lazy_samples()[["gold"]].reindex([3, 0, 0, 1, -5])["gold"]
    codes, values = pd.factorize(lazy.array, use_na_sentinel=False)
    assert [str(values[code]) for code in codes] == [str(value) for value in lazy]
    assert [str(value) for value in values] == list(dict.fromkeys(map(str, lazy)))


def test_flags_are_asked_once_for_each_value(run: Any) -> None:
    lazy, whole = run.lazy_samples(), run.samples()
    lazy, whole = (frame.reindex([*frame.index, -5]) for frame in (lazy, whole))
    values_read = []

    def is_flagged(row: Any) -> bool:
        values_read.append((row.get("output"), row.get("gold")))
        return f"{row.get('output')}{row.get('gold')}" > "c"

    flags = flags_by_value(lazy, ["output", "gold", "no such column"], is_flagged)
    assert len(values_read) == len(set(map(str, values_read))) < len(lazy)
    assert flags.tolist() == flags_by_value(whole, ["output", "gold"], is_flagged).tolist()
    assert flags.tolist() == [is_flagged(row) for row in to_records(whole)]


def test_no_value_is_read_before_it_is_used(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = run.lazy_samples()
    read = []
    original = SampleTable.values
    monkeypatch.setattr(
        SampleTable, "values", lambda self, names, *rest: read.extend(names) or original(self, names, *rest)
    )
    part = frame[frame["shots"] == 4].sort_values("seed")
    groups = dict(iter(part.groupby("retriever")))
    assert not read
    groups["knn"]["trace"].tolist()
    assert read == ["trace"]


def test_columns_of_two_runs_are_not_joined(written: Any) -> None:
    one, other = (written(name, queries=2).lazy_samples()["demos"] for name in ("a", "b"))
    with pytest.raises(TypeError, match=r"lazy columns of two runs cannot be joined"):
        pd.concat([one, other])


def test_a_place_below_minus_one_is_refused_where_minus_one_is_a_missing_value(run: Any) -> None:
    array = run.lazy_samples()["demos"].array
    assert np.isnan(array.take([-1], allow_fill=True)[0])
    assert array.take([-1]).rows.tolist() == [len(array) - 1]
    for place in (-2, -3):
        with pytest.raises(ValueError, match="a place is -1 where a value is missing"):
            array.take([0, place], allow_fill=True)
