"""The allocator is tuned once, unless the environment already configures it."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from icl.models.hf.malloc_tuning import keep_freed_memory
{call}
torch.set_num_threads(1)
cache = [torch.zeros(32, 300, 160) for _ in range(4)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    cache = [torch.cat([layer, torch.zeros(32, 1, 160)], 1) for layer in cache]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told")
def test_a_growing_cache_takes_its_pages_once() -> None:
    from icl.models.hf.malloc_tuning import keep_freed_memory

    if not keep_freed_memory():
        pytest.skip("the allocator is not glibc's, or the environment sets it")
    plain, tuned = (int(_printed(FAULTS.format(call=call))) for call in ("", "keep_freed_memory()"))
    assert tuned < plain / 3


def test_settings_of_the_environment_stand() -> None:
    output = _printed(
        "from icl.models.hf.malloc_tuning import keep_freed_memory; print(keep_freed_memory())",
        MALLOC_TRIM_THRESHOLD_="131072",
    )
    assert output == "False"


def _printed(code: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    ).stdout.strip()
