"""The base class of models."""

from typing import Any


class lmms:  # noqa: N801 - lmms-eval's name
    is_simple = True

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}
