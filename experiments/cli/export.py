"""Export a strategy as a folder that `generate` of transformers runs without this package."""

from pathlib import Path
from typing import Annotated

import typer

from icl import ConfigError, did_you_mean, strip_control_characters

FORMATS = ("custom_generate",)


def command(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="custom_generate", show_default=False)],
    strategy: Annotated[
        str, typer.Argument(help="a name, or a node such as '{name: vcd, alpha: 0.5}'", show_default=False)
    ],
    to: Annotated[Path, typer.Option("--to", help="the folder, which is made", show_default=False)],
) -> None:
    """`icl export custom_generate vcd --to vcd`, then `model.generate(**inputs, negative=…, custom_generate="vcd",
    trust_remote_code=True)`.

    The folder has custom_generate/generate.py, which needs torch and transformers only, and README.md for the hub.
    `negative` is the processor's output for the strategy's other prompts.
    """
    from decoding import custom_generate_files, parse_arm
    from experiments.config.yaml_document import parse_yaml
    from experiments.store.store import report_write_errors

    if form not in FORMATS:
        raise ConfigError(f"no format named '{form}'.{did_you_mean(form, FORMATS)} Formats: {', '.join(FORMATS)}.")
    node, _ = parse_yaml(strategy, "STRATEGY")
    files = custom_generate_files(parse_arm(node, "STRATEGY"))
    for name in files:
        if (to / name).exists():
            raise ConfigError(f"--to {to}: {to / name} exists. Remove it, or choose another folder.")
    with report_write_errors(to):
        for name, text in files.items():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_text(text, encoding="utf-8")
    for name in files:
        print(strip_control_characters(f"wrote        {to / name}"))
