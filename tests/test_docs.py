"""The documentation without building it: what it names exists, and what exists is named."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path

import pytest
from common import ROOT, needs

import cuekit
from cuekit.__main__ import COMMANDS

API = ROOT / "docs" / "api"
PACKAGES = ("io", "recipes", "run")  # their __all__ is the list of their public names
SUBMODULES = [
    f"cuekit.{package}.{module.name}"
    for package in PACKAGES
    for module in pkgutil.iter_modules(getattr(cuekit, package).__path__)
]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "benchmarks").glob("*.md"),
    *(page for page in (ROOT / "docs").rglob("*.md") if page.name != "paper.md"),
]


def documented(page):
    """Return the names that a page of the API reference lists."""
    text = (API / f"{page}.rst").read_text(encoding="utf-8")
    blocks = re.findall(r"autosummary::\n(?:   :.+\n)+\n((?:   .+\n)+)", text)
    by_hand = re.findall(r"^\.\. py:data:: (\w+)$", text, re.MULTILINE)
    return [*(name for block in blocks for name in block.split()), *by_hand]


def public_names(module):
    """Return what a module without __all__ defines; it is not imported, as it may need torch."""
    tree = ast.parse(Path(cuekit.__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    defined = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return {name for name in defined if not name.startswith("_")}


def test_every_function_has_a_page():
    modules = {name for name in cuekit.__all__ if inspect.ismodule(getattr(cuekit, name))}
    names = [name for name in documented("functions") if "." not in name]  # a.b: of a module
    assert sorted(names) == sorted({*cuekit.__all__} - modules)
    for name in modules:
        assert (API / f"{name}.rst").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_of_a_package_has_a_page(package):
    assert sorted(documented(package)) == sorted(getattr(cuekit, package).__all__)


@pytest.mark.parametrize(
    ("module", "others"),
    [
        ("losses", set()),
        ("metrics", set()),
        ("nn", set()),
        ("classes", {"check_names", "is_background"}),  # for readers and commands
    ],
)
def test_every_name_of_a_module_has_a_page(module, others):
    names = documented(module)
    assert len(set(names)) == len(names)
    constants = {name for name in names if name.isupper() and name not in public_names(module)}
    assert {*names} - constants == public_names(module) - others
    assert all(hasattr(getattr(cuekit, module), name) for name in constants)


def test_every_command_has_a_section():
    text = (API / "commands.rst").read_text(encoding="utf-8")
    assert set(re.findall(r"^\.\. cuekit-command:: (\w+)$", text, re.M)) == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.split("#")[0]
        if path and "://" not in path and not path.startswith("/") and "gallery/" not in path:
            assert (page.parent / path).exists(), target


@pytest.mark.parametrize("name", SUBMODULES)
def test_doctests(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples write files
    if name.endswith("._ray"):
        pytest.importorskip("ray")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_readers_and_writers_have_examples():
    finder = doctest.DocTestFinder()
    names = "read_photo read_maps write_maps MapArchive read_masks read_labels write_labels"
    for name in [*names.split(), "write_colours", "read_coco", "write_coco", "write_sec_cues"]:
        assert any(test.examples for test in finder.find(getattr(cuekit.io, name), name)), name


@pytest.mark.parametrize(("name", "results"), [("dense_crf", 2), ("refiners", 4)])
def test_examples_give_labels(name, results, monkeypatch):
    """On a small photo; the documentation draws them whole."""
    needs("matplotlib")
    skimage_data = needs("skimage.data")
    monkeypatch.syspath_prepend(ROOT / "examples")
    module = importlib.import_module(name)
    for imported in (name, "picture"):
        monkeypatch.delitem(sys.modules, imported)
    labels_of = module.before_and_after if name == "dense_crf" else module.labels_of
    photo = skimage_data.chelsea()[::4, ::4]
    with cuekit.io.MapArchive(ROOT / "examples" / "data" / "color.npz") as archive:
        labels = labels_of(photo, archive.read("chelsea"))
    assert len(labels) == results
    assert all(each.shape == photo.shape[:2] for each in labels)
    assert {0, 1} <= set(labels[-1].ravel().tolist()) <= {0, 1, 255}


def test_pages_of_the_gallery_have_what_it_needs():
    """A title, and no __file__: Sphinx runs them without one."""
    pages = set(re.findall(r'"(\w+\.py)"', (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")))
    assert "quickstart.py" in pages
    for page in pages:
        text = (ROOT / "examples" / page).read_text(encoding="utf-8")
        title, line = ast.get_docstring(ast.parse(text)).splitlines()[:2]
        assert set(line) == {"="}
        assert len(line) == len(title)
        assert "__file__" not in text
        assert "__doc__" not in text
