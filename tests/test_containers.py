"""The container recipes name what the project has. The images are not built."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (ROOT / "containers" / "apptainer.def").read_text(encoding="utf-8")
NEEDED = {
    "pyproject.toml",
    PROJECT["project"]["readme"],
    *PROJECT["project"]["license-files"],
    *PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
}


def test_the_recipes_install_extras_of_the_project() -> None:
    docs = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    used = re.findall(r"EXTRAS=([a-z,]+)", DOCKERFILE + APPTAINER + docs)
    assert len(used) >= 5
    assert {extra for extras in used for extra in extras.split(",")} <= set(PROJECT["project"]["optional-dependencies"])


def test_the_recipes_copy_what_the_wheel_is_built_from() -> None:
    files = APPTAINER.split("%files\n")[1].split("\n\n")[0]
    assert {line.split()[0] for line in files.splitlines()} == NEEDED
    ignored = {name.strip("/") for name in (ROOT / ".dockerignore").read_text(encoding="utf-8").split()}
    assert not ignored & NEEDED
    assert all((ROOT / name).exists() for name in NEEDED)
