"""From image tags to masks: the paper's method and its comparisons, stage by stage.

Every stage reads the output of earlier stages from ``--out``. Run again, an interrupted stage
continues where it stopped, and a finished one returns immediately::

    python train.py classifier --color --root VOC --out runs/voc --weights mobilenet_v2.npz
    python train.py classifier --gray --root VOC --out runs/voc --weights mobilenet_v2.npz
    python train.py cues --root VOC --out runs/voc
    python train.py system --system affinity --root VOC --out runs/voc
    python train.py segmenter --cues merged --root VOC --out runs/voc
    python train.py evaluate --root VOC --out runs/voc

``python train.py all`` runs all of them in this order. ``python train.py STAGE --help`` lists a
stage's options. To run a stage on several GPUs, or in several processes, use
``torchrun --nproc-per-node N train.py …``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from cue_stage import (
    KINDS,
    RECIPES,
    cue_settings,
    write_cues,
    write_labels_of_system,
    write_maps,
)
from data import Photos, VocFolder, has_lists
from evaluation import Plan, evaluate
from loop import (
    InterruptedTrainingError,
    Schedule,
    fit,
    keep_settings,
    processes,
    read_json,
    refuse_other_settings,
    tag_losses,
    threads,
    trained,
    wait_for_all,
)
from models import NETWORKS, Network, build
from systems import SYSTEMS, System, Work

from cuekit import build_config, losses
from cuekit.crf import PRESETS

if TYPE_CHECKING:
    from collections.abc import Sequence

SEC_PIXELS = 321  # side of the photos in SEC, which the widths of its CRF are for
OF_SEC = ("sec-saliency",)  # cues that a network learns from with all three losses of SEC
HELD_OUT = "held-out"  # in place of a split: the held-out photos, to choose settings on
CUES = {
    "raw": "raw-color",
    "snapped": "snapped-color",
    "merged": "merged",
    **{name: name for name in RECIPES},
    **{name: name for name in SYSTEMS},
    "sec": "sec",
}
SEGMENTERS: dict[str, dict[str, Any]] = {
    **{name: {"cues": name} for name in CUES if name != "sec"},
    "merged-expansion": {"cues": "merged", "expansion": True},
    "sec": {"recipe": "sec"},
}


def option(default: Any, text: str, **arguments: Any) -> Any:
    """Make a field of a stage's options: default, text for --help, arguments of add_argument."""
    return field(default=default, metadata={"help": text, **arguments})


@dataclass(frozen=True)
class Stage:
    """Options of all stages."""

    root: Path = option(Path(), "folder in PASCAL VOC's layout", required=True)
    out: Path = option(Path(), "folder for all output", required=True)
    tags: Path | None = option(
        None,
        "CSV file of two columns, the names of photos and their tags; then --root is any folder "
        "of photos",
        type=Path,
    )
    train: tuple[str, ...] = option(
        ("train", "train_aug"), "splits to train on; a tenth is held out to choose settings"
    )
    seed: int = option(0, "seed of all random numbers")
    device: str = option("cuda" if torch.cuda.is_available() else "cpu", "device of the networks")
    workers: int = option(1, "processes that read photos")

    def settings(self) -> dict[str, Any]:
        """Return the options that results depend on."""
        ignored = ("root", "out", "tags", "device", "workers")
        values = dataclasses.asdict(self)
        return {k: _plain(v) for k, v in values.items() if k not in ignored}

    def run(self) -> None:
        """Run the stage."""
        raise NotImplementedError

    def data(self) -> VocFolder:
        """Open the data set."""
        return VocFolder.open(self.root, self.tags)


def _plain(value: Any) -> Any:
    """Return an option as stored in JSON and checkpoints: the name of a file, a list of a tuple."""
    if isinstance(value, Path):
        return value.name
    return list(value) if isinstance(value, tuple) else value


AnyStage = TypeVar("AnyStage", bound=Stage)


@dataclass(frozen=True)
class WithNetwork(Stage):
    """Options of stages that create a network."""

    network: str = option("mobilenet_v2", "architecture", choices=tuple(NETWORKS))
    weights: Path | None = option(None, "published weights to start from (.npz or .pth)", type=Path)


@dataclass(frozen=True)
class WithTables(Stage):
    """Options of stages that write tables."""

    split: str = option(
        "",
        f"a split, or {HELD_OUT}: the held-out tenth of the training photos; default: val, or "
        f"{HELD_OUT} if there are no lists of splits",
    )
    classes: tuple[str, ...] = option(
        (), "classes to average over, besides the background; default: all"
    )
    panels: int = option(0, "number of photos to draw")

    @property
    def chosen_split(self) -> str:
        """The split to segment."""
        return self.split or ("val" if has_lists(self.root) else HELD_OUT)


