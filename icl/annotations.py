"""Types of heavy libraries, for annotations alone.

A type checker sees the classes. At runtime each is `Any`, so a method names a tensor or a table in its signature and
imports neither torch nor pandas.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["DataFrame", "Series", "Tensor"]

if TYPE_CHECKING:
    from pandas import DataFrame, Series
    from torch import Tensor
else:
    DataFrame = Series = Tensor = Any
