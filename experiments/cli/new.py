"""Write a study, or a component of your own, as a file that runs and that you can change."""

import keyword
import re
import sys
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from icl import ConfigError, did_you_mean
from icl.lazy_exports import PACKAGES

TEMPLATES = Path(__file__).parent / "templates"
"""One file per kind, such as strategy.py.txt. `$name` stands for the name of the file, `$Name` for the class."""
USES_WITH_REFERENCE = {"strategy": "decoding: [greedy, {}]", "metric": "metrics: [lenient, {}]"}
"""Places of kinds that need a reference or a second metric beside them. Others stand as on the page of `icl ls`."""


def kinds() -> dict[str, Path]:
    """kind -> its template."""
    return {path.name.split(".")[0]: path for path in sorted(TEMPLATES.glob("*.txt"))}


def command(
    kind: Annotated[str, typer.Argument(help=", ".join(kinds()), show_default=False)],
    name: Annotated[str, typer.Argument(help="name of the new file, such as blind or blind.py", show_default=False)],
    data: Annotated[
        Path | None, typer.Option(help="your data, a file or folder, whose columns a study maps", show_default=False)
    ] = None,
) -> None:
    """Writes NAME.yaml for a study, NAME.py for a component. It never replaces a file.

    A new component passes `icl check`, and a new study runs on the shipped model. With --data, the task of the study is
    your data, with a map of its columns from a look at their names and values.
    """
    template = _template(kind)
    if data is not None and kind != "study":
        raise ConfigError(f"--data is the data of a study, not of a new {kind}.")
    path = _path(name, template.suffixes[0])
    class_name = "".join(word[:1].upper() + word[1:] for word in path.stem.split("_"))
    text = Template(template.read_text(encoding="utf-8")).substitute(name=path.stem, Name=class_name)
    notes: list[str] = []
    if data is not None:
        from experiments.cli.column_guess import study_of_data

        text, notes = study_of_data(text, data, path.parent)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists. Choose another name, or remove the file.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}.") from error
    print(f"wrote {path}")
    for note in notes:
        print(f"  {note}")
    component = f"{path}:{class_name}"
    if kind == "study":
        print(f"  what it costs  icl plan {path}\n  run it         icl run {path}")
    else:
        from experiments.cli.ls import node_of

        use = USES_WITH_REFERENCE.get(kind, node_of(kind)).format(component)
        print(f"  check it       icl check {kind} {component}\n  in a study     {use}")


def _template(kind: str) -> Path:
    templates = kinds()
    if kind not in templates:
        raise ConfigError(
            f"icl new writes no '{kind}'.{did_you_mean(kind, templates)} Kinds: {', '.join(templates)}. "
            "For others, see docs/extending.md."
        )
    return templates[kind]


def _path(name: str, suffix: str) -> Path:
    """The path of the new file. Raises ConfigError for a name that cannot be imported or that shadows a module."""
    path = Path(name)
    path = path if path.suffix == suffix else path.with_name(f"{path.name}{suffix}") if path.name else path
    stem = path.stem
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", stem) or keyword.iskeyword(stem):
        raise ConfigError(f"{name!r} names a file and a class: letters, digits and '_' only, a letter first.")
    if suffix == ".py" and (stem in sys.stdlib_module_names or stem in PACKAGES):
        raise ConfigError(f"{path.name} would shadow the module '{stem}'. Choose another name.")
    return path