@dataclass(frozen=True)
class Training(Stage):
    """Options of the training of classifiers and segmentation networks."""

    epochs: float = option(5.0, "passes over the photos")
    batch: int = option(8, "photos per iteration, over all processes")
    learning_rate: float = option(1e-4, "learning rate of AdamW; ten times as high for the head")
    clip: float = option(1.0, "largest norm of the gradient")
    bfloat16: bool = option(
        False, "compute the network in bfloat16: faster if the processor or GPU supports it"
    )

    def schedule(self, photos: int) -> Schedule:
        """Return the schedule for this number of photos."""
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
    """Train a network that predicts tags, on colour or on grayscale photos."""

    color: bool = option(False, "train on colour photos")
    gray: bool = option(False, "train on grayscale photos")
    size: int = option(352, "side of the square that photos are resized to")
    stride: int = option(32, "pixels per cell in training", choices=(8, 16, 32))

    def run(self) -> None:
        """Train the classifier; its scores are the means of its maps."""
        if self.color == self.gray:
            raise ValueError("classifier needs one of --color and --gray")
        kind = "gray" if self.gray else "color"
        folder = self.data()
        names, _ = folder.training_ids(self.train)
        torch.manual_seed(self.seed)  # for the initial weights of the head
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


@dataclass(frozen=True)
class Cues(Stage):
    """Compute maps and cues of all photos, including those of --test."""

    test: tuple[str, ...] = option(
        ("val",), "splits that are not trained on; without lists of splits there are none"
    )
    longer_side: int = option(416, "longer side of the photos at the input for the maps, in pixels")
    stride: int = option(16, "pixels per cell of the maps", choices=(8, 16, 32))
    foreground_threshold: float = option(0.3, "threshold, as a share of a class's largest value")
    background_threshold: float = option(0.2, "threshold of the background map")
    snap_threshold: float = option(
        0.5, "threshold, as a share of a class's largest mean over a superpixel"
    )
    sec_threshold: float = option(0.2, "foreground threshold of the cues for --recipe sec")
    scale: float = option(200.0, "scale of the superpixels")
    min_size: int = option(60, "smallest size of superpixels, in pixels")

    def settings(self) -> dict[str, Any]:
        """Return the options that maps and cues of one photo depend on, not the other photos."""
        return {k: v for k, v in super().settings().items() if k not in ("train", "test", "seed")}

    def run(self) -> None:
        """Compute the maps and cues that are missing."""
        folder = self.data()
        test = self.test if has_lists(self.root) else ()
        if both := set(folder.ids(*self.train)) & set(folder.ids(*test) if test else ()):
            raise ValueError(f"--test has {len(both)} photos of --train, one is {min(both)}")
        names = folder.ids(*self.train, *test)
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
class MakeLabels(Training):
    """Train the networks of one of the systems, and write its labels of the training photos."""

    system: str = option("affinity", "whose labels to make", choices=tuple(SYSTEMS))
    weights: Path | None = option(None, "published weights to start from (.npz or .pth)", type=Path)
    set: tuple[str, ...] = option(
        (),
        "settings of the system other than those in its file: alpha=8, or, for this system only, "
        "affinity.alpha=8",
        metavar="NAME=VALUE",
    )

    def run(self) -> None:
        """Train the networks, and write the labels that are missing, of held-out photos as well."""
        folder = self.data()
        names, held_out = folder.training_ids(self.train)
        classifier = self.out / "classifier-color" / "checkpoint.pt"
        _, of_classifier = trained(folder, classifier, self.train)
        system = changed(self.system, self.set)
        with processes(self.device) as device:
            work = Work(
                folder,
                self.out,
                self.out / "systems" / self.system,
                self.train,
                names,
                self.schedule(len(names)),
                device,
                of_classifier["network"],
                self.weights,
            )
            # Before the training: networks and labels of another classifier are refused.
            keep_settings(work.out, classifier=of_classifier)
            out = self.out / "cues" / self.system
            keep_settings(
                out, classifier=of_classifier, **{**self.settings(), "set": system.settings()}
            )
            networks = system.train(work)
            wait_for_all()
            write_labels_of_system(system, work, networks, [*held_out, *names], out)
            wait_for_all()


def changed(name: str, changes: Sequence[str]) -> System:
    """Return a system with changed settings, each NAME=VALUE with a value in JSON.

    Those with the name of another system before them, SYSTEM.NAME=VALUE, are left out.
    """
    system = SYSTEMS[name]
    known = {each.name: getattr(system, each.name) for each in dataclasses.fields(system)}
    values = {}
    for change in changes:
        key, _, text = change.partition("=")
        owner, dot, own = key.rpartition(".")
        if dot and owner in SYSTEMS and owner != name:
            continue
        key = own if owner == name else key
        if key not in known:
            raise ValueError(f"--set of {name} must be of {list(known)}, got {change!r}")
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f"--set must be NAME=VALUE with a number, got {change!r}") from error
        value = tuple(value) if isinstance(value, list) else value
        kinds = (int, float) if isinstance(known[key], float) else type(known[key])
        if not isinstance(value, kinds) or isinstance(value, bool):
            kind = type(known[key]).__name__
            raise ValueError(f"{key} of {name} must be a {kind}, got {text}")  # noqa: TRY004
        values[key] = value
    return dataclasses.replace(system, **values)


