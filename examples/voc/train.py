"""From image tags to masks: the paper's method and its comparisons, stage by stage.

Every stage reads what the ones before it wrote under ``--out``. Run again, it goes on where it was
interrupted, and a finished one returns at once::

    python train.py classifier --color --root VOC --out runs/voc --weights mobilenet_v2.npz
    python train.py classifier --gray --root VOC --out runs/voc --weights mobilenet_v2.npz
    python train.py cues --root VOC --out runs/voc
    python train.py segmenter --cues merged --root VOC --out runs/voc
    python train.py evaluate --root VOC --out runs/voc

``python train.py all`` runs them one after the other.
``python train.py STAGE --help`` lists a stage's options. On several GPUs, or to share the work of
one stage among processes: ``torchrun --nproc-per-node N train.py …``.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from cue_stage import KINDS, write_cues, write_maps
from data import Photos, VocFolder
from evaluation import Plan, evaluate
from loop import (
    InterruptedTrainingError,
    Schedule,
    fit,
    keep_settings,
    load,
    processes,
    read_json,
    read_settings,
    refuse_other_settings,
    threads,
    wait_for_all,
)
from models import NETWORKS, Network, build
from torch.nn.functional import binary_cross_entropy_with_logits

from cuekit import build_config, losses
from cuekit.crf import PRESETS

if TYPE_CHECKING:
    from collections.abc import Sequence

SEC_PIXELS = 321  # the photos' side in SEC: its CRF's widths are for these pixels
HELD_OUT = "held-out"  # instead of a split: the photos that settings are chosen on
CUES = {"raw": "raw-color", "snapped": "snapped-color", "merged": "merged", "sec": "sec"}
SEGMENTERS: dict[str, dict[str, Any]] = {
    **{name: {"cues": name} for name in ("raw", "snapped", "merged")},
    "merged-expansion": {"cues": "merged", "expansion": True},
    "sec": {"recipe": "sec"},
}


def option(default: Any, text: str, **how: Any) -> Any:
    """Make a field of a stage's options: a default, a text for --help, and how to read it."""
    return field(default=default, metadata={"help": text, **how})


@dataclass(frozen=True)
class Stage:
    """Options of every stage."""

    root: Path = option(Path(), "folder in PASCAL VOC's layout", required=True)
    out: Path = option(Path(), "folder for everything that is written", required=True)
    train: tuple[str, ...] = option(
        ("train", "train_aug"), "splits to train on, but for a tenth to choose settings on"
    )
    seed: int = option(0, "seed of everything random")
    device: str = option("cuda" if torch.cuda.is_available() else "cpu", "where networks run")
    workers: int = option(1, "processes that read photos")

    def settings(self) -> dict[str, Any]:
        """Return the options that results depend on."""
        places = ("root", "out", "device", "workers")
        values = dataclasses.asdict(self)
        return {k: _plain(v) for k, v in values.items() if k not in places}

    def run(self) -> None:
        """Do what the stage is for."""
        raise NotImplementedError


def _plain(value: Any) -> Any:
    """Return an option as JSON and checkpoints keep it: weights by their name, lists for tuples."""
    if isinstance(value, Path):
        return value.name
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class WithNetwork(Stage):
    """Options of stages that begin with a network."""

    network: str = option("mobilenet_v2", "which", choices=tuple(NETWORKS))
    weights: Path | None = option(None, "published weights to start from (.npz or .pth)", type=Path)


@dataclass(frozen=True)
class WithTables(Stage):
    """Options of stages that end in tables."""

    split: str = option("val", f"a split, or {HELD_OUT}: the tenth of the training photos")
    classes: tuple[str, ...] = option((), "classes to average over with the background; none: all")
    panels: int = option(0, "number of photos to draw")


@dataclass(frozen=True)
class Training(Stage):
    """Options of both trainings."""

    epochs: float = option(5.0, "times that every photo is seen")
    batch: int = option(8, "photos per iteration, over all processes")
    learning_rate: float = option(1e-4, "of AdamW; ten times as much for the head")
    clip: float = option(1.0, "what the gradient's norm is clipped to")
    bfloat16: bool = option(
        False, "compute the network in bfloat16: faster where the processor or GPU knows it"
    )

    def schedule(self, photos: int) -> Schedule:
        """Return how to train on this many photos."""
        iterations = max(round(self.epochs * photos / self.batch), 1)
        return Schedule(
            iterations,
            self.batch,
            self.learning_rate,
            self.clip,
            self.seed,
            self.workers,
            self.bfloat16,
        )


