"""Export a strategy or fitted vectors as files that other engines run without this package."""

from pathlib import Path
from typing import Annotated, Any

import typer

from icl import ConfigError, build, did_you_mean, strip_control_characters

FORMATS = ("custom_generate", "control_vector", "easysteer")


def command(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help=" | ".join(FORMATS), show_default=False)],
    component: Annotated[
        str,
        typer.Argument(
            help="a strategy: a name, or a node such as '{name: vcd, alpha: 0.5}'. Or fitted vectors: their file, or a "
            "node such as '{name: task_vector, fitted: v.safetensors, how: add}'",
            show_default=False,
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="the folder to write", show_default=False)],
) -> None:
    """`icl export custom_generate vcd --to vcd`, then `model.generate(**inputs, negative=…, custom_generate="vcd",
    trust_remote_code=True)`. The folder has custom_generate/generate.py, which needs torch and transformers only, and
    README.md for the hub. `negative` is the processor's output for the strategy's other prompts.

    `icl export control_vector v.safetensors --to v`, then `llama-server --control-vector v/vector.gguf`. `easysteer`
    adds steering.json, for `vllm serve --steering-config`.
    """
    from experiments.config.yaml_document import parse_yaml
    from experiments.store.store import report_write_errors

    if form not in FORMATS:
        raise ConfigError(f"no format named '{form}'.{did_you_mean(form, FORMATS)} Formats: {', '.join(FORMATS)}.")
    files = _files(form, parse_yaml(component, "COMPONENT")[0], to)
    for name in files:
        if (to / name).exists():
            raise ConfigError(f"--to {to}: {to / name} exists. Remove it, or choose another folder.")
    with report_write_errors(to):
        for name, content in files.items():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes(content)
    for name in files:
        print(strip_control_characters(f"wrote        {to / name}"))


def _files(form: str, node: Any, to: Path) -> dict[Path, bytes]:
    """Relative path -> content. Raises ConfigError if the component cannot be exported."""
    from decoding import custom_generate_files, find_vector_file, parse_arm, read_vector_file, vector_files

    if form == "custom_generate":
        return {name: text.encode() for name, text in custom_generate_files(parse_arm(node, "COMPONENT")).items()}
    if isinstance(node, str) and node.endswith(".safetensors"):
        node = {"name": read_vector_file(find_vector_file(node)).method, "fitted": node}
    return vector_files(form, build("intervention", node, "COMPONENT"), to)
