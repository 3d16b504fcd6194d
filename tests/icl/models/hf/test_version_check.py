import pytest

from icl.errors import ModelError
from icl.models.hf import version_check


@pytest.mark.parametrize("installed", ["5.19.0", "5.9", "5.24.0.dev0"])
def test_an_older_transformers_is_refused_with_an_alternative(installed: str) -> None:
    with pytest.raises(ModelError, match=r"needs transformers 5\.24 or newer.*model: vllm"):
        version_check.check(installed)


@pytest.mark.parametrize("installed", ["5.24.0", "5.30.1", None])
def test_supported_releases_pass(installed: str | None) -> None:
    version_check.check(installed)
