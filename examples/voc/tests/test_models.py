"""The networks of examples/voc against the published ones: names, sizes, dilations and outputs."""

import math
import pickle

import numpy as np
import pytest
from common import DATA, needs, needs_data
from PIL import Image

torch = needs("torch")

import models  # noqa: E402 - needs torch

WEIGHTS = DATA / "weights" / "mobilenet_v2_imagenet_fp16.npz"
needs_weights = needs_data(WEIGHTS)

NAMES = ("mobilenet_v2", "resnet50", "resnet38")
STRIDES = (8, 16, 32)


class NarrowResNet50(models.ResNet50):
    stages = ((4, 3, 1), (6, 4, 2), (8, 6, 2), (10, 3, 2))


class NarrowResNet38(models.ResNet38):
    stages = tuple(
        (tuple(width // 32 for width in widths), *others)
        for widths, *others in models.ResNet38.stages
    )


NARROW = {  # as deep as the published ones, so that they are dilated alike, and fast
    "mobilenet_v2": models.MobileNetV2,
    "resnet50": NarrowResNet50,
    "resnet38": NarrowResNet38,
}


@pytest.fixture(autouse=True)
def _same_random_numbers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def without_memory(name, classes, stride=16):
    """The published network's names and shapes: ResNet-38 has a hundred million numbers."""
    with torch.device("meta"):
        return models.NETWORKS[name](classes, stride)


def narrow(name, classes=3, stride=16):
    """A narrow network in float64 that has seen data: its batch norm does something."""
    network = NARROW[name](classes, stride).double()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.3)
    return network.eval()


def photos(height, width, batch=1):
    return torch.randn(batch, 3, height, width, dtype=torch.float64)


# ------------------------------------------------------------------------------ names and shapes


def batch_norm(name, channels):
    each = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{key}": (channels,) for key in each} | {f"{name}.num_batches_tracked": ()}


def published_resnet50():
    """torchvision's `resnet50().state_dict()`."""
    shapes = {"conv1.weight": (64, 3, 7, 7), **batch_norm("bn1", 64)}
    channels = 64
    for layer, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(blocks):
            name, out = f"layer{layer}.{block}", 4 * width
            shapes |= {f"{name}.conv1.weight": (width, channels, 1, 1)}
            shapes |= {f"{name}.conv2.weight": (width, width, 3, 3)}
            shapes |= {f"{name}.conv3.weight": (out, width, 1, 1)}
            for key, size in (("bn1", width), ("bn2", width), ("bn3", out)):
                shapes |= batch_norm(f"{name}.{key}", size)
            if block == 0:
                shapes |= {f"{name}.downsample.0.weight": (out, channels, 1, 1)}
                shapes |= batch_norm(f"{name}.downsample.1", out)
            channels = out
    return shapes | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}


