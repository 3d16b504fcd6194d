"""Published data sets as presets of the task `hub`: one YAML file each, read when it is asked for.

A file holds the keys of `hub`, and begins with a comment: the paper, what its metrics are here, what to fetch.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


class Presets(Mapping[str, Mapping[str, Any]]):
    """name -> keys of the task `hub`, by the names of the files in this folder."""

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        if name not in list(self):
            raise KeyError(name)
        return _read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path.stem for path in FOLDER.glob("*.yaml")))

    def __len__(self) -> int:
        return len(list(iter(self)))


PRESETS = Presets()


@lru_cache
def _read(name: str) -> Mapping[str, Any]:
    from ruamel.yaml import YAML

    keys: Mapping[str, Any] = YAML(typ="safe", pure=True).load(FOLDER / f"{name}.yaml")
    return keys
