"""The documentation site: `sphinx-build -W --keep-going docs build/docs`. It needs no network."""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path
from typing import Any

import sphinx_gallery.gen_gallery
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx_gallery.sorting import ExplicitOrder

import cuekit
from cuekit.__main__ import parser

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

project = "cuekit"
author = "The cuekit developers"
project_copyright = author
version = release = cuekit.__version__

# `name` in a docstring is a link where there is a page of that name, and code elsewhere.
default_role = "py:obj"
nitpick_ignore_regex = [("py:obj", ".*")]

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["paper.md"]  # of a journal, with a format of its own
templates_path = ["_templates"]
nitpicky = True
smartquotes = False  # they would make a dash of the -- of options

# numpydoc describes the types of all parameters, so signatures need none. The modules that need
# torch are imported without it.
autodoc_typehints = "none"
autodoc_mock_imports = ["torch"]
autosummary_ignore_module_all = False
numpydoc_show_class_members = False
extlinks = {"doi": ("https://doi.org/%s", "doi:%s")}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Of the scripts in examples. The others are what these share, and what needs torch.
GALLERY = ["quickstart.py", "dense_crf.py", "crf_settings.py", "refiners.py", "evidence.py"]
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "ignore_pattern": rf"^(?!.*\b({'|'.join(GALLERY)})$)",
    "within_subsection_order": ExplicitOrder(GALLERY),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 1e9,
    "abort_on_example_error": True,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = f"cuekit {release}"
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["cuekit.css"]
# Pages without others below them.
_SINGLE = ("index", "benchmarks", "reproducibility", "contributing", "changelog")
html_sidebars = {page: [] for page in _SINGLE}
html_theme_options = {
    "github_url": re.findall(r'^Source = "(.+)"$', PYPROJECT, re.MULTILINE)[0],
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
}


class Command(SphinxDirective):
    """Description, options and examples of a command of `cuekit`, from its parser.

    ``.. cuekit-command:: labels``
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes."""
        whole = parser()
        commands = next(a for a in whole._actions if isinstance(a, argparse._SubParsersAction))
        command = commands.choices[self.arguments[0]]
        options = nodes.definition_list(classes=["options"])
        for action in command._actions:
            term, text = nodes.term(), (action.help or "") % {**vars(action), "prog": command.prog}
            for i, option in enumerate(action.option_strings):
                value = command.formatter_class("")._format_args(action, action.dest.upper())
                term += [nodes.Text(", ")] if i else []
                term += nodes.literal("", f"{option} {value}".strip())
            said = nodes.paragraph("", text + (" (required)" if action.required else ""))
            options += nodes.definition_list_item("", term, nodes.definition("", said))
        return [
            nodes.paragraph("", command.description or ""),
            nodes.literal_block("", command.format_usage(), language="text"),
            options,
            nodes.literal_block("", command.epilog or "", language="text"),
        ]


def signature(
    _app: Sphinx, what: str, _name: str, obj: Any, _options: Any, text: str, returns: str
) -> tuple[str, str]:
    """Give modules of torch their constructor's signature, which its stand-in hides."""
    if what == "class" and text == "(*args, **kwargs)":
        _, *others = inspect.signature(obj.__init__).parameters.values()
        text = str(inspect.Signature([each.replace(annotation=each.empty) for each in others]))
    return text, returns


def setup(app: Sphinx) -> None:
    """Register what is above."""
    # Folders with a README.md, which stands for itself, are no sections of the gallery.
    sphinx_gallery.gen_gallery.get_subsections = lambda *_, **__: []
    app.add_directive("cuekit-command", Command)
    app.connect("autodoc-process-signature", signature)
