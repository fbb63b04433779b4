"""The README's Python runs as it stands there, on made-up input of the right shapes."""

import re
from types import SimpleNamespace

import numpy as np
from common import ROOT, needs

README = ROOT / "README.md"


def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    needs("skimage")
    torch = needs("torch")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    photo = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    height, width = photo.shape[:2]
    masks = [{"segmentation": rng.random((height, width)) < 0.3} for _ in range(3)]
    names = {
        "np": np,
        "photo": photo,
        "cams": rng.random((20, 7, 9), dtype=np.float32),
        "tags": np.arange(20) < 3,
        "layer4": rng.random((32, 14, 18), dtype=np.float32),
        "layer5": rng.random((64, 7, 9), dtype=np.float32),
        "snapped_of_gray_network": np.zeros((21, height, width), dtype=bool),
        "maps": {c: rng.random((height, width)) for c in (14, 7)},
        "mask_generator": SimpleNamespace(generate=lambda _: masks),
        "scores": rng.random((21, height, width), dtype=np.float32),
        "energies": rng.random((21, height, width), dtype=np.float32),
        "hard": rng.integers(0, 21, (height, width)),
        "softmax": torch.full((2, 21, 7, 9), 1 / 21),
        "cues": np.zeros((2, 21, 7, 9), dtype=bool),
        "photos": np.stack([photo, photo]),
        "torch": torch,
    }
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)  # needs no GPU
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 7
    labels = []
    for block in blocks:
        exec(block, names)  # noqa: S102
        labels.append(names["labels"])
    assert (tmp_path / "labels.png").exists()
    assert set(np.unique(labels[1])) <= {0, 8, 15}
    assert all(label.shape == (height, width) for label in labels)
    assert labels[3].max() <= 3
    assert names["loss"] >= 0
