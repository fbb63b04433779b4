"""Fully convolutional classifiers whose maps say where a class is.

Each network ends in two top layers and a linear head that is applied to every cell: `forward`
gives the head's maps, and a classifier's score is their mean. The stride is an argument: layers
that would go below the wanted resolution keep it and are dilated instead, which computes the same
function at more places. 8 gives SEC's grid of 41x41 cells at 321x321 pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import pad, relu6

if TYPE_CHECKING:
    from pathlib import Path

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Network(nn.Module):
    """What all networks here have in common.

    Attributes
    ----------
    mean, std : tuple of float
        What the network wants subtracted from RGB in [0, 1], and divided by.
    stride : int
        Pixels per cell of the maps.
    head : nn.Conv2d
        The linear head, 1×1.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    stride: int
    head_name: str

    @property
    def head(self) -> nn.Conv2d:
        """The linear head, whatever its published name."""
        return self.get_submodule(self.head_name)  # type: ignore[return-value]

    def top_layers(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the outputs of the two top layers, after their non-linearity.

        Parameters
        ----------
        photos : tensor, shape (B, 3, H, W)
            Normalised by `mean` and `std`.

        Returns
        -------
        below_top, top : tensors, shape (B, D, H / stride, W / stride), rounded up
        """
        raise NotImplementedError

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        """Compute the maps (B, K, H / stride, W / stride) of photos (B, 3, H, W)."""
        return self.head(self.top_layers(photos)[1])

    def normalize(self, photos: torch.Tensor) -> torch.Tensor:
        """Turn photos (B, H, W, 3) uint8 into what the network takes, (B, 3, H, W) float32."""
        mean, std = (torch.tensor(x, device=photos.device) for x in (self.mean, self.std))
        return ((photos / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()

    def load_published(self, state: dict[str, torch.Tensor]) -> None:
        """Load a published state dict; its head only where it is of as many classes.

        A fully connected head (K, D) becomes the 1×1 convolution (K, D, 1, 1) that it is.
        """
        own = self.state_dict()
        loaded = {}
        for name, tensor in state.items():
            if name.startswith(f"{self.head_name}."):
                shape = own[name].shape if name in own else ()
                if tensor.numel() != int(np.prod(shape)):
                    continue
                tensor = tensor.reshape(shape)
            loaded[name] = tensor
        missing, unexpected = self.load_state_dict(loaded, strict=False)
        missing = [name for name in missing if not name.startswith(f"{self.head_name}.")]
        if missing or unexpected:
            raise ValueError(
                f"weights do not fit {type(self).__name__}: missing {missing[:3]}, "
                f"unexpected {unexpected[:3]}"
            )


class Strides:
    """Hands out strides until a network's stride is reached, and dilations after that."""

    def __init__(self, stride: int, reached: int) -> None:
        self.stride, self.reached, self.dilation = stride, reached, 1

    def take(self, wanted: int) -> tuple[int, int, int]:
        """Return the stride and dilation of a layer, and the dilation of those after it."""
        before = self.dilation
        if self.reached < self.stride:
            self.reached *= wanted
            return wanted, before, before
        self.dilation *= wanted
        return 1, before, self.dilation


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow does: to ceil(size / stride), an odd pixel at the end."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad and convolve."""
        sides = []
        for size, kernel, stride, dilation in zip(
            reversed(x.shape[-2:]), self.kernel_size, self.stride, self.dilation, strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
            sides += [total // 2, total - total // 2]
        left, right, top, bottom = sides
        if (left, top) == (right, bottom):
            return nn.functional.conv2d(
                x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups
            )
        return super().forward(pad(x, sides))


class MobileNetV2(Network):
    """MobileNetV2 1.0 (arXiv 1801.04381) with batch norm folded into its convolutions.

    The top layers are the last depthwise convolution (960 channels) and the last 1×1 (1280).
    """

    mean, std = (0.5,) * 3, (0.5,) * 3
    head_name = "classifier"
    blocks = (  # expansion, channels, repeats, stride
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, classes: int, stride: int = 16) -> None:
        super().__init__()
        self.stride = stride
        strides = Strides(stride, reached=2)
        layers: list[nn.Module] = [SameConv2d(3, 32, 3, stride=2)]
        channels = 32
        for expansion, out, repeats, wanted in self.blocks:
            for repeat in range(repeats):
                step = strides.take(wanted if repeat == 0 else 1)
                layers.append(InvertedResidual(channels, out, expansion, *step[:2]))
                channels = out
        layers.append(SameConv2d(channels, 1280, 1))
        self.features = nn.ModuleList(layers)
        self.classifier = nn.Conv2d(1280, classes, 1)

    def top_layers(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute both top layers: see `Network.top_layers`."""
        x = relu6(self.features[0](photos))
        for block in self.features[1:-1]:
            below_top, x = block(x)
        return below_top, relu6(self.features[-1](x))

    def load_npz(self, path: Path) -> None:
        """Load weights of float16 or float32, one array per tensor."""
        with np.load(path) as arrays:  # refuses pickles
            state = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays}
        self.load_published(state)


class InvertedResidual(nn.Module):
    """1×1 up, 3×3 depthwise, 1×1 down; ReLU6 after all but the last."""

    def __init__(self, channels: int, out: int, expansion: int, stride: int, dilation: int) -> None:
        super().__init__()
        wide = channels * expansion
        depthwise = SameConv2d(wide, wide, 3, stride=stride, dilation=dilation, groups=wide)
        up = [SameConv2d(channels, wide, 1)] if expansion > 1 else []
        self.conv = nn.ModuleList([*up, depthwise, SameConv2d(wide, out, 1)])
        self.residual = stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the depthwise convolution's output, and the block's."""
        y = x
        for layer in self.conv[:-1]:
            y = relu6(layer(y))
        out = self.conv[-1](y)
        return y, x + out if self.residual else out


class SmallNet(Network):
    """A small network that learns from scratch, for generated photos: 0.15 million parameters.

    Six 3×3 convolutions, each followed by batch norm and ReLU. The top layers are the last two.
    Group norm would tell every cell what else is in the photo: the tags are learned, and the maps
    no longer say where.
    """

    mean, std = (0.5,) * 3, (0.5,) * 3
    head_name = "classifier"
    layers = ((16, 2), (32, 2), (64, 1), (64, 2), (64, 1), (96, 1))  # channels, stride

    def __init__(self, classes: int, stride: int = 8) -> None:
        super().__init__()
        self.stride = stride
        strides = Strides(stride, reached=1)
        layers, channels = [], 3
        for out, wanted in self.layers:
            step, dilation, _ = strides.take(wanted)
            layers.append(
                nn.Sequential(
                    SameConv2d(channels, out, 3, stride=step, dilation=dilation, bias=False),
                    nn.BatchNorm2d(out),
                    nn.ReLU(),
                )
            )
            channels = out
        self.features = nn.ModuleList(layers)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def top_layers(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute both top layers: see `Network.top_layers`."""
        x = photos
        for layer in self.features[:-1]:
            x = layer(x)
        return x, self.features[-1](x)
