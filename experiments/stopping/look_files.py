"""The files of the looks: `looks/family-<n>/plan.json` and `look-<k>.json` in the run directory.

A look is a pure function of the plan and of the samples up to it. It is written once, in one step: a failed sample that
is answered later changes no look. Several workers may take the same look; the first one counts. A file that is lost or
damaged is made again, the plan from the config and a look from the samples.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from experiments.stats.stopping_rule import End, LookResult, NaNFromNull
from experiments.stopping.plan import REMEDY, StopPlan
from experiments.store.json_shapes import Shape, check_shape
from experiments.store.store import read_mapping
from icl.errors import DamagedFileError, StoreError

FOLDER = "looks"


class LookEntry(Shape):
    """A comparison in the file of a look. Without a result, it ended by its last one."""

    pairs_digest: str
    end: End
    chance: NaNFromNull
    clusters: int = 0
    sums: tuple[float, ...] | None = None
    pairs: tuple[int, ...] = ()
    dropped: tuple[tuple[str, int], ...] = ()
    result: LookResult | None = None


class Look(Shape):
    """The shape of looks/family-<n>/look-<k>.json. of: the number of the last look."""

    comparisons: dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")], LookEntry]
    of: int | None = None


def family_folders(run: Path) -> list[Path]:
    """The folders of the families that a run has, in order."""
    folders = {path.parent for path in (run / FOLDER).glob("family-*/*.json")}
    numbers = {folder: folder.name.removeprefix("family-") for folder in folders}
    return sorted((folder for folder in folders if numbers[folder].isdecimal()), key=lambda one: int(numbers[one]))


def family_folder(run: Path, number: int) -> Path:
    """The folder of a family."""
    return run / FOLDER / f"family-{number}"


def look_path(family: Path, look: int) -> Path:
    """The file of a look in the folder of its family."""
    return family / f"look-{look:03}.json"


def read_plan(family: Path) -> StopPlan:
    """The plan of a family. Raises DamagedFileError if it is damaged or missing."""
    path = family / "plan.json"
    content = read_mapping(path, REMEDY)
    if content is None:
        raise DamagedFileError(f"{path} is missing. {REMEDY}")
    return StopPlan.from_dict(content, path)


def read_look(family: Path, look: int, plan: StopPlan) -> Look | None:
    """The content of a look, or None if it was not taken.

    Raises:
        DamagedFileError: The file is damaged, has comparisons of another plan, or is missing before a later look.
    """
    path = look_path(family, look)
    content = _read_shaped(path)
    if content is None and any(later.name > path.name for later in family.glob("look-*.json")):
        raise DamagedFileError(f"{path} is missing. {REMEDY}")
    if content is not None and not _is_of_plan(content, plan):
        raise DamagedFileError(f"{path} has comparisons of another plan. {REMEDY}")
    return content


def may_be_of_plan(family: Path, plan: StopPlan) -> bool:
    """Whether the looks of a family that can be read have the comparisons of a plan."""
    for path in family.glob("look-*.json"):
        with suppress(DamagedFileError):
            content = _read_shaped(path)
            if content is None or content.of != plan.num_looks or not _is_of_plan(content, plan):
                return False
    return True


def _read_shaped(path: Path) -> Look | None:
    content = read_mapping(path, REMEDY)
    return None if content is None else check_shape(Look, content, path, REMEDY)


def _is_of_plan(content: Look, plan: StopPlan) -> bool:
    digests = {str(i): one.digest for i, one in enumerate(plan.comparisons)}
    return all(entry.pairs_digest == digests.get(key) for key, entry in content.comparisons.items())


def write_once(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file in one step unless it exists."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not path.exists():
                part.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            part.unlink()
