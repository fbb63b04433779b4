"""examples/quickstart.py: what it prints, and how it reports a photo that it cannot use."""

import importlib
import sys

import pytest
from common import ROOT, needs

EXAMPLES = ROOT / "examples"


@pytest.fixture
def quickstart(monkeypatch):
    needs("matplotlib")
    needs("skimage")
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module("quickstart")
    for name in ("quickstart", "picture", "resnet_maps"):
        sys.modules.pop(name, None)


def run(quickstart, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["quickstart.py", *map(str, arguments)])
    quickstart.main()


def test_labels_picture_and_shares_are_written(quickstart, monkeypatch, tmp_path, capsys):
    run(quickstart, monkeypatch, "--out", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "astronaut-labels.png",
        "chelsea-labels.png",
        "coffee-labels.png",
        "quickstart.png",
    }
    printed = capsys.readouterr().out
    assert "Cues may overlap" in printed
    assert "1 cat: raw 64.2%, fused 80.8%" in printed


@pytest.mark.parametrize("content", [None, b"", b"no photo", b"\xff\xd8\xff\xe0\0\x10JFIF"])
def test_bad_photo_is_named(quickstart, monkeypatch, tmp_path, capsys, content):
    photo = tmp_path / "street.jpg"
    if content is not None:
        photo.write_bytes(content)
    with pytest.raises(SystemExit):
        run(quickstart, monkeypatch, "--photo", photo, "--out", tmp_path / "out")
    assert f"--photo: cannot read {photo}: " in capsys.readouterr().err


def test_truncated_photo_is_named(quickstart, monkeypatch, tmp_path, capsys):
    data = (EXAMPLES / "quickstart.jpg").read_bytes()
    (tmp_path / "street.jpg").write_bytes(data[:9999])
    with pytest.raises(SystemExit):
        run(quickstart, monkeypatch, "--photo", tmp_path / "street.jpg", "--out", tmp_path / "out")
    assert "street.jpg: image file is truncated" in capsys.readouterr().err


def test_missing_torchvision_names_the_cpu_build(quickstart, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    photo = EXAMPLES / "quickstart.jpg"
    with pytest.raises(SystemExit):
        run(quickstart, monkeypatch, "--photo", photo, "--out", tmp_path / "out")
    message = capsys.readouterr().err
    assert "--photo needs torch and torchvision" in message
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in message
