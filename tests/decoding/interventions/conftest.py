"""One shared model for all tests of a process, which leaves nothing from one test to the next."""

import pytest

from tests.decoding.interventions.dev_split import tiny


@pytest.fixture(autouse=True)
def no_prefixes_of_other_tests() -> None:
    """Drop prefixes that stay prefilled. Prompts that continue one differ by rounding from those that do not."""
    tiny().engine.prefiller.cached_prefixes.clear()
