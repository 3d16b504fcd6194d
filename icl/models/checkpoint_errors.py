"""What a checkpoint that cannot be read raises in transformers, peft, torch and safetensors, as one sentence.

Weights in a pickle (`*.bin`) are opened as tensors alone: a pickle that names anything else could run code by being
read, and torch refuses it.
"""

from pickle import UnpicklingError

from safetensors import SafetensorError

FAILURES = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    ImportError,
    RuntimeError,
    EOFError,
    UnpicklingError,
    SafetensorError,
)


def reason(error: BaseException) -> str:
    """The first line of what was raised, with the next where it ends with a colon, or why a pickle is not opened."""
    if isinstance(error, UnpicklingError | EOFError):
        return (
            "a weight file (*.bin) is damaged, or a pickle of more than tensors, which could run code by being read "
            "and is not opened. Take a copy with *.safetensors, or save one from a source that you trust with "
            "`save_pretrained`."
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    more = len(lines) > 1 and lines[0].endswith(":")  # torch lists there what does not fit
    return " ".join(lines[: 2 if more else 1]) or type(error).__name__
