"""Columns of a frame of samples that are read and decoded when their values are used.

Tables and statistics read a few columns of numbers. Prompts, traces and demonstrations are the largest part of a run,
and only single samples or single analyses need them.
"""

import builtins
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.extensions import ExtensionArray, ExtensionDtype
from pandas.api.indexers import check_array_indexer

from experiments.store.sample_table import SMALL, SampleTable

if TYPE_CHECKING:  # the numpy of vLLM's environment has no generic bool
    TakeIndexer = Sequence[int | np.integer[Any]] | NDArray[np.integer[Any] | np.bool[builtins.bool]]


class LazyType(ExtensionDtype):
    """The pandas type of a lazy column. Its values are Python objects; NaN is a missing value."""

    name = "lazy"
    type = object
    na_value = np.nan

    @classmethod
    def construct_array_type(cls) -> "builtins.type[LazyColumn]":
        return LazyColumn


class LazyColumn(ExtensionArray):
    """A pandas array: one column of a `SampleTable` in some rows. Equal values may be one object: change none."""

    def __init__(self, table: SampleTable, name: str, rows: NDArray[np.intp]) -> None:
        self.table, self.name, self.rows = table, name, rows

    def values(self) -> list[Any]:
        """The decoded values."""
        return self.table.values([self.name], self.rows)[self.name]

    @property
    def dtype(self) -> LazyType:
        return LazyType()

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = np.empty(len(self), dtype=object)
        array[:] = self.values()
        return array if dtype is None else array.astype(dtype)

    def __getitem__(self, item: Any) -> Any:
        rows = self.rows[check_array_indexer(self, item)]
        return self._of(rows) if isinstance(rows, np.ndarray) else self._of(np.array([rows])).values()[0]

    def __eq__(self, other: object) -> Any:
        return np.asarray(self) == other

    __hash__ = ExtensionArray.__hash__

    def isna(self) -> NDArray[np.bool_]:
        return np.array([isinstance(value, float) and math.isnan(value) for value in self], dtype=bool)

    def take(self, indices: "TakeIndexer", *, allow_fill: bool = False, fill_value: Any = None) -> Self:
        places = np.asarray(indices, dtype=np.intp)
        if not allow_fill:
            return self._of(self.rows[places])
        if (places < -1).any():
            raise ValueError("a place is -1 where a value is missing, or not negative.")
        return self._of(np.append(self.rows, -1)[places])  # the place -1

    def copy(self) -> Self:
        return self._of(self.rows)

    def factorize(self, use_na_sentinel: bool = True) -> tuple[NDArray[np.intp], Self]:
        """As in pandas. A column of few values (`sample_table.SMALL`) decodes none of them."""
        if use_na_sentinel or self.name not in SMALL:
            return super().factorize(use_na_sentinel)
        stored = self.table.small[self.name].combine_chunks().indices.fill_null(-1).to_numpy(zero_copy_only=False)
        codes, _ = pd.factorize(np.append(stored, -1)[self.rows])  # the row -1 has no value either
        return codes, self._of(self.rows[np.unique(codes, return_index=True)[1]])

    @classmethod
    def _concat_same_type(cls, to_concat: Sequence[Self]) -> Self:
        first = to_concat[0]
        if any((column.table, column.name) != (first.table, first.name) for column in to_concat):
            raise TypeError("lazy columns of two runs cannot be joined: use `Run.samples()`.")
        return first._of(np.concatenate([column.rows for column in to_concat]))

    @classmethod
    def _from_sequence(cls, scalars: Any, *, dtype: Any = None, copy: bool = False) -> Self:
        raise TypeError("a lazy column is made from a table of samples only.")

    def _of(self, rows: NDArray[np.intp]) -> Self:
        return type(self)(self.table, self.name, rows)


def load_details(frame: pd.DataFrame, shared: bool = True) -> pd.DataFrame:
    """A frame with decoded values in place of its lazy columns, which are read in one pass.

    Args:
        frame: Samples of one run.
        shared: Whether equal values may be one object.
    """
    lazy = {str(name): column.array for name, column in frame.items() if isinstance(column.array, LazyColumn)}
    if not lazy:
        return frame
    first = next(iter(lazy.values()))
    details = first.table.values([array.name for array in lazy.values()], first.rows, shared)
    return frame.assign(**{name: pd.Series(details[array.name], frame.index) for name, array in lazy.items()})
