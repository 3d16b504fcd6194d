"""Fetch data that the tasks read from packages of the system: `icl data drawings`."""

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    name: Annotated[str, typer.Argument(help="drawings", show_default=False)],
    sets: Annotated[str, typer.Option("--sets", help="of openclipart, tuxpaint, emoji")] = "openclipart,tuxpaint,emoji",
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FOLDER", help="a folder with the packages' files, for systems without apt-get or npm"
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="where the drawings go [a folder of the cache]")
    ] = None,
) -> None:
    """Downloads packages by apt-get and npm, without root, and writes cleaned drawings to the cache.

    `icl data drawings` fetches everything (400 MB); `--sets openclipart` public-domain drawings alone (31 MB).
    """
    from experiments.terminal.spinner import spinner
    from icl.errors import ConfigError, did_you_mean
    from icl.tasks.drawings.install import install_drawings
    from icl.tasks.drawings.table import SOURCES

    if name != "drawings":
        raise ConfigError(f"there is no data set '{name}'.{did_you_mean(name, ['drawings'])} Data sets: drawings.")
    chosen = [part.strip() for part in sets.split(",") if part.strip()]
    with spinner() as report_progress:
        folder = install_drawings(chosen, source=source, folder=to, report_progress=report_progress)
    facts = json.loads((folder / SOURCES).read_text(encoding="utf-8"))
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in sorted(facts["left_out"].items()))
    print(f"{facts['drawings']:,} drawings in {folder}")
    print(f"left out: {left_out}" if left_out else "nothing was left out")
    for package in facts["packages"]:
        other = "" if package.get("as_tested", True) else "   (another version than the one tested)"
        print(f"  {package['package']:26} {package['license']}{other}")
