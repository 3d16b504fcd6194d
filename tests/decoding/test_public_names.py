"""The public interface of the package `decoding`."""

import subprocess
import sys

import pytest

import decoding


@pytest.mark.parametrize("name", decoding.__all__)
def test_a_public_name_is_importable_and_listed(name: str) -> None:
    assert getattr(decoding, name).__module__.startswith("decoding.")
    assert name in dir(decoding)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import decoding, sys; decoding.Strategy; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'decoding' has no attribute 'Stategy'"):
        decoding.Stategy  # noqa: B018
