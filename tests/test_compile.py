"""torch.compile without graph breaks, autocast, and training on several processes.

The graphs run by torch's own kernels (`aot_eager`): what is tested is how they are made, not the
code that a compiler makes of them. One test compiles that, too.
"""

import subprocess
import sys

import numpy as np
import pytest
from common import needs

import cuekit

torch = needs("torch")

from cuekit import losses, nn  # noqa: E402 - they need torch

# torch's own, while it compiles.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

RNG = np.random.default_rng(0)
MAPS = torch.from_numpy(RNG.normal(size=(2, 4, 10, 12)).astype(np.float32))
PHOTOS = torch.from_numpy(RNG.integers(0, 256, (2, 10, 12, 3), np.uint8) // 4)
LABELS = torch.from_numpy(RNG.integers(0, 9, (2, 10, 12)))
TAGS = torch.from_numpy(RNG.random((2, 3)) < 0.5)
CUES = torch.from_numpy(RNG.random((2, 4, 10, 12)) < 0.2)
ROI = torch.ones(2, 10, 12)
PARTLY = torch.where(LABELS > 5, 255, LABELS)


def energy(p, **options):
    return losses.dense_energy_loss(p, PHOTOS, weight=1e-3, **options)


LAYER = nn.DenseEnergyLoss(weight=1e-3, sigma_rgb=15, sigma_xy=100, scale_factor=0.5)
IMAGES = PHOTOS.movedim(-1, 1).float()

# Each a function of logits.
CALLS = {
    "superpixel_mean": lambda x: cuekit.superpixel_mean(x, LABELS),
    "superpixel_mean, options": lambda x: cuekit.superpixel_mean(
        x, LABELS, num_superpixels=9, validate=True, threads=None
    ),
    "superpixel_mean, NumPy": lambda x: cuekit.superpixel_mean(x, LABELS.numpy()),
    "suppress_absent": lambda x: cuekit.suppress_absent(x, TAGS, margin=0.1),
    "suppress_absent, None": lambda x: cuekit.suppress_absent(x, None),
    "bilateral_filter": lambda x: cuekit.bilateral_filter(x, PHOTOS, sxy=3, srgb=20, threads=None),
    "bilateral_filter, normalized": lambda x: cuekit.bilateral_filter(
        x, PHOTOS, sxy=3, srgb=20, normalize=True, threads=2
    ),
    "seed_loss": lambda x: losses.seed_loss(x.softmax(1), CUES),
    "seed_loss, balanced": lambda x: losses.seed_loss(x.softmax(1), CUES, balanced=True),
    "expansion_loss": lambda x: losses.expansion_loss(x.softmax(1), TAGS),
    "expansion_loss, all": lambda x: losses.expansion_loss(x.softmax(1), None),
    "constrain_to_boundary_loss": lambda x: losses.constrain_to_boundary_loss(
        x.softmax(1), PHOTOS, present=TAGS, iterations=2
    ),
    "constrain_to_boundary_loss, list": lambda x: losses.constrain_to_boundary_loss(
        x.softmax(1), [PHOTOS[0, :7], PHOTOS[1]], "irn", iterations=2
    ),
    "dense_energy_loss": lambda x: energy(x.softmax(1)),
    "dense_energy_loss, gate": lambda x: energy(x.softmax(1), labels=PARTLY, roi=ROI, scale=1),
    "DenseEnergyLoss": lambda x: LAYER(IMAGES, x.softmax(1), ROI, PARTLY[:, None]),
}


def gradients(call, logits):
    leaf = logits.clone().requires_grad_()
    result = call(leaf)
    weights = 1 + torch.arange(result.numel(), dtype=result.dtype).view_as(result)
    (gradient,) = torch.autograd.grad(result, leaf, weights)
    return result.detach(), gradient


def compiled(call, backend="aot_eager"):
    torch._dynamo.reset()
    return torch.compile(call, fullgraph=True, backend=backend)


@pytest.mark.parametrize("name", CALLS)
def test_one_graph_with_the_same_result_and_gradient(name):
    call = CALLS[name]
    # Torch's own operations may round differently in a graph.
    for got, expected in zip(gradients(compiled(call), MAPS), gradients(call, MAPS), strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: cuekit.dense_crf(x, PHOTOS, iterations=2),
        lambda x: cuekit.dense_crf(
            x, PHOTOS, cuekit.CRFParams(1, 2, 3, 4, 5), present=TAGS, iterations=2, threads=2
        ),
    ],
)
def test_the_crf_has_no_gradient(call):
    p = MAPS.softmax(1)
    assert torch.equal(compiled(call)(p), call(p))
    with pytest.raises(Exception, match="requires grad, and this function has no gradient"):
        compiled(call)(p.requires_grad_())
    with torch.no_grad():
        assert torch.equal(compiled(call)(p), call(p))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: cuekit.dense_crf(x, PHOTOS, differentiable=True),
        lambda x: cuekit.dense_crf_features(x.flatten(2), [], differentiable=True),
    ],
)
def test_the_differentiable_crf_is_not_traced(call):
    p = MAPS.softmax(1).requires_grad_()
    with pytest.raises(Exception, match=r"differentiable must be False within torch\.compile"):
        compiled(call)(p)
    assert call(p).requires_grad


