"""The package as a whole: what importing it costs, its signatures, its docstrings."""

import doctest
import importlib.resources
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from common import INSTRUCTION_SETS, ROOT, needs

import cuekit

MODULES = ["cuekit", *(f"cuekit.{m.name}" for m in pkgutil.iter_modules(cuekit.__path__))]
FUNCTIONS = [
    *(name for name in cuekit.__all__ if not inspect.ismodule(getattr(cuekit, name))),
    *(f"metrics.{name}" for name in ("confusion_matrix", "iou", "mean_iou", "cue_statistics")),
    *(f"metrics.{name}" for name in ("bootstrap", "pixel_accuracy", "mean_accuracy")),
    *(f"io.{name}" for name in ("read_sec_cues", "read_labels", "read_photo", "write_labels")),
    *(f"io.{name}" for name in ("read_maps", "read_masks", "write_maps", "write_sec_cues")),
    *(f"io.{name}" for name in ("read_coco", "write_coco", "write_coco_panoptic", "CocoPhoto")),
    *(f"io.{name}" for name in ("encode_rle", "decode_rle", "label_studio_rle")),
    *(f"io.{name}" for name in ("read_labelmap", "write_labelmap", "write_colours")),
    "io.write_label_studio",
    *(f"classes.{name}" for name in ("class_names", "coco_to_contiguous", "contiguous_to_coco")),
    *(f"run.{name}" for name in ("evaluate", "labels", "read_list", "read_tags", "sweep")),
    *(
        f"losses.{name}_loss"
        for name in ("seed", "constrain_to_boundary", "expansion", "dense_energy")
    ),
]

# The contract with callers.
SIGNATURES = {
    "subtract_classes": "(cams, present=None, *, mode='pairwise', validate=False, threads=1)",
    "background_map": "(*features, size=None, validate=False, threads=1)",
    "raw_cues": "(cams, background=None, present=None, *, foreground_threshold=0.3, "
    "background_threshold=0.2, validate=False, threads=1)",
    "felzenszwalb": "(image, scale=200, sigma=0.8, min_size=60, *, channel_axis=-1, threads=1)",
    "sepl_labels": "(labels, masks, *, ignore=255)",
    "slic": "(image, *, n_segments=100, compactness=10.0, sigma=0.0, channel_axis=-1, threads=1)",
    "SuperpixelGraph": "(superpixels, labels, edges, edge_lengths, sizes, border_pixels, centres, "
    "colours)",
    "superpixel_graph": "(superpixels, image=None)",
    "superpixel_mean": "(values, superpixels, *, num_superpixels=None, validate=False, threads=1)",
    "superpixel_walk": "(values, graph, *, restart=0.02, sigma=10.0, threads=1)",
    "BoundaryConnectivity": "(connectivity, contrast)",
    "boundary_connectivity": "(graph, *, sigma=7.0, clip=3.0, spatial_sigma=0.4, threads=1)",
    "bilateral_filter": "(values, image, *, sxy, srgb, normalize=False, validate=False, threads=1)",
    "snap_cues": "(cues, superpixels, *, threshold=0.3, accept='mean', num_superpixels=None, "
    "validate=False, threads=1)",
    "mask_scores": "(maps, masks, *, top=0.2, threshold=0.3, validate=False, threads=1)",
    "MaskScores": "(area, mean, top_mean, inside, covered)",
    "label_masks": "(scores, present=None, *, claims=None, rule='verify', support='top_mean', "
    "accept=0.5, reject=0.1, power=1.0, classes=None, ignore=255)",
    "fuse_cues": "(*cue_sets, threads=1)",
    "resize_cues": "(cues, size, *, rule='nearest', threads=1)",
    "cues_to_labels": "(cues, *, classes=None, overlap='smallest', "
    "background_overlap='foreground', unknown=None, ignore=255, threads=1)",
    "suppress_absent": "(scores, present, *, margin=0.0001, validate=False, threads=1)",
    "RefineParams": "(affinity, dilations, iterations)",
    "refine_local": "(maps, image, preset='par', *, dilations=None, iterations=None, "
    "channel_axis=-1, validate=False, threads=1)",
    "CRFParams": "(gaussian_weight, gaussian_sxy, bilateral_weight, bilateral_sxy, bilateral_srgb)",
    "dense_crf": "(probabilities, image, params='sec', *, present=None, iterations=10, "
    "tolerance=None, epsilon=1e-05, unary='probabilities', storage='float32', "
    "differentiable=False, validate=False, threads=1)",
    "CRFKernel": "(features, compatibility=1.0, normalization='symmetric')",
    "dense_crf_features": "(probabilities, kernels, *, present=None, iterations=10, "
    "tolerance=None, epsilon=1e-05, unary='probabilities', differentiable=False, validate=False, "
    "threads=1)",
    "MeanField": "(probabilities, kernels, *, present=None, epsilon=1e-05, unary='probabilities', "
    "threads=1)",
    "labels_to_probabilities": "(labels, num_classes, *, gt_prob=0.7, ignore=255)",
    "random_walk": "(maps, boundary=None, *, affinities=None, radius=5, beta=None, steps=256, "
    "validate=False, threads=1)",
    "photo_boundary": "(image, superpixels=None, *, size=None, contrast=0.3, channel_axis=-1, "
    "threads=1)",
    "colour_evidence": "(probabilities, image, superpixels=None, *, bins=16, sigma=1.0, "
    "floor=5e-05, limit=8.0, space='rgb', threads=1)",
    "confident_labels": "(high, low, *, classes=None, ignore=255)",
    "merge_scales": "(maps, *, flipped=None, size=None, crop=None, flips='sum', scales='sum', "
    "normalize='max', epsilon=1e-05)",
    "probabilities_to_labels": "(probabilities, *, present=None, classes=None, confidence=None, "
    "ignore=255)",
    "resize_maps": "(maps, size)",
    "with_background": "(maps, *, threshold=None, alpha=None)",
    "rgb_to_lab": "(image, *, dtype='float32', threads=1)",
    "build_config": "()",
}