@dataclass(frozen=True)
class Classifier(Training, WithNetwork):
    """Train a network that tells tags, from colour or from gray photos."""

    color: bool = option(False, "train on photos as they are")
    gray: bool = option(False, "train on their luminance")
    size: int = option(352, "side of the square that photos are resized to")
    stride: int = option(32, "pixels per cell in training", choices=(8, 16, 32))

    def run(self) -> None:
        """Train it on the mean of its maps."""
        if self.color == self.gray:
            raise ValueError("classifier needs one of --color and --gray")
        kind = "gray" if self.gray else "color"
        folder = VocFolder.open(self.root)
        names, _ = folder.training_ids(self.train)
        torch.manual_seed(self.seed)  # of the head
        network = build(self.network, len(folder.names), self.stride, self.weights)
        if self.weights is not None:
            network.freeze_batch_norm()
        with processes(self.device) as device:
            fit(
                network,
                Photos(folder, names, self.size, gray=self.gray),
                tag_losses,
                self.out / f"classifier-{kind}",
                settings={**self.settings(), "classes": list(folder.names)},
                schedule=self.schedule(len(names)),
                device=device,
            )


def tag_losses(maps: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Compute the multi-label loss of scores, the maps' means."""
    return {"tags": binary_cross_entropy_with_logits(maps.mean((2, 3)), batch["tags"].float())}


def trained(
    folder: VocFolder, path: Path, train: Sequence[str], stride: int | None = None
) -> tuple[Network, dict[str, Any]]:
    """Load a network, and the settings it was trained with; its stride may be another one now.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or it is not finished, or it was trained for other classes, or on other
        splits than `train`: what they hold out would not be the same.
    """
    checkpoint = load(path)
    settings = checkpoint["settings"]
    if not checkpoint["finished"]:
        raise ValueError(f"{path} is of an interrupted training: run its stage again")
    refuse_other_settings(
        path,
        {key: settings[key] for key in ("classes", "train")},
        {"classes": list(folder.names), "train": list(train)},
    )
    # A segmentation network has the background, too.
    outputs = len(checkpoint["network"][f"{NETWORKS[settings['network']].head_name}.weight"])
    network = build(settings["network"], outputs, stride or settings["stride"])
    network.load_state_dict(checkpoint["network"])
    return network, settings


@dataclass(frozen=True)
class Cues(Stage):
    """Compute maps and cues of all photos, those of --test too."""

    test: tuple[str, ...] = option(("val",), "splits that are not trained on")
    longer_side: int = option(416, "of the photos that maps are taken of")
    stride: int = option(16, "pixels per cell of the maps", choices=(8, 16, 32))
    foreground_threshold: float = option(0.3, "of a class's largest value")
    background_threshold: float = option(0.2, "of the background map")
    snap_threshold: float = option(0.5, "of a class's largest mean of a superpixel")
    sec_threshold: float = option(0.2, "foreground threshold of the cues for --recipe sec")
    scale: float = option(200.0, "of the superpixels")
    min_size: int = option(60, "of the superpixels")

    def settings(self) -> dict[str, Any]:
        """Return what a photo's maps and cues depend on: not on which other photos there are."""
        return {k: v for k, v in super().settings().items() if k not in ("train", "test", "seed")}

    def run(self) -> None:
        """Compute what is missing."""
        folder = VocFolder.open(self.root)
        if both := set(folder.ids(*self.train)) & set(folder.ids(*self.test)):
            raise ValueError(f"--test has {len(both)} photos of --train, one is {min(both)}")
        names = folder.ids(*self.train, *self.test)
        trainings = {}
        with processes(self.device) as device:
            for kind in KINDS:
                checkpoint = self.out / f"classifier-{kind}" / "checkpoint.pt"
                network, trainings[kind] = trained(folder, checkpoint, self.train, self.stride)
                keep_settings(
                    self.out / "maps" / kind,
                    longer_side=self.longer_side,
                    stride=self.stride,
                    classifier=trainings[kind],
                )
                write_maps(
                    network,
                    folder,
                    names,
                    self.out / "maps" / kind,
                    gray=kind == "gray",
                    longer_side=self.longer_side,
                    size=trainings[kind]["size"],
                    device=device,
                )
            wait_for_all()
            keep_settings(self.out / "cues", classifiers=trainings, **self.settings())
            write_cues(
                folder,
                names,
                self.out / "maps",
                self.out / "cues",
                foreground_threshold=self.foreground_threshold,
                background_threshold=self.background_threshold,
                snap_threshold=self.snap_threshold,
                sec_threshold=self.sec_threshold,
                scale=self.scale,
                min_size=self.min_size,
            )
            wait_for_all()


@dataclass(frozen=True)
class Segmenter(Training):
    """Train a segmentation network on cues, from the colour classifier on."""

    cues: str = option("merged", "which set of cues", choices=tuple(CUES))
    recipe: str = option(
        "paper",
        "paper: seeding and constrain-to-boundary; sec: these and expansion, on cues of SEC's "
        "threshold whatever --cues says",
        choices=("paper", "sec"),
    )
    expansion: bool = option(False, "add SEC's expansion loss, the paper's ablation")
    size: int = option(264, "side of the square that photos are resized to")
    stride: int = option(8, "pixels per cell", choices=(8, 16, 32))

    def settings(self) -> dict[str, Any]:
        """Return what the result depends on: in SEC's recipe, not on the cues' name."""
        own = super().settings()
        unused = ("cues", "expansion") if self.recipe == "sec" else ()
        return {k: v for k, v in own.items() if k not in unused}

    @property
    def name(self) -> str:
        """Name of the folder that it goes to."""
        cues = self.cues + ("-expansion" if self.expansion else "")
        return segmenter_name("sec" if self.recipe == "sec" else cues, self.seed)

    def run(self) -> None:
        """Train it."""
        folder = VocFolder.open(self.root)
        names, _ = folder.training_ids(self.train)
        cues = self.out / "cues" / ("sec" if self.recipe == "sec" else CUES[self.cues])
        if lacking := [name for name in names if not (cues / f"{name}.png").exists()]:
            raise FileNotFoundError(
                f"{len(lacking)} photos have no cues in {cues}: run the stage cues first"
            )
        path = self.out / "classifier-color" / "checkpoint.pt"
        classifier, of_classifier = trained(folder, path, self.train, self.stride)
        network = build(of_classifier["network"], len(folder.names) + 1, self.stride)
        start_from(network, classifier)
        network.freeze_batch_norm()
        grid = self.size // self.stride
        # The widths are those of SEC's photos, brought to this grid.
        params = PRESETS["sec"].scaled(grid / SEC_PIXELS)

        def segmentation_losses(
            maps: torch.Tensor, batch: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            probabilities = maps.softmax(1)
            terms = {
                "seed": losses.seed_loss(probabilities, batch["cues"]),
                "constrain": losses.constrain_to_boundary_loss(
                    probabilities.to(crf), batch["photos"].to(crf), params, threads=threads()
                ).to(maps.device),
            }
            if self.expansion or self.recipe == "sec":
                terms["expansion"] = losses.expansion_loss(probabilities, batch["tags"])
            return terms

        with processes(self.device) as device:
            # On the CPU where there are no CUDA kernels.
            crf = device if build_config()["cuda"] else torch.device("cpu")
            fit(
                network,
                Photos(folder, names, self.size, cues=cues, grid=grid),
                segmentation_losses,
                self.out / self.name,
                settings={
                    **self.settings(),
                    "network": of_classifier["network"],
                    "classes": of_classifier["classes"],
                    "cue_settings": read_settings(self.out / "cues"),
                },
                schedule=self.schedule(len(names)),
                device=device,
            )


def segmenter_name(name: str, seed: int) -> str:
    """Return the folder of one of `SEGMENTERS`: seeds other than 0 have their own."""
    return f"segmenter-{name}" + (f"-seed{seed}" if seed else "")


def start_from(network: Network, classifier: Network) -> None:
    """Start a segmentation network from a classifier; what its background's map is made of is 0."""
    state = classifier.state_dict()
    for name, own in network.head.named_parameters():
        key = f"{network.head_name}.{name}"
        state[key] = torch.cat([torch.zeros_like(own[:1]), state[key]])
    network.load_state_dict(state)


@dataclass(frozen=True)
class Evaluate(WithTables):
    """Segment the photos of a split, write the tables, and draw some photos."""

    recall: float = option(0.9, "share of the held-out photos' tags that predicted tags must find")
    segmenters: tuple[str, ...] = option(
        ("raw", "snapped", "merged"),
        "what to segment with; tags are given to merged, or else to the last",
    )
    seeds: tuple[int, ...] = option(
        (), "of the segmentation networks, all counted together; none: that of --seed", type=int
    )

    def run(self) -> None:
        """Compute what is missing, and all tables anew."""
        folder = VocFolder.open(self.root)
        if unknown := set(self.classes) - set(folder.names):
            raise ValueError(f"--classes must be of {folder.names}, got {sorted(unknown)}")
        training, held_out = folder.training_ids(self.train)
        names = held_out if self.split == HELD_OUT else folder.ids(self.split)
        plan = Plan(
            folder,
            self.out,
            self.split,
            names,
            held_out,
            training,
            [0, *(folder.names.index(c) + 1 for c in self.classes or folder.names)],
            self.recall,
        )
        segmenters = {name: self._trained(folder, name) for name in self.segmenters}
        with processes(self.device) as device:
            evaluate(plan, segmenters, panels=self.panels, device=device)

    def _trained(self, folder: VocFolder, name: str) -> dict[int, tuple[Network, dict[str, Any]]]:
        """Load the networks of all seeds; nothing else may differ in how they were trained."""
        networks = {}
        settings: dict[str, Any] = {}
        for seed in self.seeds or (self.seed,):
            path = self.out / segmenter_name(name, seed) / "checkpoint.pt"
            networks[seed] = trained(folder, path, self.train)
            own = {k: v for k, v in networks[seed][1].items() if k != "seed"}
            settings = settings or own
            refuse_other_settings(path, own, settings)
        return networks


@dataclass(frozen=True)
class All(WithTables, WithNetwork):
    """Run every stage that has not been run, with its own defaults, and write the tables."""

    segmenters: tuple[str, ...] = option(
        ("raw", "snapped", "merged"),
        f"of {', '.join(SEGMENTERS)}. None: tables of cues only",
    )
    settings_file: Path | None = option(
        None,
        "JSON, by stage what differs from its defaults; options given here come before it",
        type=Path,
    )
    seeds: tuple[int, ...] = option(
        (), "of the segmentation networks, all counted together; none: that of --seed", type=int
    )
    given: frozenset[str] = frozenset()  # names of the options that were given

    def run(self) -> None:
        """Run them."""
        stages = self.stages()  # all of them first: what is wrong is told before hours of training
        with processes(self.device):
            for stage in stages:
                stage.run()

    def stages(self) -> list[Stage]:
        """Return what there is to do."""
        if unknown := set(self.segmenters) - set(SEGMENTERS):
            raise ValueError(f"--segmenters must be of {list(SEGMENTERS)}, got {sorted(unknown)}")
        changes = {} if self.settings_file is None else read_json(self.settings_file)
        known = ("classifier", "cues", "segmenter", "evaluate")
        if unknown := set(changes) - set(known):
            raise ValueError(f"{self.settings_file}: stages are {known}, got {min(unknown)!r}")
        test = () if self.split == HELD_OUT else (self.split,)
        segmenters = [self._as(Segmenter, changes, **SEGMENTERS[name]) for name in self.segmenters]
        seeds = self.seeds or tuple({stage.seed for stage in segmenters}) or (self.seed,)
        return [
            self._as(Classifier, changes, color=True),
            self._as(Classifier, changes, gray=True),
            self._as(Cues, changes, test=test),
            *(dataclasses.replace(stage, seed=seed) for seed in seeds for stage in segmenters),
            dataclasses.replace(self._as(Evaluate, changes), seeds=seeds),
        ]

    def _as(self, stage: type[Stage], changes: dict[str, Any], **own: Any) -> Stage:
        """Return a stage's options: those given here, or else the file's, or else the defaults."""
        entries = {entry.name: entry for entry in dataclasses.fields(stage)}
        name = stage.__name__.lower()
        for key, value in changes.get(name, {}).items():
            if key not in entries:
                raise ValueError(f"{self.settings_file}: {name} has no option {key!r}")
            choices = entries[key].metadata.get("choices", (value,))
            if value not in choices:
                raise ValueError(
                    f"{self.settings_file}: {key} of {name} must be of {choices}, got {value!r}"
                )
        shared = {k: v for k, v in vars(self).items() if k in entries}
        given = {k: v for k, v in shared.items() if k in self.given}
        return stage(**(shared | own | changes.get(name, {}) | given))


STAGES: dict[str, type[Stage]] = {
    "all": All,
    "classifier": Classifier,
    "cues": Cues,
    "segmenter": Segmenter,
    "evaluate": Evaluate,
}


def parse(arguments: Sequence[str] | None = None) -> Stage:
    """Read the command line into a stage's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    stages = parser.add_subparsers(dest="stage", required=True)
    for name, stage in STAGES.items():
        text = (stage.__doc__ or "").splitlines()[0]
        # What is not given is left to the stage's defaults.
        each = stages.add_parser(
            name, help=text, description=text, argument_default=argparse.SUPPRESS
        )
        for entry in dataclasses.fields(stage):
            if "help" in entry.metadata:
                _add_option(each, entry)
    given = vars(parser.parse_args(arguments))
    stage = STAGES[given.pop("stage")]
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return stage(**options, **({"given": frozenset(given)} if stage is All else {}))


def _add_option(parser: argparse.ArgumentParser, entry: dataclasses.Field[Any]) -> None:
    """Add one field; how to read it follows from its default."""
    how = dict(entry.metadata)
    default = entry.default
    if isinstance(default, bool):
        how["action"] = "store_true"
    elif isinstance(default, tuple):
        how |= {"nargs": "*", "metavar": "NAME"}
        default = " ".join(default)
    else:
        how.setdefault("type", type(default))
    if not (how.get("required") or isinstance(default, bool) or default in (None, "")):
        how["help"] += f" (default: {default})"
    parser.add_argument(f"--{entry.name.replace('_', '-')}", **how)


def main() -> None:
    """Run a stage."""
    try:
        parse().run()
    except (OSError, ValueError, InterruptedTrainingError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
