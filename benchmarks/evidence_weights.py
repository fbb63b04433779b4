"""Fits the networks of the recipe `evidence`, those in ``cuekit/recipes/evidence.npz``.

``python -m benchmarks.evidence_weights VOC MAPS.npz [MAPS.npz ...] --out evidence.npz``

VOC is a folder in VOC's layout (``voc-animals``), the others are archives of maps, one for each
classifier (``cams/color.npz cams/gray.npz``). The fit sees the photos and masks of the lists
``train`` and ``train_aug`` and of lines 1, 3, 5, ... of ``val``. ``--check`` prints mIoU on lines
2, 4, 6, ... of ``val``, with the networks of the package and with the new ones.

A network is the mean of three that differ in their seeds. The loss is the cross entropy of
superpixels, drawn as often as they have known pixels, each photo having the same share. One row in
ten has no features.

These were chosen by mIoU before the CRF, in two-fold cross-validation of ``train`` and
``train_aug``, and on the odd lines of ``val``, among some twenty variants: the terms (of 16; or 40
inputs of other kinds), the number of units, dropout, the number of steps, `SHIFT` (of 0, 0.2, 0.4
and 0.6) and the default of `correction` (of 1, 1.5, 2 and 3). The even lines chose nothing; they
were looked at twice, first with networks of another script: "position" had 0.648, and now 0.650.

With the same seeds, other versions of torch may give other last digits.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.refiners import ANIMALS
from cuekit.colour_evidence import colour_evidence
from cuekit.io import MapArchive, Maps, read_labels, read_photo
from cuekit.metrics import bootstrap, confusion_matrix, mean_iou
from cuekit.recipes import _evidence_network, evidence
from cuekit.recipes._evidence_network import network_inputs, network_terms
from cuekit.recipes._steps import choose_maps
from cuekit.recipes.evidence import USUAL_FEATURES, evidence_graph, evidence_terms
from cuekit.rgb_to_lab import rgb_to_lab

OF_SUPERPIXELS = ("connectivity", "contrast", "x", "y", "gradient", "border")
TERMS = ["walk", "rivals", "colour", "features", *OF_SUPERPIXELS]
USED = {"position": TERMS, "no-position": [term for term in TERMS if term not in ("x", "y")]}
PARTS = ("terms", "hidden", "output")  # of the file, for each of these names
FORMS = 5  # of each term, see `network_inputs`; the last is the standard deviation
CLASSES = 20
UNITS, SEEDS, DROPOUT, SHIFT = 32, (0, 1, 2), 0.3, 0.2  # SHIFT is added to all scores
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 700, 3000, 5e-3, 0.1  # a batch is of superpixels
WITHOUT_FEATURES = 0.1  # share of rows


class Rows(NamedTuple):
    """The S superpixels of photos, and R rows: each is a superpixel and a class of its photo.

    `inputs` (R, I) are those of a network with all terms; `numbers` (S, CLASSES) are those of the
    rows, or -1; `shares` (S, 1 + CLASSES) are pixels, as shares of the known ones of the photo.
    """

    inputs: NDArray[np.float32]
    numbers: NDArray[np.int64]
    shares: NDArray[np.float64]


class Data(NamedTuple):
    """Where photos, masks and maps are."""

    voc: Path
    archives: tuple[Path, ...]

    def read(self, name: str) -> tuple[NDArray[np.uint8], list[Maps], NDArray[Any]]:
        """Return a photo, its maps and its mask."""
        photo = read_photo(self.voc / "JPEGImages" / f"{name}.jpg")
        truth = read_labels(self.voc / "SegmentationClass" / f"{name}.png")
        return photo, [_archive(path).read(name) for path in self.archives], truth


_archive = cache(MapArchive)


def measure(data: Data, name: str) -> Rows:
    """Return the inputs that `evidence` would give a network for a photo, and what is true."""
    photo, maps, truth = data.read(name)
    sets, ids = choose_maps(photo, maps, None)
    graph, lab = evidence_graph(photo), rgb_to_lab(photo)
    terms, soft = evidence_terms(sets, photo, graph)
    terms["colour"] = graph.mean(colour_evidence(soft, lab, space="lab"))
    terms |= network_terms(lab, graph)
    inputs = network_inputs(TERMS, terms, graph.mean(soft)[1:], graph)
    numbers = np.full((len(graph.sizes), CLASSES), -1)
    numbers[:, np.array(ids) - 1] = np.arange(inputs[0].size).reshape(inputs[0].shape).T
    shares = np.zeros((len(graph.sizes), 1 + CLASSES))
    known = np.stack([truth == c for c in (0, *ids)]).astype(np.float64)
    shares[:, [0, *ids]] = (graph.mean(known) * graph.sizes / max(known.sum(), 1)).T
    return Rows(inputs.reshape(len(inputs), -1).T, numbers, shares)


def joined(photos: list[Rows]) -> Rows:
    """Put the superpixels of all photos into one table."""
    starts = np.cumsum([0, *(len(each.inputs) for each in photos)])
    numbers = [
        np.where(each.numbers < 0, -1, each.numbers + start)
        for each, start in zip(photos, starts[:-1], strict=True)
    ]
    inputs, _, shares = zip(*photos, strict=True)
    return Rows(np.concatenate(inputs), np.concatenate(numbers), np.concatenate(shares))


def fit(rows: Rows, names: list[str]) -> tuple[list[str], Any, Any]:
    """Return the mean of networks with the terms of these names, as `evidence` reads it."""
    used = [form * len(TERMS) + TERMS.index(name) for form in range(FORMS) for name in names]
    table = rows.inputs[:, [*used, FORMS * len(TERMS)]]  # without the 1
    mean, spread = (each.astype(np.float64) for each in (table.mean(0), table.std(0) + 1e-6))
    absent = np.full(len(mean), np.nan)  # what inputs are without features, where it matters
    absent[names.index("features") :: len(names)] = [USUAL_FEATURES] * (FORMS - 1) + [0]
    data, usual = (torch.from_numpy((each - mean) / spread).float() for each in (table, absent))
    hidden, output, constant = [], [], SHIFT
    for seed in SEEDS:
        net = fit_one(data, usual, rows, seed)
        slopes, biases, weights, last = (p.detach().double().numpy() for p in net.parameters())
        slopes = slopes / spread
        hidden.append(np.concatenate([slopes.T, (biases - slopes @ mean)[None]]))
        output.append(weights[0] / len(SEEDS))
        constant += last[0] / len(SEEDS)
    joint = np.concatenate(hidden, axis=1, dtype=np.float32, casting="same_kind")
    return names, joint, np.array([*np.concatenate(output), constant], np.float32)


def fit_one(inputs: torch.Tensor, absent: torch.Tensor, rows: Rows, seed: int) -> torch.nn.Module:
    """Fit a network of one hidden layer."""
    torch.manual_seed(seed)
    numbers, shares = torch.from_numpy(rows.numbers), torch.from_numpy(rows.shares).float()
    ends = torch.from_numpy(rows.shares.sum(1).cumsum())
    layers = torch.nn.Linear(len(absent), UNITS), torch.nn.Tanh(), torch.nn.Dropout(DROPOUT)
    net = torch.nn.Sequential(*layers, torch.nn.Linear(UNITS, 1))
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    for _ in range(STEPS):
        drawn = torch.searchsorted(ends, torch.rand(BATCH, dtype=torch.float64) * ends[-1])
        batch = numbers[drawn]
        there = batch >= 0
        seen = inputs[batch[there]]
        without = (torch.rand(len(seen), 1) < WITHOUT_FEATURES) & ~absent.isnan()
        scores = torch.full(there.shape, -1e9)  # of classes that are not in the photo
        scores = scores.masked_scatter(there, net(torch.where(without, absent, seen)))
        scores = torch.nn.functional.pad(scores, (1, 0))  # the background's are 0
        loss = torch.nn.functional.cross_entropy(
            scores, shares[drawn] / shares[drawn].sum(1, keepdim=True)
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return net


def compare(data: Data, fitted: dict[str, Any], name: str) -> dict[str, NDArray[np.int64]]:
    """Return the confusion matrix of a photo's labels for each way to make them."""
    photo, sets, truth = data.read(name)
    bare = [dataclasses.replace(each, features=None) for each in sets]
    ways: dict[str, tuple[list[Maps], dict[str, Any]]] = {
        "position": (sets, {}),
        "no correction": (sets, {"correction": 0}),
        "no-position": (sets, {"weights": "no-position"}),
        "one round": (sets, {"rounds": 1}),
        "no features": (bare, {}),
    }
    for path, each in zip(data.archives, sets, strict=True):
        ways[f"{path.stem} alone"] = ([each], {})
    found = {}
    for networks in ("package", "fitted"):
        reader = fitted.__getitem__ if networks == "fitted" else _evidence_network._read_network
        with mock.patch.object(_evidence_network, "_read_network", reader):
            for way, (maps, options) in ways.items():
                labels = evidence(photo, maps, **options)
                found[f"{networks:8} {way}"] = confusion_matrix(truth, labels)
    return found