def find(name):
    if name.startswith("losses."):
        needs("torch")
    value = cuekit
    for part in name.split("."):
        value = getattr(value, part)
    return value


def python(*arguments):
    return subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


def test_importing_it_imports_no_heavy_package():
    loaded = python("-c", "import sys, cuekit; print(*sys.modules)").split()
    assert "cuekit" in loaded
    assert "numpy" in loaded
    heavy = {"torch", "skimage", "scipy", "matplotlib", "PIL", "numba", "cupy"}
    assert heavy.isdisjoint(loaded)


def test_using_it_imports_no_torch():
    program = """
import sys, numpy as np, cuekit
cuekit.snap_cues(np.ones((1, 2, 2), dtype=bool), np.zeros((2, 2), int), threads=2)
assert 'torch' not in sys.modules
"""
    python("-c", program)


def test_works_where_torch_is_missing():
    program = """
import sys
sys.modules['torch'] = None
import numpy as np, cuekit
from cuekit import *
cuekit.fuse_cues(np.ones((1, 2, 2), dtype=bool))
cuekit.build_config()
for name in ("losses", "nn"):
    try:
        getattr(cuekit, name)
    except ImportError as error:
        assert str(error) == f"cuekit.{name} needs torch: pip install 'cuekit[torch]'"
    else:
        raise AssertionError
"""
    python("-c", program)


def test_info_prints_facts():
    facts = dict(line.split(maxsplit=1) for line in python("-m", "cuekit", "info").splitlines())
    assert facts["cuekit"] == cuekit.__version__
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["numpy"] == metadata.version("numpy")
    assert facts["instruction_set"] in INSTRUCTION_SETS
    assert facts["processor_has"] in INSTRUCTION_SETS
    assert facts["compiler"] != "unknown"
    config = cuekit.build_config()
    assert set(facts) == set(config) - {"cuda_missing"}
    assert facts["cuda"] == config["cuda"] or facts["cuda"] == f"missing: {config['cuda_missing']}"


def import_with(instruction_set):
    """Import cuekit in a new process with the environment variable, and print what it uses."""
    program = "import cuekit; print(cuekit.build_config()['instruction_set'])"
    return subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "CUEKIT_INSTRUCTION_SET": instruction_set},
    )


@pytest.mark.parametrize("wanted", ["", *INSTRUCTION_SETS])
def test_environment_chooses_the_instruction_set(wanted):
    widest = cuekit.build_config()["processor_has"]
    done = import_with(wanted)
    expected = min(wanted or widest, widest, key=INSTRUCTION_SETS.index)
    assert (done.returncode, done.stdout) == (0, f"{expected}\n")
    lacks = f"which this processor lacks: cuekit uses {widest}"
    assert (lacks in done.stderr) == (wanted not in ("", expected))