@pytest.mark.filterwarnings("ignore:Dynamo does not know:UserWarning")
def test_other_functions_still_break_the_graph():
    """They run in Python, as all do without torch.compile."""
    call = torch.compile(lambda x: cuekit.fuse_cues(x > 0) * 2, backend="aot_eager")
    torch._dynamo.reset()
    assert torch.equal(call(MAPS), (MAPS > 0) * 2)


def test_wrong_arguments_are_named_when_the_graph_runs():
    call = compiled(lambda x, labels: cuekit.superpixel_mean(x, labels))
    with pytest.raises(Exception, match=r"superpixels must be at least -1, got -7"):
        call(MAPS, torch.full((2, 10, 12), -7))
    with pytest.raises(Exception, match=r"superpixels must have shape"):
        compiled(lambda x: cuekit.superpixel_mean(x, LABELS[:1]))(MAPS)


def test_sizes_may_change():
    call = compiled(lambda x, labels: cuekit.superpixel_mean(x, labels).sum())
    for height in (4, 7, 10):
        maps, labels = MAPS[:, :, :height].clone(), LABELS[:, :height].clone()
        leaf = maps.requires_grad_()
        value = call(leaf, labels)
        torch.testing.assert_close(value, cuekit.superpixel_mean(maps.detach(), labels).sum())
        value.backward()
        assert leaf.grad.shape == maps.shape


def test_torch_s_own_checks_of_custom_ops():
    """Schemas, shapes and dtypes, and gradients in compiled graphs."""
    compiled(CALLS["superpixel_mean"])(MAPS)  # registers them
    ops = torch.ops.cuekit
    leaf = MAPS.double().requires_grad_()
    for op, arguments in (
        (ops.superpixel_mean, (leaf, LABELS, None, False, 1)),
        (ops.superpixel_mean, (LABELS[:, None], LABELS, None, False, 1)),
        (ops.bilateral_filter, (leaf, PHOTOS, 3.0, 9.0, True, False, False, 1)),
        (ops.bilateral_filter, (MAPS.half(), PHOTOS, 3.0, 9.0, False, True, False, None)),
        (ops.suppress_absent, (leaf, TAGS, 0.1, False, 1)),
        (
            ops.dense_crf,
            (
                MAPS.softmax(1),
                PHOTOS,
                [3.0, 3.0, 3.0, 10.0, 50.0, 50.0, 5.0],
                TAGS,
                2,
                None,
                1e-5,
                "probabilities",
                "float32",
                False,
                1,
            ),
        ),
    ):
        torch.library.opcheck(op, arguments)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a compiler that torch finds")
def test_with_a_compiler():
    """A network, two losses and an op between, as code of torch's compiler."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 4, 3, padding=1)

    def step():
        logits = cuekit.superpixel_mean(network(IMAGES / 255), LABELS)
        p = logits.softmax(1)
        return losses.seed_loss(p, CUES) + energy(p, labels=PARTLY)

    expected = step()
    expected.backward()
    slopes = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    value = compiled(step, "inductor")()
    value.backward()
    torch.testing.assert_close(value, expected)
    for parameter, slope in zip(network.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_autocast(name):
    """Half-precision logits of a network under autocast; gradients are finite."""
    call = CALLS[name]
    logits = MAPS.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        weights = torch.nn.functional.conv2d(logits, torch.eye(4)[:, :, None, None])
        assert weights.dtype == torch.bfloat16
        result = call(weights.float())
    result.sum().backward()
    assert logits.grad.isfinite().all()


def test_nothing_is_registered_by_an_import():
    program = """
import sys
import cuekit
assert "torch" not in sys.modules
import torch
from cuekit import losses
assert not hasattr(torch.ops.cuekit, "superpixel_mean")
"""
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603


# ------------------------------------------------------------------------------- two processes

WORLD = 2


def train(rank, rendezvous, compile_it):
    """One step on one image of two; gradients are averaged over the processes."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD
    )
    torch.manual_seed(0)
    network = torch.nn.parallel.DistributedDataParallel(torch.nn.Conv2d(3, 4, 3, padding=1))
    step = compiled(losses_of) if compile_it else losses_of
    step(network(IMAGES[rank : rank + 1] / 255), rank).backward()
    slopes = [parameter.grad for parameter in network.parameters()]
    torch.manual_seed(0)
    alone = torch.nn.Conv2d(3, 4, 3, padding=1)
    total = sum(losses_of(alone(IMAGES[i : i + 1] / 255), i) for i in range(WORLD)) / WORLD
    total.backward()
    for slope, parameter in zip(slopes, alone.parameters(), strict=True):
        torch.testing.assert_close(slope, parameter.grad, rtol=1e-4, atol=1e-7)
    torch.distributed.destroy_process_group()


def losses_of(logits, image):
    one = slice(image, image + 1)
    p = cuekit.superpixel_mean(logits, LABELS[one]).softmax(1)
    return (
        losses.seed_loss(p, CUES[one], balanced=True)
        + losses.constrain_to_boundary_loss(p, PHOTOS[one], iterations=2)
        + losses.dense_energy_loss(p, PHOTOS[one], weight=1e-3, labels=PARTLY[one])
    )


@pytest.mark.parametrize("compile_it", [False, True])
def test_distributed_data_parallel(tmp_path, compile_it):
    commands = [
        [sys.executable, __file__, str(rank), str(tmp_path / "meeting"), str(int(compile_it))]
        for rank in range(WORLD)
    ]
    processes = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 - this file
        for command in commands
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


if __name__ == "__main__":
    train(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "1")
