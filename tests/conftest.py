"""Settings of the whole test suite."""

import os
import sys

# Set before anything imports huggingface_hub, which reads it once: a lookup without a network retries for two minutes.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_sessionfinish() -> None:
    """Stops the vLLM servers that tests have shared."""
    if "server_process" in sys.modules:
        sys.modules["server_process"].stop_shared()
