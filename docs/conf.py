"""Configuration of the documentation site; `make docs` builds it."""

import shutil
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# Pages that lie beside docs/, copied into it: Sphinx reads one folder only.
PAGES = ("results.ipynb", "LOG.md", "SECURITY.md")
COPIES = "_pages"
Path(__file__).with_name(COPIES).mkdir(exist_ok=True)
for page in PAGES:
    shutil.copyfile(ROOT / page, Path(__file__).with_name(COPIES) / page)

project = "fdpo"
copyright = "2026, fdpo contributors"
version = release = installed_version("fdpo")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "myst_nb",
]
exclude_patterns = ["_build", "README.md"]

html_theme = "furo"
html_title = "fdpo"
html_static_path = ["_static"]
html_css_files = ["site.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_preprocess_types = False

myst_enable_extensions = ["colon_fence", "dollarmath", "substitution"]
myst_heading_anchors = 3
nb_execution_mode = "off"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def link_within_the_site(app: Sphinx, name: str, source: list[str]) -> None:
    """Turns links to the pages beside docs/ into links to their copies."""
    for page in PAGES:
        source[0] = source[0].replace(f"](../{page})", f"]({COPIES}/{page})")


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_within_the_site)
