"""`python -m tests.random_models.twins NAME FOLDER` writes the twin NAME; without a name, it lists all."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from icl.errors import ICLError


def main(
    name: Annotated[str | None, typer.Argument(help="a file of models/", show_default=False)] = None,
    folder: Annotated[Path | None, typer.Argument(help="where to write it", show_default=False)] = None,
    *,
    seed: Annotated[int, typer.Option(help="of the random weights")] = 0,
    own_template: Annotated[bool, typer.Option("--own-template", help="not the published chat template")] = False,
) -> None:
    """Writes a small checkpoint with random weights and the settings of a published model."""
    from tests.random_models.twins.twin import save_twin, twins

    if name is None or folder is None:
        for twin in twins().values():
            print(f"{twin.name:<24}{twin.model}")
        return
    print((save_twin(name, folder, seed, own_template=own_template) / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    try:
        typer.run(main)
    except ICLError as error:
        sys.exit(str(error))