@pytest.mark.parametrize("wanted", ["sse", "AVX2", "avx2 "])
def test_environment_names_an_unknown_instruction_set(wanted):
    done = import_with(wanted)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "ValueError: the environment variable CUEKIT_INSTRUCTION_SET must be one of 'baseline', "
        f"'avx2', 'avx512', got {wanted!r}\n"
    )


def test_sources_without_the_core_say_what_to_do(tmp_path):
    (tmp_path / "cuekit").mkdir()
    for path in Path(cuekit.__file__).parent.glob("*.py"):
        shutil.copy(path, tmp_path / "cuekit")
    # Without what site-packages set up: an editable install is found before any path.
    path = os.pathsep.join([str(tmp_path), str(Path(np.__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import cuekit"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert "ImportError: cuekit's compiled core does not load from" in done.stderr
    assert "pip install -e ." in done.stderr


def test_version():
    assert cuekit.__version__ == metadata.version("cuekit")


def test_all_is_what_there_is():
    modules = {name: getattr(value, "__module__", "") for name, value in vars(cuekit).items()}
    defined = {name for name, module in modules.items() if module.startswith("cuekit.")}
    public = {name for name in defined if not name.startswith("_")}
    assert public | {"classes", "io", "metrics", "recipes", "run"} == set(cuekit.__all__)
    assert list(cuekit.__all__) == sorted(cuekit.__all__)


def test_submodules_load_on_use():
    python("-c", "import cuekit; cuekit.metrics.iou; cuekit.io.read_labels")
    with pytest.raises(AttributeError, match=r"^module 'cuekit' has no attribute 'matrics'$"):
        cuekit.matrics  # noqa: B018


def test_signatures_are_the_contract():
    found = {}
    for name in cuekit.__all__:
        value = getattr(cuekit, name)
        if not inspect.ismodule(value):
            signature = inspect.signature(value)
            plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
            found[name] = str(inspect.Signature(plain))
    assert found == SIGNATURES


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_is_complete(name):
    """One line that says what it does, and numpydoc's sections."""
    function = find(name)
    text = inspect.getdoc(function)
    first, blank, *_ = text.split("\n")
    assert re.fullmatch(r"[A-Z].*\.", first)
    assert blank == ""
    parameters = inspect.signature(function).parameters
    sections = re.findall(r"^(\w+)\n-+$", text, re.MULTILINE)
    order = ["Parameters", "Returns", "Raises", "Warns", "Notes", "References", "Examples"]
    assert sections == [section for section in order if section in sections]
    if isinstance(function, type) and issubclass(function, tuple):  # checks and returns nothing
        assert sections == ["Parameters", "Examples"]
        return
    if inspect.signature(function).return_annotation not in ("None", None):
        assert "Returns" in sections
    if parameters:
        assert "Parameters" in sections
        assert "Raises" in sections
        described = text.split("Parameters\n")[1].split("\n\nR")[0]
        heads = re.findall(r"^(\*?\w[\w, ]*) : ", described, re.MULTILINE)
        listed = [each.lstrip("*") for head in heads for each in head.split(", ")]
        assert listed == list(parameters)


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    if name in ("cuekit.losses", "cuekit.nn"):
        needs("torch")
    module = importlib.import_module(name)
    assert module.__doc__
    result = doctest.testmod(module, raise_on_error=False)
    assert result.failed == 0


def test_there_are_doctests():
    finder = doctest.DocTestFinder()
    kernels = [name for name in SIGNATURES if name not in ("build_config", "slic")]
    for name in kernels:
        assert any(test.examples for test in finder.find(getattr(cuekit, name), name)), name


def test_files_with_flags_of_their_own_exist():
    setup = (ROOT / "setup.py").read_text()
    listed = re.search(r"^FLAGS_OF = \{(.*?)^\}", setup, re.S | re.M).group(1)
    names = [name for stems in re.findall(r'"([a-z_][a-z_ ]*)"', listed) for name in stems.split()]
    assert len({*names}) == len(names) > 0
    assert {*names} <= {path.stem for path in (ROOT / "csrc" / "cpu").rglob("*.cpp")}


def test_types_are_shipped():
    assert importlib.resources.files("cuekit").joinpath("py.typed").is_file()
