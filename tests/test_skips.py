"""A run in CI fails if a test is skipped for another reason than the lack of a GPU."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
CONFTEST = Path(__file__).with_name("conftest.py").read_text()
MODULE = """
    import pytest

    pytest.importorskip("no_such_module", reason="the extra x is not installed")
"""
TESTS = """
    import pytest

    def test_passes(): pass

    @pytest.mark.skipif(True, reason="needs a CUDA device")
    def test_gpu(): pass

    @pytest.mark.skipif(True, reason="x.jinja is missing; PUBLISHED_TEMPLATES names a folder of chat templates")
    def test_files_of_others(): pass

    @pytest.mark.applies(False)
    def test_of_another_machine(): raise AssertionError

    @pytest.mark.parametrize("n", [0, 1])
    @pytest.mark.applies(True)
    def test_applies(n):
        if n and SKIPS: pytest.skip("pdflatex is not installed")
"""


@pytest.mark.parametrize(
    ("environment", "words", "skips", "module", "named"),
    [
        ("CI=true", "-n2", True, False, ["pdflatex is not installed"]),
        ("CI=true", "-n2", False, True, ["the extra x is not installed"]),
        ("ICL_STRICT_SKIPS=1", "-n0", True, True, ["pdflatex is not", "the extra x is not"]),
        ("CI=true", "-n2", False, False, []),
        ("CI=true ICL_STRICT_SKIPS=0", "-n0", True, True, []),
        ("CI=", "-n0", True, True, []),
    ],
)
def test_a_strict_run_fails_for_a_skip_that_is_not_for_a_gpu(  # noqa: PLR0917
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    environment: str,
    words: str,
    skips: bool,
    module: bool,
    named: list[str],
) -> None:
    for name in ("CI", "ICL_STRICT_SKIPS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (pair.split("=") for pair in environment.split()):
        monkeypatch.setenv(name, value)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_own=TESTS.replace("SKIPS", str(skips)), **({"test_module": MODULE} if module else {}))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", words)
    assert result.ret == bool(named)
    result.assert_outcomes(passed=3 - skips, skipped=2 + skips + module)
    printed = result.stdout.str().partition("skips of tests that need no GPU")[2]
    assert bool(printed) == bool(named)
    for reason in named:
        assert reason in printed
    assert "CUDA" not in printed
    assert "TEMPLATES" not in printed
