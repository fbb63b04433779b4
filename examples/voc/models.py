"""Fully convolutional classifiers whose maps show where a class is.

Each network ends in two top layers and a linear head, which is applied to every cell. `forward`
returns the head's maps; a classifier's score is the mean of its map. The stride is an argument:
once it is reached, further strided layers are dilated instead, which computes the same function at
more positions. A stride of 8 gives SEC's grid of 41x41 cells at 321x321 pixels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.functional import max_pool2d, pad, relu, relu6

if TYPE_CHECKING:
    from pathlib import Path

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Network(nn.Module):
    """Base class of all networks.

    Attributes
    ----------
    mean, std : tuple of float
        Normalisation of the input: (RGB in [0, 1] - mean) / std.
    stride : int
        Pixels per cell of the maps.
    head : nn.Conv2d
        The linear head, 1×1.
    middle : tuple of str
        Names of layers between input and top, the first with a stride of 8: see `look_inside`.
    batch_norm_frozen : bool
        Whether `freeze_batch_norm` was called.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    stride: int
    head_name: str
    middle: tuple[str, ...]
    batch_norm_frozen: bool = False

    @property
    def head(self) -> nn.Conv2d:
        """The linear head, which has different names in the published networks."""
        return cast("nn.Conv2d", self.get_submodule(self.head_name))

    def move_to(self, device: torch.device) -> None:
        """Move the network to a device, its weights in channels-last layout."""
        to: Any = self.to  # whose annotation has no `memory_format`
        to(device, memory_format=torch.channels_last)

    def top_layers(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the outputs of the two top layers, after their activation functions.

        Parameters
        ----------
        photos : tensor, shape (B, 3, H, W)
            Normalised by `mean` and `std`.

        Returns
        -------
        below_top, top : tensors, shape (B, D, H / stride, W / stride), rounded up
            D differs between the two.
        """
        raise NotImplementedError

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        """Compute the maps (B, K, H / stride, W / stride) of photos (B, 3, H, W)."""
        return self.head(self.top_layers(photos)[1])

    def look_inside(self, photos: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Compute maps as `forward` does, and return the outputs of the layers `middle`, too.

        The first of these layers cuts the graph: gradients of the maps with respect to the outputs
        can be computed, those with respect to the layers below it cannot, which takes less time.

        Parameters
        ----------
        photos : tensor, shape (B, 3, H, W)
            Normalised by `mean` and `std`.

        Returns
        -------
        middle : list of tensors, shape (B, D, h, w)
            D, h and w differ between layers.
        maps : tensor, shape (B, K, H / stride, W / stride)
        """
        middle: list[torch.Tensor] = []

        def keep(_: nn.Module, __: Any, output: Any) -> Any:
            pair = isinstance(output, tuple)
            kept = output[-1] if pair else output
            if not middle:
                kept = kept.detach().requires_grad_()
            middle.append(kept)
            return (*output[:-1], kept) if pair else kept

        hooks = [self.get_submodule(name).register_forward_hook(keep) for name in self.middle]
        try:
            return middle, self(photos)
        finally:
            for hook in hooks:
                hook.remove()

    def normalize(self, photos: torch.Tensor) -> torch.Tensor:
        """Return photos (B, H, W, 3) uint8 as (B, 3, H, W) float32, in channels-last layout."""
        mean, std = (torch.tensor(x, device=photos.device) for x in (self.mean, self.std))
        return ((photos / 255 - mean) / std).permute(0, 3, 1, 2)

    def see(self, photos: torch.Tensor) -> torch.Tensor:
        """Crop and normalise photos for the network.

        These networks are padded such that the cells of n * stride + 1 pixels are centred on pixels
        0, stride, …, n * stride. Resizing assumes that a cell is centred on the stride pixels that
        it covers. To make both agree, half a cell is cropped from each side of (n + 1) * stride
        pixels.

        Parameters
        ----------
        photos : uint8 tensor, shape (B, H, W, 3)
            H and W are multiples of the stride.

        Returns
        -------
        float32 tensor, shape (B, 3, H - stride + 1, W - stride + 1)
            Normalised. Its maps have H / stride × W / stride cells.
        """
        height, width = photos.shape[1:3]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"photos must have sides that are multiples of {self.stride}, got {height}×{width}"
            )
        first = self.stride // 2
        cropped = photos[
            :, first : first + height - self.stride + 1, first : first + width - self.stride + 1
        ]
        return self.normalize(cropped)

    def freeze_batch_norm(self) -> None:
        """Keep batch norm's statistics, scale and shift unchanged during training.

        AffinityNet trains this way, because its batches are too small for statistics. The
        parameters no longer require a gradient: call this before creating the optimiser.
        """
        self.batch_norm_frozen = True
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Network:
        """Switch to training or evaluation; frozen batch norm stays in evaluation."""
        super().train(mode)
        if self.batch_norm_frozen:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def load_published(self, state: dict[str, torch.Tensor]) -> None:
        """Load a published state dict; its head only if it has the same number of classes.

        A fully connected head (K, D) is loaded as the equivalent 1×1 convolution (K, D, 1, 1).
        Batch norm's `num_batches_tracked` is optional: older files do not have it.

        Raises
        ------
        ValueError
            For the state of another network; then nothing is loaded.
        """
        own = self.state_dict()
        head = f"{self.head_name}."
        loaded = {}
        for name, tensor in state.items():
            if name.startswith(head):
                if len(tensor) != self.head.out_channels:
                    continue
                if tensor.ndim == 2:
                    tensor = tensor[:, :, None, None]
            loaded[name] = tensor
        needed = [x for x in own if not (x.startswith(head) or x.endswith(".num_batches_tracked"))]
        problems = {
            "missing": [name for name in needed if name not in loaded],
            "unexpected": [name for name in loaded if name not in own],
            "of another shape": [
                name for name in loaded if name in own and loaded[name].shape != own[name].shape
            ],
        }
        found = ", ".join(f"{problem} {names[:3]}" for problem, names in problems.items() if names)
        if found:
            raise ValueError(f"weights do not fit {type(self).__name__}: {found}")
        self.load_state_dict(loaded, strict=False)