def main() -> None:
    """Fit, write and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("voc", type=Path, help="folder in VOC's layout")
    parser.add_argument("archives", type=Path, nargs="+", help="maps, one file per classifier")
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--check", action="store_true", help="compare on photos left out")
    args = parser.parse_args()
    torch.set_num_threads(1)  # for the same sums
    data = Data(args.voc, tuple(args.archives))
    folder = args.voc / "ImageSets" / "Segmentation"
    train, more, val = (
        (folder / f"{name}.txt").read_text().split() for name in ("train", "train_aug", "val")
    )
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rows = joined(list(pool.map(partial(measure, data), [*train, *more, *val[::2]])))
        fitted = {name: fit(rows, terms) for name, terms in USED.items()}
        parts = {name: zip(PARTS, network, strict=True) for name, network in fitted.items()}
        entries = {f"{name}/{part}": each for name in parts for part, each in parts[name]}
        np.savez_compressed(args.out, **entries)
        matrices = list(pool.map(partial(compare, data, fitted), val[1::2] if args.check else []))
    for way in matrices[0] if matrices else ():
        counts = np.stack([each[way] for each in matrices])
        miou = bootstrap(counts, statistic=lambda sums: mean_iou(sums, ANIMALS))
        sys.stdout.write(f"{way:24} {miou.value:.3f} [{miou.low:.3f}, {miou.high:.3f}]\n")


if __name__ == "__main__":
    main()
