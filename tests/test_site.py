"""The documentation site has no warnings: links, pages and docstrings. `make docs` also runs notebooks, writes HTML."""

import os
import subprocess
from pathlib import Path

import pytest
from forked import call_forked

from icl.registry import PACKAGES, entries

pytest.importorskip("furo", reason="the extra docs is not installed")
pytest.importorskip("myst_nb", reason="the extra docs is not installed")
ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    out = tmp_path_factory.mktemp("site")
    # The builder "dummy" reads the pages and resolves their links; writing HTML and its index takes as long again.
    words = ["-q", "-W", "--keep-going", "-b", "dummy", "-D", "nb_execution_mode=off", str(DOCS), str(out)]
    return call_forked(("sphinx", *words), ROOT, {**os.environ, "PYTHONPATH": str(ROOT)}, limit=900)


def test_the_site_builds_without_a_warning(built: subprocess.CompletedProcess[str]) -> None:
    assert (built.returncode, built.stderr) == (0, "")


def test_every_component_and_every_public_module_has_a_page(built: subprocess.CompletedProcess[str]) -> None:
    from public_api import PUBLIC_MODULES

    pages = [f"components/{kind}/{name}.md" for kind in PACKAGES for name in entries(kind)]
    pages += [f"reference/{module}.md" for module in PUBLIC_MODULES]
    assert [page for page in pages if not (DOCS / page).is_file()] == []


def test_the_page_of_a_strategy_has_formula_presets_controls_and_cost(built: subprocess.CompletedProcess[str]) -> None:
    page = (DOCS / "components" / "strategy" / "vcd.md").read_text(encoding="utf-8")
    for part in (
        "<math",
        "2311.16922",
        "| `noise_step` |",
        "| `cd_rethink` |",
        "Differs from the released",
    ):
        assert part in page
    assert "2 prompts per answer and one forward pass of each per token; weights 2, -1." in page
    assert "[mask_only](mask_only.md)" in page
