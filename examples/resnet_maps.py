"""Activation maps of any photo, computed by torchvision's ResNet-50."""

from __future__ import annotations

import difflib
from pickle import UnpicklingError

import numpy as np
from PIL import Image

STRIDE = 16  # pixels per cell of the maps
CLASSIFY_AT = 256  # the photo's longer side when the network predicts the classes
LOCALIZE_AT = 448  # the same for the maps: a larger photo has more cells and shows smaller objects
PROBABILITY = 0.2  # classes of at least this probability are taken as present
INSTALL = (
    "pip install torch torchvision --extra-index-url https://download.pytorch.org/whl/cpu "
    "(CPU builds; without the option pip takes the much larger CUDA builds on Linux)"
)


class CannotComputeError(Exception):
    """The maps cannot be computed; the message says what is missing and how to install it."""


def compute(
    photo: Image.Image, names: list[str]
) -> tuple[list[str], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Compute the activation maps of a photo and of its grayscale version.

    Parameters
    ----------
    photo : Image
        RGB.
    names : list of str
        ImageNet names of the C classes in the photo; if empty, the network predicts them.

    Returns
    -------
    classes : list of str
        The names.
    maps : dict of str to (ndarray, ndarray)
        For "color" and "gray": activation maps (C, h, w), negative values set to 0, and the
        outputs of the last two residual blocks, each summed over its channels (2, h, w).

    Raises
    ------
    CannotComputeError
        If torch, torchvision or the weights are missing, or there is no class of such a name.
    """
    try:
        import torch
        from torchvision.models import ResNet50_Weights, resnet50
    except (ImportError, RuntimeError) as error:  # RuntimeError: their versions do not match
        raise CannotComputeError(
            f"--photo needs torch and torchvision ({error}): {INSTALL}"
        ) from error

    weights = ResNet50_Weights.IMAGENET1K_V1
    known = weights.meta["categories"]
    chosen = list(dict.fromkeys(_index(name, known) for name in names))
    try:
        # The last stage is dilated instead of strided, for a stride of 16 instead of 32.
        network = resnet50(weights=weights, replace_stride_with_dilation=[False, False, True])
    except (
        OSError,
        RuntimeError,
        EOFError,
        UnpicklingError,
    ) as error:  # offline, or a damaged file
        raise CannotComputeError(
            f"--photo needs the weights of ResNet-50, which could not be loaded ({error}): "
            f"download {weights.url} into {torch.hub.get_dir()}/checkpoints"
        ) from error
    network.eval()

    def top_blocks(image: Image.Image, longer_side: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the outputs of the last two residual blocks, (2048, h, w) each."""
        scale = longer_side / max(image.size)
        width, height = (max(round(n * scale / STRIDE), 1) * STRIDE for n in image.size)
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)
        x = torch.from_numpy((pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225))
        x = x.float().permute(2, 0, 1)[None]
        # Cell j is centred on pixel STRIDE * j, but resizing assumes that it is centred on the
        # STRIDE pixels that it covers. Shifting the photo by half a cell makes both agree.
        half = STRIDE // 2
        x = torch.nn.functional.pad(x, (-half, half, -half, half))
        x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        x = network.layer3(network.layer2(network.layer1(x)))
        below_top = network.layer4[:2](x)
        return below_top[0], network.layer4[2](below_top)[0]

    with torch.inference_mode():
        if not chosen:
            _, top = top_blocks(photo, CLASSIFY_AT)
            probabilities = network.fc(top.mean(dim=(1, 2))).softmax(dim=0)
            likely = (probabilities >= PROBABILITY).nonzero().flatten().tolist()
            chosen = likely or [int(probabilities.argmax())]
        maps = {}
        for kind, image in {"color": photo, "gray": photo.convert("L").convert("RGB")}.items():
            below_top, top = top_blocks(image, LOCALIZE_AT)
            # The classifier's weights are applied to every cell instead of to the mean over cells.
            cams = torch.einsum("kd,dhw->khw", network.fc.weight[chosen], top).clamp(min=0)
            features = torch.stack([below_top.sum(dim=0), top.sum(dim=0)])
            maps[kind] = cams.numpy(), features.numpy()
    return [known[i] for i in chosen], maps


def _index(name: str, known: list[str]) -> int:
    """Return the index of an ImageNet class; upper and lower case are the same."""
    lower = [other.lower() for other in known]
    if name.lower() in lower:
        return lower.index(name.lower())
    close = difflib.get_close_matches(name.lower(), lower, n=3)
    similar = [other for other in lower if name.lower() in other][:3]
    hints = ", ".join(dict.fromkeys(close + similar))
    question = f"; did you mean {hints}?" if hints else ", and none with a similar name"
    raise CannotComputeError(f"--classes: ImageNet has no class {name!r}{question}")
