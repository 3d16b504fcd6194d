"""Print the JSON schema of an experiment file, for completion and checks in an editor."""

import json
from pathlib import Path
from typing import Annotated

import typer


def command(out: Annotated[Path | None, typer.Option(help="the file to write it to")] = None) -> None:
    """The schema has all keys, and all components with their parameters and bounds."""
    from experiments.config.json_schema import experiment_schema
    from experiments.store.store import write_text

    text = json.dumps(experiment_schema(), indent=2)
    if out is None:
        print(text)
    else:
        write_text(out, text + "\n")
        print(f"wrote {out}. In an editor with the YAML language server, begin a file with:")
        print(f"# yaml-language-server: $schema={out}")
