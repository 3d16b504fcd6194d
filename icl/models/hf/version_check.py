"""Version check of transformers. Sessions need `cache` and `mm_encoder_outputs`, which older releases ignore.

The package itself allows older releases: vLLM pins one, and needs this backend for rendering only.
"""

from importlib.metadata import version

from packaging.version import Version

from icl.errors import ModelError

MIN_VERSION = "5.24"


def check(installed: str | None = None) -> None:
    """Raise ModelError if the installed transformers is older than MIN_VERSION."""
    release = installed or version("transformers")
    if Version(release) < Version(MIN_VERSION):
        raise ModelError(
            f"the backend 'hf' needs transformers {MIN_VERSION} or newer to answer, and this environment has {release} "
            "(vLLM pins it). Use `model: vllm` here, or another environment for `model: hf`."
        )
