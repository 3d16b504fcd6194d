"""Files that component parameters name: located next to the experiment, and identified by their content.

A cell is identified by its parameters. So a component that reads a file stores the digest of the content, and an edited
file gives another cell.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from icl import ConfigError, did_you_mean, search_candidates


def find(name: str, what: str, shipped: Path | None = None) -> Path:
    """The path of a file: absolute, or next to the experiment file, in the working directory, or in `shipped`.

    Raises:
        ConfigError: There is no such file, or the name cannot be one. The message suggests the nearest name in
            `shipped`.
    """
    candidates = [*search_candidates(name), *([shipped / name] if shipped else [])]
    try:
        path = next((path for path in candidates if path.is_file()), None)
    except OSError as error:
        raise ConfigError(
            f"{what} is the name of a file, not its text, and '{name[:60]}…' cannot be one: {error.strerror}. "
            "Write the text to a file, and give its name."
        ) from error
    if path is None:
        suggestion = did_you_mean(name, [path.name for path in sorted(shipped.glob("*.*"))]) if shipped else ""
        looked_in = ", ".join(str(path.parent) for path in candidates)
        raise ConfigError(f"there is no {what} '{name}' (looked in {looked_in}).{suggestion}")
    return path


def read(path: Path, what: str) -> str:
    """The text of a file. Raises ConfigError if it is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} cannot be read as text: {error}.") from error


def pin(component: Any, content: str | bytes, what: str) -> None:
    """Store the digest of the content in the component's field `code`. Raises ConfigError if it holds another one."""
    code = hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:12]
    if component.code not in ("", code):
        raise ConfigError(f"{what} has changed: its digest is {code}, not {component.code}. Remove 'code'.")
    object.__setattr__(component, "code", code)


def expand_user(path: str | Path) -> Path:
    """The path with its `~` or `~user` replaced by the home folder. Raises ConfigError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = Path(path).parts[0].removeprefix("~")
        who = f"the user '{user}' has" if user else "the user of this process has"
        raise ConfigError(f"the path {path}: {who} no home folder on this machine. Write the whole path.") from error


def pin_file(component: Any, path: str | Path, what: str) -> None:
    """`pin` with the content of a file. Nothing happens if there is no file: the component's preflight raises then.

    Call it when the component is created and again when the file is read, so that a change in between is an error.
    """
    file = expand_user(path)
    if os.path.isfile(file):  # False for names that no file can have, where Path.is_file raises
        pin(component, file.read_bytes(), what)


def cache_folder(path: str | None = None) -> Path:
    """`path`, or the environment variable ICL_CACHE, or the platform's cache folder."""
    if folder := path or os.environ.get("ICL_CACHE"):
        return expand_user(folder)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mm-icl"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "mm-icl"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mm-icl"


def write_cache(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file of the cache folder in one step. On a full disk there is none, so it is computed again."""
    file = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
        file.replace(path)
    except OSError:
        with suppress(OSError):
            file.unlink(missing_ok=True)
