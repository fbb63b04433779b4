"""docs/guide/other_packages.md runs with the real packages, on small networks of random weights."""

import re
from functools import partial

import numpy as np
import pytest
from common import ROOT, needs
from PIL import Image

import cuekit

PAGE = (ROOT / "docs" / "guide" / "other_packages.md").read_text(encoding="utf-8")
SIDE = 96  # of the networks' inputs; the page has 448
SECTIONS = {
    title: re.findall(r"```python\n(.*?)```", text.replace("448", str(SIDE)), re.DOTALL)
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
}
HEIGHT, WIDTH = 60, 80


def small_sam(checkpoint):
    """Return SAM as `build_sam.py` of the package puts it together, but small."""
    torch = needs("torch")
    modeling = needs("segment_anything").modeling
    width, patch = 32, 16
    encoder = modeling.ImageEncoderViT(
        img_size=SIDE,
        patch_size=patch,
        embed_dim=width,
        depth=1,
        num_heads=2,
        out_chans=width,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=0,
        global_attn_indexes=(0,),
    )
    prompts = modeling.PromptEncoder(width, (SIDE // patch,) * 2, (SIDE, SIDE), 4)
    transformer = modeling.TwoWayTransformer(2, width, 2, 32)
    decoder = modeling.MaskDecoder(transformer_dim=width, transformer=transformer)
    assert checkpoint.startswith("sam_vit_b")
    return modeling.sam.Sam(encoder, prompts, decoder).eval()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs sections of the page in one namespace, which it returns."""
    torch = needs("torch")
    torchvision = needs("torchvision")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    Image.fromarray(blocks).save("street.jpg")

    def resnet50(weights):
        assert weights == "IMAGENET1K_V2"
        return torchvision.models.resnet18()

    monkeypatch.setattr(torchvision.models, "resnet50", resnet50)
    names = {}

    def run(*titles):
        for title in titles:
            for block in SECTIONS[title]:
                exec(block, names)  # noqa: S102
        return names

    return run


def check_maps(maps, size):
    assert maps.shape == (2, *size)
    array = np.asarray(maps)
    assert np.isfinite(array).all()
    assert (array.max((1, 2)) > 0).all()


def check_labels():
    for name in ("street-cues.png", "street-crf.png"):
        labels = cuekit.io.read_labels(name)
        assert labels.shape == (HEIGHT, WIDTH)
        assert set(np.unique(labels)) <= {0, 1, 2, 255}
    assert set(np.unique(cuekit.io.read_labels("street-cues.png"))) & {1, 2}


def test_grad_cam(run, monkeypatch):
    needs("pytorch_grad_cam")
    timm = needs("timm")
    create = timm.create_model

    def create_model(name, pretrained, img_size):
        assert pretrained
        return create(name.replace("base", "tiny"), img_size=img_size, depth=2)

    monkeypatch.setattr(timm, "create_model", create_model)
    names = run("A network and a photo", "pytorch-grad-cam", "From maps to labels")
    check_maps(names["maps"], (SIDE, SIDE))
    assert names["maps"].max() <= 1
    check_maps(names["vit_maps"], (SIDE, SIDE))
    check_labels()


def test_torchcam(run):
    needs("torchcam")
    names = run("A network and a photo", "torchcam", "From maps to labels", "A folder of photos")
    check_maps(names["maps"], (SIDE // 32, SIDE // 32))
    check_labels()
    stored = cuekit.io.read_maps("cams/street.npz")
    assert stored.class_ids.tolist() == [1, 2]
    np.testing.assert_allclose(stored.maps, names["maps"], rtol=1e-3)  # stored as float16


def test_a_square_input_keeps_every_part_of_the_photo(run):
    """A crop would lose the photo's left and right ends, where the page's maps would be wrong."""
    torch = needs("torch")
    names = run("A network and a photo")
    photo = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    photo[:, -8:] = 255
    x = names["network_input"](photo) * names["deviation"] + names["mean"]
    assert x.shape == (1, 3, SIDE, SIDE)
    # The last tenth of the columns is white: column 0.9 * SIDE = 86.4 on; 2 more are blurred.
    assert torch.allclose(x[..., :84], torch.zeros(()), atol=1e-6)
    assert torch.allclose(x[..., 89:], torch.ones(()), atol=1e-6)


def test_segment_anything(run, monkeypatch):
    sam = needs("segment_anything")
    monkeypatch.setitem(sam.sam_model_registry, "vit_b", small_sam)
    # Random weights have no opinion of their masks, so none is left out.
    every = {"points_per_side": 3, "pred_iou_thresh": -np.inf, "stability_score_thresh": -1.0}
    generator = partial(sam.SamAutomaticMaskGenerator, **every, box_nms_thresh=1.0)
    monkeypatch.setattr(sam, "SamAutomaticMaskGenerator", generator)
    names = run("A network and a photo")
    rng = np.random.default_rng(0)
    names["maps"] = rng.random((2, 9, 12))
    names["raw"] = rng.random((3, 9, 12)) < 0.3
    first, second, third = SECTIONS["segment-anything"]
    exec(first, names)  # noqa: S102
    binary = names["masks"]
    assert len(binary) > 0
    exec(second, names)  # noqa: S102
    np.testing.assert_array_equal(names["masks"], binary)
    exec(third, names)  # noqa: S102
    assert names["labels"].shape == (HEIGHT, WIDTH)
    assert names["of_mask"].shape == binary.shape[:1]
    assert set(np.unique(names["of_mask"])) <= {0, 1, 2, 255}
