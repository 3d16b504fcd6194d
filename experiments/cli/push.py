"""Push a run to a data set repository of a hub: samples, tables, report and results card."""

import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from experiments.cli.options import Trust
from icl import ConfigError

MAX_LISTED = 40


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
    to: Annotated[str, typer.Option("--to", help="the repository, OWNER/NAME", show_default=False)],
    *,
    images: Annotated[bool, typer.Option("--images", help="also push the images; check their license")] = False,
    public: Annotated[bool, typer.Option("--public", help="a repository that everybody may read")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    trust: Trust = False,
) -> None:
    """Prints the list of files and asks before anything is sent. A new repository is private.

    What is pushed is a copy: names of machines, absolute paths, trackers and launchers are removed from it, and without
    --images it has no image, also not in the report. The hub and the token are those of huggingface_hub (HF_ENDPOINT,
    HF_TOKEN, `hf auth login`).
    """
    from experiments.results.loaded_run import load_run
    from experiments.sharing.push import find_target, stage, upload
    from experiments.terminal.progress import spinner

    loaded = load_run(run, trust)
    target = find_target(to, public)
    with TemporaryDirectory(prefix="icl-push-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / (loaded.path.name or "run")
        with spinner("writing"):
            files = stage(loaded, folder, images)
        print(f"push         {loaded.path} → {target.describe()}")
        _print_files(files)
        if not images:
            print("no images: --images pushes them; check their license")
        if not yes and not _agrees():
            print("nothing was pushed.")
            raise typer.Exit(1)
        print(f"pushed       {upload(target, folder, files)}")


def _print_files(files: Mapping[str, int]) -> None:
    names = list(files)
    for name in names[:MAX_LISTED]:
        print(f"  {_size(files[name]):>9}  {name}")
    if len(names) > MAX_LISTED:
        print(f"  {_size(sum(files[name] for name in names[MAX_LISTED:])):>9}  {len(names) - MAX_LISTED:,} more files")
    print(f"  {_size(sum(files.values())):>9}  in {len(names):,} files")


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


def _agrees() -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("nothing was pushed: there is no terminal to ask on. Read the list and add --yes.")
    return typer.confirm("Push these files?")
