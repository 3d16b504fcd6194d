"""Sessions need a transformers whose forwards take `cache` and `mm_encoder_outputs`; an older one ignores them.

The package itself admits older releases, because vLLM pins one and needs this backend for rendering alone.
"""

from importlib.metadata import version

from packaging.version import Version

from icl.errors import ModelError

LEAST = "5.24"


def check(installed: str | None = None) -> None:
    """Raises ModelError where the installed transformers is older than LEAST."""
    found = installed or version("transformers")
    if Version(found) < Version(LEAST):
        raise ModelError(
            f"the backend 'hf' needs transformers {LEAST} or newer to answer, and this environment has {found} (vLLM "
            "pins it). Use `model: vllm` here, or another environment for `model: hf`."
        )