class Strides:
    """Chooses a layer's stride: as wanted until the network's stride is reached, then dilation."""

    def __init__(self, stride: int, reached: int) -> None:
        if stride not in (8, 16, 32):
            raise ValueError(f"expected a stride of 8, 16 or 32, got {stride}")
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
    """A convolution with TensorFlow's padding: output ceil(size / stride), odd pixel at the end."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad and convolve; depthwise ones in the weights' dtype, also under autocast."""
        if self.groups == 1 or x.dtype == self.weight.dtype:
            return self.padded(x)
        # On CPUs the gradient of a dilated depthwise convolution is 3 times slower in bfloat16.
        with torch.autocast(x.device.type, enabled=False):
            return self.padded(x.to(self.weight.dtype))

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        """Pad and convolve."""
        sides = []
        for size, kernel, stride, dilation in zip(
            reversed(x.shape[-2:]), self.kernel_size, self.stride, self.dilation, strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
            sides += [total // 2, total - total // 2]
        left, right, top, bottom = sides
        if x.device.type == "cpu" and self.groups > 1 and self.dilation[0] > 1:
            convolve: Any = Depthwise.apply  # which has no annotation
            return cast("torch.Tensor", convolve(x, self.weight, self.bias, self.dilation[0]))
        if (left, top) == (right, bottom):
            return nn.functional.conv2d(
                x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups
            )
        return super().forward(pad(x, sides))


class Depthwise(torch.autograd.Function):
    """A dilated 3×3 depthwise convolution with a fast gradient on CPUs.

    A convolution with dilation d is d² convolutions without dilation, each on every d-th row and
    column. oneDNN has a fast gradient for these only: this one is 5 times as fast as its own for
    960 channels, dilation 4 and 33×33 cells, which is a fifth of a training's time.
    """

    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dilation: int
    ) -> torch.Tensor:
        """Convolve (B, C, H, W), padded by the dilation."""
        context.save_for_backward(x, weight)
        context.dilation = dilation
        return nn.functional.conv2d(x, weight, bias, 1, dilation, dilation, len(weight))

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Compute the gradients of x, weight and bias."""
        x, weight = context.saved_tensors
        d, channels = context.dilation, len(weight)
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            every(gradient, d),
            every(x, d),
            weight,
            [channels],  # shape of the bias
            [1, 1],  # stride
            [1, 1],  # padding
            [1, 1],  # dilation
            False,
            [0, 0],
            channels,
            [True, True, True],
        )
        parts = of_x.unflatten(0, (d, d, len(x)))
        result = torch.empty_like(x)
        for i in range(d):
            for j in range(d):
                part = result[:, :, i::d, j::d]
                part.copy_(parts[i, j, :, :, : part.shape[2], : part.shape[3]])
        return result, of_weight, of_bias, None


def every(x: torch.Tensor, d: int) -> torch.Tensor:
    """Split x (B, C, H, W) into (d·d·B, C, ⌈H / d⌉, ⌈W / d⌉) of every d-th pixel; 0 where short."""
    b, c, h, w = x.shape
    parts = x.new_zeros((d, d, b, -(-h // d), -(-w // d), c))  # channels-last
    for i in range(d):
        for j in range(d):
            part = x[:, :, i::d, j::d].permute(0, 2, 3, 1)
            parts[i, j, :, : part.shape[1], : part.shape[2]] = part
    return parts.flatten(0, 2).permute(0, 3, 1, 2)


class MobileNetV2(Network):
    """MobileNetV2 1.0 (arXiv 1801.04381) with batch norm folded into its convolutions.

    The top layers are the last depthwise convolution (960 channels) and the last 1×1 (1280).
    """

    mean, std = (0.5,) * 3, (0.5,) * 3
    head_name = "classifier"
    middle = ("features.6", "features.10", "features.13", "features.16")
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
        x = relu6(self.features[0](photos), inplace=True)
        for block in self.features[1:-1]:
            below_top, x = block(x)
        return below_top, relu6(self.features[-1](x), inplace=True)


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, 1×1 projection; ReLU6 after all but the last."""

    def __init__(self, channels: int, out: int, expansion: int, stride: int, dilation: int) -> None:
        super().__init__()
        wide = channels * expansion
        depthwise = SameConv2d(wide, wide, 3, stride=stride, dilation=dilation, groups=wide)
        up = [SameConv2d(channels, wide, 1)] if expansion > 1 else []
        self.conv = nn.ModuleList([*up, depthwise, SameConv2d(wide, out, 1)])
        self.residual = stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output of the depthwise convolution, and that of the block."""
        y = x
        for layer in self.conv[:-1]:
            y = relu6(layer(y), inplace=True)
        out = self.conv[-1](y)
        return y, x + out if self.residual else out


def convolution(
    channels: int, out: int, kernel: int, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """Make a convolution without bias, padded equally on all sides to ceil(size / stride)."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(channels, out, kernel, stride, padding, dilation, bias=False)


def he_initialize(network: nn.Module) -> None:
    """Initialise convolutions from a normal distribution of variance 2 / fan-in (1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ResNet50(Network):
    """ResNet-50 (arXiv 1512.03385); the 3×3 convolution has the stride, as in torchvision.

    Names and dilations are those of torchvision's `resnet50`: `replace_stride_with_dilation` is
    (False, False, True) at stride 16 and (False, True, True) at stride 8. `fc` is a 1×1
    convolution. The top layers are the last two residual blocks (2048 channels each).
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential
    head_name = "fc"
    middle = ("layer2", "layer3", "layer4.0")
    stages = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride

    def __init__(self, classes: int, stride: int = 16) -> None:
        super().__init__()
        self.stride = stride
        strides = Strides(stride, reached=4)
        self.conv1 = convolution(3, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, (width, repeats, wanted) in enumerate(self.stages, start=1):
            blocks = []
            for repeat in range(repeats):
                step = strides.take(wanted if repeat == 0 else 1)
                blocks.append(Bottleneck(channels, width, *step[:2]))
                channels = 4 * width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Conv2d(channels, classes, 1)
        he_initialize(self)

    def top_layers(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute both top layers: see `Network.top_layers`."""
        x = max_pool2d(relu(self.bn1(self.conv1(photos))), 3, stride=2, padding=1)
        x = self.layer3(self.layer2(self.layer1(x)))
        below_top = self.layer4[:-1](x)
        return below_top, self.layer4[-1](below_top)


class Bottleneck(nn.Module):
    """1×1 reduction, 3×3, 1×1 to four times the width, with batch norm; ReLU after the sum."""

    def __init__(self, channels: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(channels, width, 1), nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = convolution(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or channels != 4 * width:
            self.downsample = nn.Sequential(
                convolution(channels, 4 * width, 1, stride), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the block's output."""
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet38(Network):
    """Wide ResNet-38, model A1 (arXiv 1611.10080), as AffinityNet uses it (arXiv 1803.10464).

    Names are those of AffinityNet's `resnet38d`, and of its `resnet38_cls` for the head `fc8`; the
    dilations are AffinityNet's at stride 8. The blocks apply batch norm before they convolve, so
    the top layers are inputs of the last convolutions: the normalised input of block `b7` (2048
    channels; the input of `b6`, AffinityNet's "conv5", has 1024) and its normalised output (4096;
    AffinityNet's "conv6"). `b6`, `b7` and the head have dropout of channels.
    """

    head_name = "fc8"
    middle = ("b4_5", "b5_2", "b6")
    stages = (  # channels after each convolution of a block, blocks, stride, dropout
        ((128, 128), 3, 2, 0.0),
        ((256, 256), 3, 2, 0.0),
        ((512, 512), 6, 2, 0.0),
        ((512, 1024), 3, 2, 0.0),
        ((512, 1024, 2048), 1, 2, 0.3),
        ((1024, 2048, 4096), 1, 1, 0.5),
    )

    def __init__(self, classes: int, stride: int = 16) -> None:
        super().__init__()
        self.stride = stride
        strides = Strides(stride, reached=1)
        self.conv1a = convolution(3, 64, 3)
        channels = 64
        self.blocks = []
        for stage, (widths, repeats, wanted, dropout) in enumerate(self.stages, start=2):
            for repeat in range(repeats):
                step = strides.take(wanted if repeat == 0 else 1)
                name = f"b{stage}_{repeat}" if repeat else f"b{stage}"
                self.add_module(name, PreActivation((channels, *widths), step, dropout))
                self.blocks.append(name)
                channels = widths[-1]
        self.bn7 = nn.BatchNorm2d(channels)
        self.dropout7 = nn.Dropout2d(0.5)
        self.fc8 = nn.Conv2d(channels, classes, 1, bias=False)
        he_initialize(self)

    def top_layers(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute both top layers: see `Network.top_layers`."""
        x = self.conv1a(photos)
        for name in self.blocks:
            below_top, x = self.get_submodule(name)(x)
        return below_top, relu(self.bn7(x))

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        """Compute the maps: see `Network.forward`."""
        return self.head(self.dropout7(self.top_layers(photos)[1]))


class PreActivation(nn.Module):
    """A residual block of two 3×3, or of 1×1, 3×3 and 1×1, each after batch norm and ReLU.

    Parameters
    ----------
    channels : tuple of int
        Channels of the input, and after each convolution.
    step : tuple of int
        Result of `Strides.take`: stride and dilation of the first convolution, and the dilation of
        those after it.
    dropout : float
        Probability of dropping a channel before each convolution but the first.
    """

    def __init__(
        self, channels: tuple[int, ...], step: tuple[int, int, int], dropout: float
    ) -> None:
        super().__init__()
        stride, dilation, dilation_after = step
        self.branches = ("branch2a", "branch2b1", "branch2b2")[: len(channels) - 1]
        kernels = (3, 3) if len(self.branches) == 2 else (1, 3, 1)
        steps = ((stride, dilation), *[(1, dilation_after)] * 2)
        for branch, sizes, kernel, each in zip(
            self.branches, pairwise(channels), kernels, steps, strict=False
        ):
            self.add_module(f"bn_{branch}", nn.BatchNorm2d(sizes[0]))
            self.add_module(f"conv_{branch}", convolution(*sizes, kernel, *each))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_branch1 = None
        if stride != 1 or channels[0] != channels[-1]:
            self.conv_branch1 = convolution(channels[0], channels[-1], 1, stride)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the normalised input, and the block's output."""
        y = x
        for branch in self.branches:
            y = relu(self.get_submodule(f"bn_{branch}")(y))
            if branch == "branch2a":
                normalised = y
            else:
                y = self.dropout(y)
            y = self.get_submodule(f"conv_{branch}")(y)
        return normalised, y + (x if self.conv_branch1 is None else self.conv_branch1(normalised))


class SmallNet(Network):
    """A network of 0.15 million parameters, trained from scratch on generated photos.

    Six 3×3 convolutions, each followed by batch norm and ReLU. The top layers are the last two.
    Batch norm rather than group norm: group norm's statistics give every cell information about
    the whole photo; the network then learns the tags, but its maps do not localise.
    """

    mean, std = (0.5,) * 3, (0.5,) * 3
    head_name = "classifier"
    middle = ("features.3", "features.4")
    layers = ((16, 2), (32, 2), (64, 1), (64, 2), (64, 1), (96, 1))  # channels, stride

    def __init__(self, classes: int, stride: int = 8) -> None:
        super().__init__()
        if stride != 8:
            raise ValueError(f"the small network has a stride of 8, got {stride}")
        self.stride = stride
        layers, channels = [], 3
        for out, step in self.layers:
            layers.append(
                nn.Sequential(
                    SameConv2d(channels, out, 3, stride=step, bias=False),
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


NETWORKS: dict[str, type[Network]] = {
    "mobilenet_v2": MobileNetV2,
    "resnet50": ResNet50,
    "resnet38": ResNet38,
    "small": SmallNet,
}


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors by name from a file; code in the file is never run.

    Parameters
    ----------
    path : Path
        A NumPy archive (.npz) of one array per tensor, or a state dict of torch (.pth, .pt).

    Raises
    ------
    ValueError
        For another kind of file, and for an archive with pickled objects.
    pickle.UnpicklingError
        For a torch file with other objects than tensors and plain containers.
    """
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays}
    if path.suffix not in (".pth", ".pt"):
        raise ValueError("expected a .npz, .pth or .pt file")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError(f"expected a state dict, got {type(state).__name__}")  # noqa: TRY004
    return state


def build(name: str, classes: int, stride: int, weights: Path | None = None) -> Network:
    """Create a network and load its weights.

    Parameters
    ----------
    name : str
        A key of `NETWORKS`.
    classes : int
        Number of maps, K.
    stride : int
        Pixels per cell of the maps: 32, 16 or 8.
    weights : Path, optional
        A file for `read_state`; without it, weights are random.

    Returns
    -------
    Network
        In training mode, on the CPU. Its head is random if the file has none, or one for another
        number of classes.

    Raises
    ------
    KeyError
        For an unknown name.
    ValueError
        For an unknown stride, and for weights that cannot be read or do not fit.
    """
    network = NETWORKS[name](classes, stride)
    if weights is not None:
        try:
            network.load_published(read_state(weights))
        except ValueError as error:
            raise ValueError(f"{weights}: {error}") from error
    return network