@dataclass(frozen=True)
class Segmenter(Training):
    """Train a segmentation network on cues, initialised from the colour classifier."""

    cues: str = option("merged", "set of cues to train on", choices=tuple(CUES))
    recipe: str = option(
        "paper",
        "paper: seed and constrain-to-boundary loss; sec: both and expansion loss, on cues of "
        "SEC's threshold instead of --cues",
        choices=("paper", "sec"),
    )
    expansion: bool = option(
        False, "add SEC's expansion loss (an ablation of the paper); cues of SEC always have it"
    )
    size: int = option(264, "side of the square that photos are resized to")
    stride: int = option(8, "pixels per cell", choices=(8, 16, 32))

    def settings(self) -> dict[str, Any]:
        """Return the options that the result depends on; SEC's recipe ignores `cues`."""
        own = super().settings()
        unused = ("cues", "expansion") if self.recipe == "sec" else ()
        return {k: v for k, v in own.items() if k not in unused}

    @property
    def name(self) -> str:
        """Name of its folder."""
        cues = self.cues + ("-expansion" if self.expansion and self.cues not in OF_SEC else "")
        return segmenter_name("sec" if self.recipe == "sec" else cues, self.seed)

    def run(self) -> None:
        """Train the segmentation network."""
        folder = self.data()
        names, _ = folder.training_ids(self.train)
        cues = self.out / "cues" / cue_set(vars(self))
        if lacking := [name for name in names if not (cues / f"{name}.png").exists()]:
            stage = "system" if self.cues in SYSTEMS else "cues"
            raise FileNotFoundError(
                f"{len(lacking)} photos have no cues in {cues}: run the stage {stage} first"
            )
        path = self.out / "classifier-color" / "checkpoint.pt"
        classifier, of_classifier = trained(folder, path, self.train, self.stride)
        network = build(of_classifier["network"], len(folder.names) + 1, self.stride)
        start_from(network, classifier)
        network.freeze_batch_norm()
        grid = self.size // self.stride
        # SEC's widths, scaled from pixels of its photos to cells of this grid.
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
            if self.expansion or self.recipe == "sec" or self.cues in OF_SEC:
                terms["expansion"] = losses.expansion_loss(probabilities, batch["tags"])
            return terms

        with processes(self.device) as device:
            # The CRF runs on the CPU if cuekit was built without CUDA.
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
                    "cue_settings": cue_settings(cues),
                },
                schedule=self.schedule(len(names)),
                device=device,
            )


def refuse_unknown_segmenters(names: Sequence[str]) -> None:
    """Raise a ValueError if there is a name that `SEGMENTERS` has not."""
    if unknown := set(names) - set(SEGMENTERS):
        raise ValueError(f"--segmenters must be of {list(SEGMENTERS)}, got {sorted(unknown)}")


def segmenter_name(name: str, seed: int) -> str:
    """Return the folder name of one of `SEGMENTERS`; seeds other than 0 are part of it."""
    return f"segmenter-{name}" + (f"-seed{seed}" if seed else "")


def cue_set(options: dict[str, Any]) -> str:
    """Return the set of cues that a segmentation network with these options learns from."""
    return "sec" if options.get("recipe") == "sec" else CUES[options["cues"]]


def start_from(network: Network, classifier: Network) -> None:
    """Initialise a segmentation network from a classifier; the background's weights are 0."""
    state = classifier.state_dict()
    for name, own in network.head.named_parameters():
        key = f"{network.head_name}.{name}"
        state[key] = torch.cat([torch.zeros_like(own[:1]), state[key]])
    network.load_state_dict(state)


