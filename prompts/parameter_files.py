"""Files that a component's parameters name: found beside the experiment, and known by their content.

A cell is what its parameters say, so a component that reads a file carries the digest of what it read: an edited file
is another cell.
"""

import hashlib
from pathlib import Path
from typing import Any

from icl.errors import ConfigError, did_you_mean
from icl.loading import SEARCH_FOLDERS


def find(name: str, what: str, beside: Path | None = None) -> Path:
    """The file: absolute, in the working directory, beside the experiment file, or in a folder of our own.

    Raises ConfigError with the nearest name of that folder.
    """
    folders = [Path.cwd(), *SEARCH_FOLDERS.get(), *([beside] if beside else [])]
    tried = [Path(name)] if Path(name).is_absolute() else [folder / name for folder in folders]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        near = did_you_mean(name, [path.name for path in sorted(beside.glob("*.*"))]) if beside else ""
        raise ConfigError(f"there is no {what} '{name}' (looked in {', '.join(map(str, folders))}).{near}")
    return found


def read(path: Path, what: str) -> str:
    """Its text. Raises ConfigError where it is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} cannot be read as text: {error}.") from error


def pin(component: Any, text: str, what: str) -> None:
    """Writes the digest of `text` into the component's field `code`. Raises ConfigError where another stands there."""
    code = hashlib.sha256(text.encode()).hexdigest()[:12]
    if component.code not in ("", code):
        raise ConfigError(f"{what} has changed: its digest is {code}, not {component.code}. Leave 'code' out.")
    object.__setattr__(component, "code", code)
