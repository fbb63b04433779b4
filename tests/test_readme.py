"""The README's Python runs: the first block as it stands, the others on generated input."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from common import ROOT, needs

import cuekit
from cuekit.__main__ import parser

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_ten_lines_run_as_they_stand(tmp_path, monkeypatch):
    needs("skimage")
    data = tmp_path / "examples" / "data"  # they read a file from there and write labels.png
    data.mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "data" / "color.npz", data)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(BLOCKS[0], names)  # noqa: S102
    assert len([line for line in BLOCKS[0].splitlines() if line]) == 10
    assert names["labels"].shape == names["photo"].shape[:2]
    assert set(np.unique(names["labels"])) == {0, 1, 2, 255}
    assert (tmp_path / "labels.png").exists()


def test_other_blocks_run(monkeypatch):
    needs("skimage")
    torch = needs("torch")
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)  # needs no GPU
    rng = np.random.default_rng(0)
    photo = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    height, width = photo.shape[:2]
    masks = [{"segmentation": rng.random((height, width)) < 0.3} for _ in range(3)]
    names = {
        "cuekit": cuekit,
        "np": np,
        "torch": torch,
        "photo": photo,
        "maps": {c: rng.random((height, width)) for c in (14, 7)},
        "raw": rng.random((21, 7, 9)) < 0.5,
        "mask_generator": SimpleNamespace(generate=lambda _: masks),
        "tags": np.arange(20) < 3,
        "scores": rng.random((21, height, width), dtype=np.float32),
        "scales": [rng.random((2, 12, 16)), rng.random((2, 24, 32))],
        "mirrored": [rng.random((2, 12, 16)), rng.random((2, 24, 32))],
        "energies": rng.random((21, height, width), dtype=np.float32),
        "hard": rng.integers(0, 21, (height, width)),
        "softmax": torch.full((2, 21, 7, 9), 1 / 21),
        "cues": np.zeros((2, 21, 7, 9), dtype=bool),
        "photos": np.stack([photo, photo]),
        "images": torch.from_numpy(np.stack([photo, photo])).movedim(-1, 1).float(),
        "coarse": torch.rand(2, 21, 7, 9),
        "segmentations": torch.full((2, 21, height, width), 1 / 21, requires_grad=True),
        "regions": torch.ones(2, height, width),
        "seg_label": torch.zeros(2, 1, height, width),
        "edge": rng.random((1, height, width)),
    }
    labels = []
    for block in BLOCKS[1:]:
        exec(block, names)  # noqa: S102
        labels.append(names["labels"])
    assert len(labels) == 11
    assert set(np.unique(labels[0])) <= {0, 8, 15}
    assert all(label.shape == (height, width) for label in labels)
    assert set(np.unique(labels[2])) <= {0, 8, 15, 255}
    assert set(np.unique(labels[3])) <= {0, 8, 15, 255}
    assert labels[4].max() <= 3
    assert names["par"](names["images"], names["coarse"]).shape == (2, 21, height, width)
    assert names["loss"].shape == (1,)
    assert names["loss"] < 0
    assert names["filtered"].shape == names["walked"].shape == (2, height, width)


def test_the_labels_command_runs_as_it_stands(tmp_path):
    """But for the place of the program and of scikit-image's photos, which depend on the system."""
    skimage = needs("skimage")
    command = re.search(r"<!-- labels -->\n```sh\n(.*?)\n```", README).group(1)
    command = command.replace(".venv/bin/cuekit", f"{shlex.quote(sys.executable)} -m cuekit")
    data = Path(skimage.__file__).parent / "data"
    command = command.replace(
        ".venv/lib/python3*/site-packages/skimage/data", shlex.quote(str(data))
    )
    shutil.copytree(ROOT / "examples" / "data", tmp_path / "examples" / "data")
    done = subprocess.run(  # noqa: S602
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    labels = cuekit.io.read_labels(tmp_path / "quickstart-output" / "labels" / "astronaut.png")
    assert set(np.unique(labels)) == {0, 3, 4, 255}
    assert "astronaut" in (tmp_path / "quickstart-output" / "labels.html").read_text()


def test_the_other_commands_exist():
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    commands = [line for line in shell.splitlines() if line.startswith("cuekit ")]
    assert len(commands) == 7
    for line in commands:
        parser().parse_args(shlex.split(line)[1:])
