"""The files of the looks: `looks/family-<n>/plan.json` and `look-<k>.json` in the run directory.

A look is a pure function of the plan and of the samples up to it. It is written once, in one step, and never again:
a failed sample that is answered later changes no look. Several workers may take the same look; the first one counts.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.store.store import read_mapping
from icl.errors import StoreError

FOLDER = "looks"


def family_folders(run: Path) -> list[Path]:
    """The folders of the families that a run has, in order."""
    folders = (path.parent for path in (run / FOLDER).glob("family-*/plan.json"))
    return sorted(folders, key=lambda folder: int(folder.name.rpartition("-")[2]))


def family_folder(run: Path, number: int) -> Path:
    """The folder of a family."""
    return run / FOLDER / f"family-{number}"


def look_path(family: Path, look: int) -> Path:
    """The file of a look in the folder of its family."""
    return family / f"look-{look:03}.json"


def read_content(path: Path) -> dict[str, Any] | None:
    """The content of a file, or None if there is none. Raises StoreError if it is damaged."""
    return read_mapping(path, "Restore it from a copy, or use another name.")


def write_once(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a file in one step unless it exists. Returns the content of the file that counts."""
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
    return read_content(path) or {}
