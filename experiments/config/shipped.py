"""The experiment files that come with the package, by name: `quickstart` is `experiments/configs/quickstart.yaml`."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from icl import ConfigError, did_you_mean

FOLDER = Path(__file__).parents[1] / "configs"
SUFFIXES = (".yaml", ".yml", ".json")


def shipped_configs() -> Mapping[str, Path]:
    """name -> file, in alphabetical order. A file of a folder has the folder in its name."""
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in sorted(FOLDER.rglob("*.yaml"))}


def find_config(source: Path) -> Path:
    """The file that a path or the name of a shipped experiment means.

    Args:
        source: A path that exists or has the suffix of a YAML or JSON file stays as it is. Anything else is a name.

    Raises:
        ConfigError: There is neither such a file nor such a name.
    """
    if source.suffix in SUFFIXES or os.path.lexists(source):
        return source
    shipped, name = shipped_configs(), source.as_posix()
    if name in shipped:
        return shipped[name]
    candidates = [str(path) for suffix in SUFFIXES[:2] if os.path.isfile(path := Path(f"{source}{suffix}"))]
    hint = did_you_mean(name, candidates or shipped)
    raise ConfigError(f"there is no file {source} and no shipped experiment of that name.{hint} (icl ls configs)")


def summary(path: Path) -> str:
    """The first sentence of the comment at the top of an experiment file."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# ") or line.startswith("#  "):  # indented: a command
            break
        lines.append(line[2:])
    text = " ".join(lines)
    end = re.search(r"[.?!](?= [A-Z]|$)", text)
    return text[: end.end()] if end else text
