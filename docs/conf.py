"""How the documentation is built: `make docs`."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))
import yaml_keys  # a file beside this one

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "pipedag_dagster"
author = copyright = "the authors of pipedag_dagster"
release = metadata.version(project)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinx_copybutton"]
exclude_patterns = ["_build"]
suppress_warnings = ["misc.highlighting_failure"]  # SQL with placeholders
myst_heading_anchors = 3
default_role = "code"  # docstrings name code in single backticks
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_ivar = True

html_theme = "furo"
html_title = "pipedag_dagster"
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"


def examples_are_code(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """`Example:` in a docstring without a prompt below it."""
    for number, line in enumerate(lines[:-1]):
        if line == "Example:" and not lines[number + 1].lstrip().startswith(">>>"):
            lines[number : number + 1] = ["Example::", ""]
            return


def setup(app: Sphinx) -> None:
    yaml_keys.write(Path(app.srcdir) / "reference" / "yaml.md")
    app.connect("autodoc-process-docstring", examples_are_code, priority=1)
