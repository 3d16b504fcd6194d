"""Configuration of the documentation site: `make docs` builds it into build/docs, strictly and without a network."""

import os
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import site_pages  # noqa: E402

from icl import __version__  # noqa: E402

project = "mm-icl"
copyright = author = "The mm-icl developers"
version = release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = f"mm-icl {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
pygments_dark_style = "monokai"

myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"
default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other libraries, and internal names in signatures

# Notebooks run in a folder of their own, on the CPU, without a network, and without lines of progress.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "CUDA_VISIBLE_DEVICES": "",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}


def _rewrite_links(app: Any, docname: str, source: list[str]) -> None:
    """Links to files outside docs/ become links to their pages."""
    if docname.partition("/")[0] not in site_pages.FOLDERS:
        source[0] = site_pages.rewrite_links(source[0], f"docs/{docname}.md", f"{docname}.md")


def _escape_bars(*arguments: Any) -> None:
    """A bar of a formula is no substitution of reStructuredText. The last argument of the event is the docstring."""
    lines = arguments[-1]
    lines[:] = [re.sub(r"(`[^`]*`)|\|", lambda match: match[1] or r"\|", line) for line in lines]


def setup(app: Any) -> None:
    """Writes the generated pages before Sphinx looks for sources."""
    site_pages.write_pages()
    app.connect("source-read", _rewrite_links)
    app.connect("autodoc-process-docstring", _escape_bars)
