"""Settings of the whole test suite."""

import os

# Set before anything imports huggingface_hub, which reads it once: a lookup without a network retries for two minutes.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