def published_resnet38():
    """`Net().state_dict()` of network/resnet38_cls.py in github.com/jiwoon-ahn/psa."""
    shapes = {"conv1a.weight": (64, 3, 3, 3)}
    channels = 64
    stages = ((2, 128, 128, 3), (3, 256, 256, 3), (4, 512, 512, 6), (5, 512, 1024, 3))
    for stage, middle, out, blocks in stages:
        for name in (f"b{stage}", *(f"b{stage}_{block}" for block in range(1, blocks))):
            shapes |= batch_norm(f"{name}.bn_branch2a", channels)
            shapes |= {f"{name}.conv_branch2a.weight": (middle, channels, 3, 3)}
            shapes |= batch_norm(f"{name}.bn_branch2b1", middle)
            shapes |= {f"{name}.conv_branch2b1.weight": (out, middle, 3, 3)}
            if channels != out:
                shapes |= {f"{name}.conv_branch1.weight": (out, channels, 1, 1)}
            channels = out
    for name, out in (("b6", 2048), ("b7", 4096)):
        shapes |= batch_norm(f"{name}.bn_branch2a", channels)
        shapes |= {f"{name}.conv_branch2a.weight": (out // 4, channels, 1, 1)}
        shapes |= batch_norm(f"{name}.bn_branch2b1", out // 4)
        shapes |= {f"{name}.conv_branch2b1.weight": (out // 2, out // 4, 3, 3)}
        shapes |= batch_norm(f"{name}.bn_branch2b2", out // 2)
        shapes |= {f"{name}.conv_branch2b2.weight": (out, out // 2, 1, 1)}
        shapes |= {f"{name}.conv_branch1.weight": (out, channels, 1, 1)}
        channels = out
    return shapes | batch_norm("bn7", 4096) | {"fc8.weight": (20, 4096, 1, 1)}


def published_mobilenet_v2():
    """What the weights of ../shared/data hold: batch norm is folded into weights and biases."""
    layers = {"features.0": (32, 3, 3, 3)}
    channels, block = 32, 0
    rows = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    for expansion, out, repeats in rows:
        for _ in range(repeats):
            block += 1
            wide = channels * expansion
            shapes = [(wide, channels, 1, 1)] * (expansion > 1)
            shapes += [(wide, 1, 3, 3), (out, wide, 1, 1)]
            for place, shape in enumerate(shapes):
                layers[f"features.{block}.conv.{place}"] = shape
            channels = out
    layers |= {"features.18": (1280, 320, 1, 1), "classifier": (1001, 1280, 1, 1)}
    return {f"{name}.weight": shape for name, shape in layers.items()} | {
        f"{name}.bias": shape[:1] for name, shape in layers.items()
    }


PUBLISHED = {
    "mobilenet_v2": published_mobilenet_v2(),
    "resnet50": published_resnet50(),
    "resnet38": published_resnet38(),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes(name):
    head = f"{models.NETWORKS[name].head_name}.weight"
    classes, channels = PUBLISHED[name][head][:2]
    own = without_memory(name, classes).state_dict()
    # A fully connected head is a convolution here.
    wanted = PUBLISHED[name] | {head: (classes, channels, 1, 1)}
    assert {key: tuple(tensor.shape) for key, tensor in own.items()} == wanted


@needs_weights
def test_names_and_shapes_of_the_weights_file():
    with np.load(WEIGHTS) as arrays:
        assert {name: arrays[name].shape for name in arrays} == PUBLISHED["mobilenet_v2"]


def count(name, classes):
    return sum(parameter.numel() for parameter in without_memory(name, classes).parameters())


def test_parameter_count_of_resnet50():
    assert count("resnet50", 1000) == 25_557_032  # torchvision's documentation


def test_parameter_count_of_mobilenet_v2():
    # torchvision documents 3 504 872 for 1000 classes, with two numbers of batch norm per channel
    # of each convolution. Folded, there is one, the bias.
    shapes = PUBLISHED["mobilenet_v2"]
    channels = sum(shape[0] for name, shape in shapes.items() if name.endswith(".bias")) - 1001
    assert channels == 17_056
    assert count("mobilenet_v2", 1000) == 3_504_872 - channels
    assert count("mobilenet_v2", 1001) == 3_504_872 - channels + 1280 + 1


def test_parameter_count_of_resnet38():
    # Neither the paper nor AffinityNet's code states a number: this one is theirs by formula.
    def normalised(channels, out, kernel):
        return 2 * channels + kernel**2 * channels * out

    trunk = 3 * 9 * 64 + 2 * 4096
    channels = 64
    for middle, out, blocks in ((128, 128, 3), (256, 256, 3), (512, 512, 6), (512, 1024, 3)):
        trunk += channels * out  # the shortcut
        for _ in range(blocks):
            trunk += normalised(channels, middle, 3) + normalised(middle, out, 3)
            channels = out
    for out in (2048, 4096):
        trunk += channels * out + normalised(channels, out // 4, 1)
        trunk += normalised(out // 4, out // 2, 3) + normalised(out // 2, out, 1)
        channels = out
    assert trunk == 105_070_912
    assert count("resnet38", 20) == trunk + 20 * 4096


# ------------------------------------------------------------------------------ sizes and strides


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("name", NAMES)
def test_sizes(name, stride):
    channels = {"mobilenet_v2": (960, 1280), "resnet50": (2048, 2048), "resnet38": (2048, 4096)}
    network = without_memory(name, 20, stride)
    for size in ((321, 321), (224, 225), (1, 250)):
        cells = tuple(math.ceil(side / stride) for side in size)
        layers = network.top_layers(torch.empty(2, 3, *size, device="meta"))
        for layer, wanted in zip(layers, channels[name], strict=True):
            assert layer.shape == (2, wanted, *cells)
        if size == (321, 321):
            assert cells == ({8: 41, 16: 21, 32: 11}[stride],) * 2
    assert network(torch.empty(2, 3, *size, device="meta")).shape == (2, 20, *cells)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        # TensorFlow's padding starts at the first pixel or before it, as the side is even or odd.
        # Every layer's sides are odd where a photo's are a multiple of 32, plus one.
        ("mobilenet_v2", (97, 65)),
        # The others pad as much on all sides, so that the first cell is the first pixel's always.
        *((name, size) for name in NAMES[1:] for size in ((97, 65), (64, 90), (71, 32))),
    ],
)
def test_dilated_equals_strided(name, size):
    strided = narrow(name, stride=32)
    x = photos(*size)
    with torch.no_grad():
        wanted = (*strided.top_layers(x), strided(x))
        for stride in (8, 16):
            dilated = NARROW[name](3, stride).double().eval()
            dilated.load_state_dict(strided.state_dict())
            step = 32 // stride
            for layer, coarse in zip((*dilated.top_layers(x), dilated(x)), wanted, strict=True):
                # The same sums of float64 in another order: rounding of 1e-16, grown over 53
                # layers. A dilation that is wrong changes the first digits.
                fine = layer[:, :, ::step, ::step]
                torch.testing.assert_close(
                    fine, coarse, rtol=1e-9, atol=1e-9 * coarse.abs().max().item()
                )


TABLE = torch.arange(1.0, 1010.0).sin()  # 1009 is prime: no channel repeats another


def wave(shape):
    count = math.prod(shape)
    return TABLE.repeat(count // len(TABLE) + 1)[:count].reshape(shape)


def filled(name, stride):
    """The published network of 3 classes, every tensor a wave of a size that suits it."""
    network = without_memory(name, 3, stride).to_empty(device="cpu").eval()
    for key, tensor in network.state_dict().items():
        value = wave(tensor.shape)
        if tensor.ndim > 1:
            value *= 2 / math.sqrt(tensor[0].numel())
        elif key.endswith(("running_var", ".weight")):
            value = 1 + value / 2
        else:
            value = value / 4
        tensor.copy_(value)
    return network


@pytest.mark.parametrize(
    ("name", "stride", "scores"),
    [
        # Of torchvision 0.28's resnet50(num_classes=3, replace_stride_with_dilation=...).
        ("resnet50", 8, (20866.179, 2794.9382, -17105.931)),
        ("resnet50", 16, (20974.681, 2804.9415, -17198.718)),
        ("resnet50", 32, (26419.138, 3670.9169, -21636.638)),
        # Of the network in github.com/jiwoon-ahn/psa at commit 9493e59.
        ("resnet38", 8, (324.17303, -284.38019, 205.7483)),
    ],
)
def test_scores_are_the_published_networks(name, stride, scores):
    network = filled(name, stride)
    with torch.no_grad():
        own = network(wave((1, 3, 75, 90))).mean((2, 3))[0]
    # Eight digits were kept; the C library's sines and the order of sums differ by machine.
    assert own.tolist() == pytest.approx(scores, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stride", [0, 4, 12, 64])
def test_other_strides_are_refused(name, stride):
    with pytest.raises(ValueError, match=f"stride of 8, 16 or 32, got {stride}"):
        models.build(name, 20, stride)


@pytest.mark.parametrize(("side", "left"), [(8, 0), (9, 1)])
def test_padding_is_tensorflows(side, left):
    """An even side is padded at its end only: cells 0, 2, 4 ... read pixels 0 to 2, 2 to 4 ..."""
    layer = models.SameConv2d(1, 1, 3, stride=2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[..., 0, 0] = 1  # what is read first
        row = layer(torch.arange(1.0, side + 1).expand(1, 1, side, side))[0, 0, -1]
    first = torch.arange(0, side, 2) - left  # pixels, counted from 0; the one before is padding
    assert row.tolist() == (first + 1).clamp(min=0).tolist()


# ------------------------------------------------------------------------------------ linear head


@pytest.mark.parametrize(("size", "dilation"), [((9, 8), 2), ((7, 11), 4), ((3, 3), 4)])
def test_depthwise_gradient_is_that_of_the_convolution(size, dilation):
    x = torch.randn(2, 5, *size, dtype=torch.float64).to(memory_format=torch.channels_last)
    inputs = [x, torch.randn(5, 1, 3, 3).double(), torch.randn(5).double()]
    for tensor in inputs:
        tensor.requires_grad_()
    ours = models.Depthwise.apply(*inputs, dilation)
    theirs = torch.nn.functional.conv2d(*inputs, 1, dilation, dilation, 5)
    weights = torch.randn_like(theirs)
    assert torch.equal(ours, theirs)
    gradients = (torch.autograd.grad(y, inputs, weights) for y in (ours, theirs))
    for own, expected in zip(*gradients, strict=True):
        # The same products, added in another order.
        torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_the_head_at_every_pixel(name):
    network = narrow(name, classes=4)
    if network.head.bias is not None:
        torch.nn.init.normal_(network.head.bias)
    x = photos(40, 65, batch=2)
    with torch.no_grad():
        top = network.top_layers(x)[1]
        weight = network.head.weight[:, :, 0, 0]
        bias = 0 if network.head.bias is None else network.head.bias
        wanted = torch.einsum("kd,bdhw->bkhw", weight, top)
        wanted += torch.as_tensor(bias).reshape(-1, 1, 1)
        maps = network(x)
        torch.testing.assert_close(maps, wanted)
        # The mean of the maps is the classifier whose head is fully connected.
        pooled = torch.nn.functional.linear(top.mean((2, 3)), weight, network.head.bias)
        torch.testing.assert_close(maps.mean((2, 3)), pooled)


@pytest.mark.parametrize(
    ("name", "reader_of_below_top"),
    [
        ("mobilenet_v2", "features.17.conv.2"),
        ("resnet50", "layer4.2"),
        ("resnet38", "b7.conv_branch2a"),
    ],
)
def test_top_layers_are_what_the_last_block_and_the_head_read(name, reader_of_below_top):
    network = narrow(name)
    read = []
    for reader in (network.get_submodule(reader_of_below_top), network.head):
        reader.register_forward_pre_hook(lambda _module, inputs: read.extend(inputs))
    x = photos(65, 65)
    with torch.no_grad():
        network(x)
        for own, wanted in zip(network.top_layers(x), read[:2], strict=True):
            assert torch.equal(own, wanted)
            assert own.min() == 0 < own.max()  # after a non-linearity


def test_normalize():
    network = without_memory("resnet50", 2)
    photo = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    wanted = (photo / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    own = network.normalize(torch.from_numpy(photo))
    assert own.dtype == torch.float32
    np.testing.assert_allclose(own, wanted.transpose(0, 3, 1, 2), atol=1e-6)


@pytest.mark.parametrize("stride", STRIDES)
def test_cells_look_at_the_middle_of_what_they_stand_for(stride):
    """A photo that brightens from left to right: a cell's first layer tells where it looks."""
    network = without_memory("mobilenet_v2", 2, stride)
    cells = 3
    columns = torch.arange(cells * stride, dtype=torch.uint8)
    seen = network.see(columns[None, None, :, None].expand(1, stride, -1, 3))
    assert seen.shape == (1, 3, 1, (cells - 1) * stride + 1)
    looked_at = (seen[0, 0, 0, ::stride] * 0.5 + 0.5) * 255
    middle = (torch.arange(cells) + 0.5) * stride - 0.5
    # Half a pixel: an even number of pixels has none in its middle.
    assert (looked_at - middle - 0.5).abs().max() < 1e-3
    with pytest.raises(ValueError, match=f"multiples of {stride}, got {stride + 1}×{stride}"):
        network.see(torch.zeros(1, stride + 1, stride, 3, dtype=torch.uint8))


# --------------------------------------------------------------------------------------- training


def test_random_weights_are_drawn_as_he_et_al_do():
    network = models.ResNet50(20)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 4 and parameter.numel() > 10_000:
            variance = 2 / parameter[0].numel()
            assert parameter.var().item() == pytest.approx(variance, rel=0.05), name
    assert not network.head.bias.any()


def test_frozen_batch_norm_stays_as_it_is():
    network = narrow("resnet50")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = photos(33, 33, batch=2)
    network.freeze_batch_norm()
    evaluated = network(x)
    network.train()
    assert network.training
    torch.testing.assert_close(network(x), evaluated)
    network(x).sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == (parameter.ndim == 1 and "fc" not in name)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_batch_norm_that_is_not_frozen_trains():
    network = narrow("resnet50").train()
    before = network.bn1.running_mean.clone()
    network(photos(33, 33, batch=2)).sum().backward()
    assert not torch.equal(network.bn1.running_mean, before)
    assert network.bn1.weight.grad.any()


def test_resnet38_drops_channels_in_training():
    network = narrow("resnet38").train()
    network.freeze_batch_norm()
    dropped = []
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Dropout2d) and module.p:
            module.register_forward_hook(
                lambda module, _inputs, _output, name=name: dropped.append((name, module.p))
            )
    x = photos(33, 33)
    with torch.no_grad():
        assert not torch.equal(network(x), network(x))
        once = [("b6.dropout", 0.3)] * 2 + [("b7.dropout", 0.5)] * 2 + [("dropout7", 0.5)]
        assert dropped == once * 2
        network.eval()
        assert torch.equal(network(x), network(x))


# ---------------------------------------------------------------------------------- weights files


@pytest.fixture
def narrow_networks(monkeypatch):
    for name in NAMES:
        monkeypatch.setitem(models.NETWORKS, name, NARROW[name])


def written(path, state):
    """Write a state dict, in the way that the name asks for."""
    if path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        torch.save(state, path)
    return path


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file", ["weights.npz", "weights.pth", "weights.pt"])
def test_a_file_loads_fully(tmp_path, name, file):
    state = narrow(name, classes=5).float().state_dict()
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            tensor.fill_(7)
    network = models.build(name, 5, 8, written(tmp_path / file, state))
    assert network.stride == 8
    for key, tensor in network.state_dict().items():
        assert tensor.dtype == state[key].dtype
        assert torch.equal(tensor, state[key])


@pytest.mark.usefixtures("narrow_networks")
def test_half_precision_loads_into_single(tmp_path):
    state = {k: v.half() for k, v in narrow("mobilenet_v2").state_dict().items()}
    network = models.build("mobilenet_v2", 3, 8, written(tmp_path / "weights.npz", state))
    for key, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[key].float())


@pytest.mark.usefixtures("narrow_networks")
def test_a_fully_connected_head_loads(tmp_path):
    state = narrow("resnet50", classes=5).float().state_dict()
    state["fc.weight"] = state["fc.weight"][:, :, 0, 0]
    network = models.build("resnet50", 5, 32, written(tmp_path / "weights.pth", state))
    assert torch.equal(network.head.weight[:, :, 0, 0], state["fc.weight"])


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("name", NAMES)
def test_a_head_of_other_classes_is_skipped(tmp_path, name):
    state = narrow(name, classes=5).float().state_dict()
    network = models.build(name, 4, 32, written(tmp_path / "weights.pth", state))
    assert network.head.out_channels == 4
    for key, tensor in network.state_dict().items():
        if not key.startswith(network.head_name):
            assert torch.equal(tensor, state[key])


@pytest.mark.usefixtures("narrow_networks")
def test_old_files_do_not_count_batches_and_may_lack_the_head(tmp_path):
    state = narrow("resnet38").float().state_dict()
    old = {k: v for k, v in state.items() if "num_batches" not in k and "fc8" not in k}
    network = models.build("resnet38", 3, 32, written(tmp_path / "weights.pth", old))
    for key, tensor in old.items():
        assert torch.equal(network.state_dict()[key], tensor)


def deeper(state):
    return state | {"layer3.6.conv1.weight": state["layer3.5.conv1.weight"]}


def wider(state):
    return state | {"layer3.5.conv2.weight": torch.zeros(9, 9, 3, 3)}


def shallower(state):
    return {name: tensor for name, tensor in state.items() if "layer4.2" not in name}


def nested(state):
    return {"state_dict": state, "epoch": torch.tensor(3)}


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (deeper, r"Narrow\w+: unexpected \['layer3\.6\.conv1\.weight'\]$"),
        (wider, r"Narrow\w+: of another shape \['layer3\.5\.conv2\.weight'\]$"),
        (shallower, r"Narrow\w+: missing \['layer4\.2\.conv1\.weight', '[^']+', '[^']+'\]$"),
        (nested, r"missing \['conv1\.weight', .+\], unexpected \['state_dict', 'epoch'\]$"),
    ],
)
def test_another_networks_file_is_refused(tmp_path, change, message):
    state = change(narrow("resnet50").float().state_dict())
    path = written(tmp_path / "weights.pth", state)
    with pytest.raises(ValueError, match=r"weights\.pth: weights do not fit .*" + message):
        models.build("resnet50", 3, 32, path)


def test_nothing_is_loaded_from_a_state_that_does_not_fit():
    network = narrow("resnet50")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match="do not fit"):
        network.load_published(deeper(narrow("resnet50").state_dict()))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("name", NAMES[1:])
def test_mobilenet_weights_fit_no_other_network(tmp_path, name):
    path = written(tmp_path / "weights.npz", models.MobileNetV2(3).state_dict())
    with pytest.raises(ValueError, match=r"weights\.npz: weights do not fit .*missing .*unexpect"):
        models.build(name, 3, 32, path)


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a file's code was run",)


def test_files_run_no_code(tmp_path):
    archive, state = tmp_path / "weights.npz", tmp_path / "weights.pth"
    np.savez(archive, np.array([Code()], object))
    with pytest.raises(ValueError, match=r"weights\.npz: Object arrays"):
        models.build("mobilenet_v2", 3, 32, archive)
    archive.write_bytes(pickle.dumps(Code()))
    with pytest.raises(ValueError, match=r"weights\.npz: .*pickle"):
        models.build("mobilenet_v2", 3, 32, archive)
    torch.save({"features.0.weight": Code()}, state)
    with pytest.raises(pickle.UnpicklingError):
        models.build("mobilenet_v2", 3, 32, state)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"weights\.h5: expected a \.npz"):
        models.build("mobilenet_v2", 3, 32, tmp_path / "weights.h5")
    path = tmp_path / "weights.pt"
    torch.save([torch.zeros(3)], path)
    with pytest.raises(ValueError, match=r"weights\.pt: expected a state dict, got list"):
        models.build("mobilenet_v2", 3, 32, path)


def test_unknown_networks_are_refused():
    with pytest.raises(KeyError):
        models.build("resnet51", 20, 32)


@needs_weights
def test_mobilenet_v2_sees_a_cat():
    data = needs("skimage.data")
    labels = (WEIGHTS.parent / "imagenet_labels.txt").read_text().splitlines()
    network = models.build("mobilenet_v2", 1001, 32, WEIGHTS).eval()
    photo = np.array(Image.fromarray(data.chelsea()).resize((224, 224), Image.Resampling.BILINEAR))
    with torch.no_grad():
        scores = network(network.normalize(torch.from_numpy(photo)[None])).mean((2, 3))
        probabilities = scores.softmax(1)[0]
    assert "Egyptian cat" in labels[probabilities.argmax()]
    assert probabilities.max().item() == pytest.approx(0.8, abs=0.03)
