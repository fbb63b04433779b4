"""What the systems share: the parts of a run that they read, and the training of their networks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from cue_stage import Maps, read_maps, size_in_cells
from data import Photos, VocFolder
from loop import fit, load, trained
from PIL import Image

import cuekit

if TYPE_CHECKING:
    from loop import Losses, Schedule
    from models import Network


@dataclass(frozen=True)
class Work:
    """The run that a system is part of.

    Attributes
    ----------
    folder : VocFolder
        Photos and tags.
    run, out : Path
        Folder of the run, with the classifiers and their maps; folder of the system's own networks.
    train : tuple of str
        The splits to train on.
    names : list of str
        The photos to train on.
    schedule : Schedule
        Of every network that the system trains.
    device : torch.device
        Device of the networks.
    network : str
        Architecture of the networks.
    weights : Path or None
        Published weights that networks start from.
    """

    folder: VocFolder
    run: Path
    out: Path
    train: tuple[str, ...]
    names: list[str]
    schedule: Schedule
    device: torch.device
    network: str
    weights: Path | None

    def classifier(self, stride: int) -> Network:
        """Load the colour classifier, without gradients of its weights."""
        path = self.run / "classifier-color" / "checkpoint.pt"
        network, _ = trained(self.folder, path, self.train, stride)
        network.move_to(self.device)
        network.eval()
        network.requires_grad_(False)
        return network

    def photo(self, name: str) -> np.ndarray:
        """Read a photo (H, W, 3) uint8."""
        return np.asarray(self.folder.photo(name))

    def maps(self, name: str) -> Maps:
        """Return the colour classifier's maps of a photo."""
        return read_maps(self.run / "maps" / "color" / f"{name}.npz")

    def maps_of_tags(self, name: str) -> cuekit.io.Maps:
        """Return the maps of a photo's tags in the form that `cuekit.recipes` take."""
        maps, present = self.maps(name), self.folder.tags[name]
        ids = 1 + np.flatnonzero(present)
        return cuekit.io.Maps(maps.cams[present], ids, None, "voc", features=maps.features)

    def pixels(self, photo: np.ndarray, longer_side: int, stride: int) -> torch.Tensor:
        """Return a photo (1, h, w, 3) uint8, resized to whole cells, on the networks' device."""
        image = Image.fromarray(photo)
        height, width = size_in_cells(image, longer_side, stride)
        resized = image.resize((width * stride, height * stride), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(resized))[None].to(self.device)

    def lasting(self, epochs: float) -> Work:
        """Return this with another length of trainings, in passes over the photos."""
        iterations = max(round(epochs * len(self.names) / self.schedule.batch), 1)
        return dataclasses.replace(
            self, schedule=dataclasses.replace(self.schedule, iterations=iterations)
        )

    def fit(self, name: str, network: Any, photos: Photos, losses: Losses, **settings: Any) -> Any:
        """Train a network, or go on with its training; return it for evaluation."""
        schedule = dataclasses.asdict(self.schedule)
        del schedule["workers"]
        of_run = {
            "network": self.network,
            "weights": self.weights and self.weights.name,
            "train": list(self.train),
            "classes": list(self.folder.names),
        }
        fit(
            network,
            photos,
            losses,
            self.out / name,
            settings={**of_run, **schedule, **settings},
            schedule=self.schedule,
            device=self.device,
        )
        network.load_state_dict(load(self.out / name / "checkpoint.pt")["network"])
        network.eval()
        network.requires_grad_(False)
        return network


@dataclass(frozen=True)
class System:
    """Base class of the systems; the fields of each are its settings."""

    def settings(self) -> dict[str, Any]:
        """Return everything that the labels depend on, besides the classifier and the schedule."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def only(self, *names: str) -> dict[str, Any]:
        """Return some settings: those that a network depends on."""
        return {name: self.settings()[name] for name in names}

    def train(self, work: Work) -> Any:
        """Train the system's own networks; return what `labels` needs of them."""
        raise NotImplementedError

    def labels(self, work: Work, trained: Any, name: str) -> np.ndarray:
        """Return a photo's labels (H, W), given its tags; 255 = unknown."""
        raise NotImplementedError


def divided_by_maximum(maps: np.ndarray) -> np.ndarray:
    """Divide maps (C, h, w) by their maxima; a map without positive values becomes 0."""
    largest = maps.max((1, 2), keepdims=True, initial=0)
    return np.divide(maps, largest, out=np.zeros_like(maps), where=largest > 0).clip(0, 1)


def labels_of_tags(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return labels (H, W) of scores (1 + P, H, W) of the background and the present classes."""
    ids = [0, *(1 + np.flatnonzero(present))]
    return cuekit.probabilities_to_labels(scores, classes=ids)