@dataclass(frozen=True)
class Evaluate(WithTables):
    """Segment the photos of a split, write the tables, and draw some photos."""

    recall: float = option(0.9, "recall of the predicted tags on the held-out photos, at least")
    segmenters: tuple[str, ...] = option(
        ("raw", "snapped", "merged"),
        "networks to segment with; merged, or else the last one, is also run with tags",
    )
    seeds: tuple[int, ...] = option(
        (),
        "seeds of the segmentation networks, whose pixels are counted together; default: --seed",
        type=int,
    )

    def run(self) -> None:
        """Compute the labels that are missing, and write all tables."""
        folder = self.data()
        refuse_unknown_segmenters(self.segmenters)
        if unknown := set(self.classes) - set(folder.names):
            raise ValueError(f"--classes must be of {folder.names}, got {sorted(unknown)}")
        training, held_out = folder.training_ids(self.train)
        split = self.chosen_split
        names = held_out if split == HELD_OUT else folder.ids(split)
        plan = Plan(
            folder,
            self.out,
            split,
            names,
            held_out,
            training,
            [0, *(folder.names.index(c) + 1 for c in self.classes or folder.names)],
            {name: cue_set(SEGMENTERS[name]) for name in self.segmenters},
            self.recall,
        )
        segmenters = {name: self._trained(folder, name) for name in self.segmenters}
        with processes(self.device) as device:
            evaluate(plan, segmenters, panels=self.panels, device=device)

    def _trained(self, folder: VocFolder, name: str) -> dict[int, tuple[Network, dict[str, Any]]]:
        """Load the networks of all seeds; the other settings of their training must be equal."""
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
    """Run every stage that is not finished, with its own defaults, and write the tables."""

    segmenters: tuple[str, ...] = option(
        ("raw", "snapped", "merged"),
        f"any of {', '.join(SEGMENTERS)}; without a name: tables of cues only",
    )
    settings_file: Path | None = option(
        None,
        "JSON file with options by stage; options on the command line take precedence",
        type=Path,
    )
    seeds: tuple[int, ...] = option(
        (),
        "seeds of the segmentation networks, whose pixels are counted together; default: --seed",
        type=int,
    )
    given: frozenset[str] = frozenset()  # names of the options on the command line

    def run(self) -> None:
        """Run the stages."""
        stages = self.stages()  # all at first: wrong options are reported before hours of training
        with processes(self.device):
            for stage in stages:
                stage.run()

    def stages(self) -> list[Stage]:
        """Return the stages in order."""
        refuse_unknown_segmenters(self.segmenters)
        changes = {} if self.settings_file is None else read_json(self.settings_file)
        known = ("classifier", "cues", "system", "segmenter", "evaluate")
        if unknown := set(changes) - set(known):
            raise ValueError(f"{self.settings_file}: stages are {known}, got {min(unknown)!r}")
        split = self.chosen_split
        test = () if split == HELD_OUT else (split,)
        segmenters = [self._as(Segmenter, changes, **SEGMENTERS[name]) for name in self.segmenters]
        seeds = self.seeds or tuple({stage.seed for stage in segmenters}) or (self.seed,)
        return [
            self._as(Classifier, changes, color=True),
            self._as(Classifier, changes, gray=True),
            self._as(Cues, changes, test=test),
            *(
                self._as(MakeLabels, changes, system=name)
                for name in self.segmenters
                if name in SYSTEMS
            ),
            *(dataclasses.replace(stage, seed=seed) for seed in seeds for stage in segmenters),
            dataclasses.replace(self._as(Evaluate, changes), seeds=seeds),
        ]

    def _as(self, stage: type[AnyStage], changes: dict[str, Any], **own: Any) -> AnyStage:
        """Return a stage with options of the command line, else of the file, else defaults."""
        entries = {entry.name: entry for entry in dataclasses.fields(stage)}
        name = next(name for name, each in STAGES.items() if each is stage)
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
    "system": MakeLabels,
    "segmenter": Segmenter,
    "evaluate": Evaluate,
}


def parse(arguments: Sequence[str] | None = None) -> Stage:
    """Read the command line into a stage."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    stages = parser.add_subparsers(dest="stage", required=True)
    for name, stage in STAGES.items():
        text = (stage.__doc__ or "").splitlines()[0]
        # Options that are not given have the stage's defaults.
        each = stages.add_parser(
            name, help=text, description=text, argument_default=argparse.SUPPRESS
        )
        for entry in dataclasses.fields(stage):
            if "help" in entry.metadata:
                _add_option(each, entry)
    given = vars(parser.parse_args(arguments))
    stage = STAGES[given.pop("stage")]
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return All(**options, given=frozenset(given)) if stage is All else stage(**options)


def _add_option(parser: argparse.ArgumentParser, entry: dataclasses.Field[Any]) -> None:
    """Add one field as an option; the default determines its type."""
    arguments = dict(entry.metadata)
    default = entry.default
    if isinstance(default, bool):
        arguments["action"] = "store_true"
    elif isinstance(default, tuple):
        arguments = {"nargs": "*", "metavar": "NAME"} | arguments
        default = " ".join(default)
    else:
        arguments.setdefault("type", type(default))
    if not (arguments.get("required") or isinstance(default, bool) or default in (None, "")):
        arguments["help"] += f" (default: {default})"
    parser.add_argument(f"--{entry.name.replace('_', '-')}", **arguments)


def main() -> None:
    """Run the stage of the command line."""
    try:
        parse().run()
    except (OSError, ValueError, InterruptedTrainingError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
