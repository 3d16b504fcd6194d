"""What a check of `python -m lab.gpu` is, and the registry of checks.

A check is a module of `checks/` with one value `CHECK`. Its function yields figures. Each check runs in a process of
its own, so that a check that hangs or dies is one red row and the other checks still run.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from icl.errors import ICLError

Status = Literal["ok", "red", "not here"]
MIN_SECONDS, QUICK_FRACTION = 60.0, 0.5
"""Shortest time limit of a check, which also imports torch and transformers, and the part of a limit with `--quick`."""


class NotHereError(Exception):
    """Raised by a check that this machine cannot run. The message is the reason."""


@dataclass(frozen=True)
class Figure:
    """One measured figure of a check.

    Attributes:
        name: What was measured.
        measured: The figure, with its unit.
        expected: The figure expected; '' if none is.
        passes: Whether it meets the criterion. None: it is only recorded.
    """

    name: str
    measured: str
    expected: str = ""
    passes: bool | None = None


@dataclass(frozen=True)
class Bench:
    """What a check works with.

    Attributes:
        folder: Folder for files of the checks, removed afterwards.
        device: 'cuda', or 'cpu' on a machine without a GPU.
        is_quick: Whether checks measure less.
        models: Name of a checkpoint of random weights ('full', 'narrow') -> its folder. Without a GPU all are 'tiny'.
    """

    folder: Path
    device: str
    is_quick: bool = False
    models: dict[str, str] = field(default_factory=dict)

    def model(self, name: Literal["full", "narrow"]) -> str:
        """Path of a checkpoint: of 8B shapes, or of the same shapes with few layers; the shipped one without a GPU."""
        path = self.models.get(name) or self.models.get("narrow")
        if path is None and self.device != "cpu":
            raise NotHereError("the checkpoint of random weights could not be made")
        return path or "tiny"

    @property
    def dtype(self) -> Literal["bfloat16"]:
        """The precision of the large checkpoints."""
        return "bfloat16"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Bench":
        return cls(**{**values, "folder": Path(values["folder"])})


@dataclass(frozen=True)
class BenchCheck:
    """A check.

    Attributes:
        number: Its place on the page.
        title: What is checked.
        passes: The criterion.
        minutes: Its time limit; with `--quick` half of it.
        run: Yields the figures. Raises NotHereError.
        needs: What the machine must have: names of `requirements.REQUIREMENTS`.
        in_quick: Whether `--quick` includes it.
        uses_models: Whether it uses the checkpoints of random weights.
    """

    number: int
    title: str
    passes: str
    minutes: float
    run: Callable[[Bench], Iterator[Figure]]
    needs: Sequence[str] = ()
    in_quick: bool = True
    uses_models: bool = True

    @property
    def module(self) -> str:
        """The module that defines the check, which its process imports."""
        return self.run.__module__

    def seconds(self, is_quick: bool) -> float:
        """The time limit."""
        return max(MIN_SECONDS, self.minutes * 60 * (QUICK_FRACTION if is_quick else 1))


def judge(bench: Bench, ratio: float, goal: float | None) -> tuple[str, bool | None]:
    """The figure expected, and whether a ratio reaches it. On a CPU it is only recorded."""
    if goal is None:
        return "", None
    if bench.device == "cpu":
        return f"at least {goal} on a GPU; the shipped model is mostly overhead", None
    return f"at least {goal}", ratio >= goal


def load_check(module: str) -> BenchCheck:
    """The check of a module."""
    check = getattr(importlib.import_module(module), "CHECK", None)
    if not isinstance(check, BenchCheck):
        raise ICLError(f"{module}: a check defines CHECK, a BenchCheck.")
    return check


def all_checks() -> list[BenchCheck]:
    """The checks of the folder `checks`, by their numbers."""
    from lab.gpu import checks

    names = [module.name for module in pkgutil.iter_modules(checks.__path__)]
    return sorted((load_check(f"{checks.__name__}.{name}") for name in names), key=lambda check: check.number)
