"""Errors of transformers, peft, torch and safetensors for a checkpoint that cannot be read, as one sentence.

A pickle of weights (`*.bin`) may contain tensors only. Loading any other object could run code, so torch refuses it.
"""

from pathlib import Path
from pickle import UnpicklingError

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from icl.text.json_text import parse_json_object

FAILURES = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    ImportError,
    RuntimeError,
    EOFError,
    UnpicklingError,
    SafetensorError,
    StrictDataclassError,
)
"""What the readers of other libraries raise for a checkpoint. A config that is no JSON object is an AttributeError."""


def damaged_json_file(folder: Path | None) -> str:
    """A sentence about the first JSON file of a checkpoint that is no JSON object; the empty string if all are."""
    for path in sorted(folder.glob("*.json")) if folder is not None else ():
        try:
            parse_json_object(path.read_bytes())
        except (OSError, ValueError) as error:
            return f"{path} is not a JSON object ({error}). Copy the file again."
    return ""


def reason(error: BaseException) -> str:
    """The first line of an error message, with the second if the first ends with a colon. For pickles, a fixed text."""
    if isinstance(error, UnpicklingError | EOFError):
        return (
            "a weight file (*.bin) is damaged, or a pickle of more than tensors, which could run code by being read "
            "and is not opened. Take a copy with *.safetensors, or save one from a source that you trust with "
            "`save_pretrained`."
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    more = len(lines) > 1 and lines[0].endswith(":")  # torch lists mismatched tensors on the next lines
    return " ".join(lines[: 2 if more else 1]) or type(error).__name__
