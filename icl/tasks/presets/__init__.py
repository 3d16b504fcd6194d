"""Published data sets as presets of the task `hub`: one YAML file each, read at first use.

A file holds the keys of `hub`, and `by`: the columns by which the benchmark reports its scores, which is no parameter.
It begins with a comment on the paper, its metrics here and the download. `checks.json` says for each preset against
what its columns were checked, and when `icl data check NAME --record` last read its data: date, commit and columns.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from icl import ruamel

FOLDER = Path(__file__).parent
BY = "by"


class Presets(Mapping[str, Mapping[str, Any]]):
    """A mapping from the names of the files in this folder to the keys of the task `hub`."""

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        if name not in list(self):
            raise KeyError(name)
        return {key: value for key, value in _read(name).items() if key != BY}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path.stem for path in FOLDER.glob("*.yaml")))

    def __len__(self) -> int:
        return len(list(iter(self)))


PRESETS = Presets()
CHECKS: dict[str, dict[str, Any]] = json.loads((FOLDER / "checks.json").read_text(encoding="utf-8"))
"""Preset -> `against` (what its columns were compared with), `date`, `revision` and `columns` of its last check."""


def record_check(name: str, revision: str, columns: Sequence[str]) -> None:
    """Stores a check of a preset on its data."""
    now = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "revision": revision, "columns": list(columns)}
    CHECKS[name] = {**CHECKS.get(name, {}), **now}
    text = json.dumps(dict(sorted(CHECKS.items())), indent=1, ensure_ascii=False)
    (FOLDER / "checks.json").write_text(text + "\n", encoding="utf-8")


def preset_columns(name: str) -> tuple[str, ...]:
    """The columns by which a benchmark reports its scores; none for a name that is no preset."""
    return tuple(_read(name).get(BY, ())) if name in list(PRESETS) else ()


@lru_cache
def _read(name: str) -> Mapping[str, Any]:
    keys: Mapping[str, Any] = ruamel.yaml.YAML(typ="safe", pure=True).load(FOLDER / f"{name}.yaml")
    return keys
