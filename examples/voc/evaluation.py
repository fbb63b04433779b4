"""Segments one split of photos and makes the paper's tables, with paired bootstrap intervals.

IoU comes from one confusion matrix over all photos at their own resolution; pixels whose truth is
255 are ignored. Pixels without a cue count as background. Intervals are over photos.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from cue_stage import KINDS, SETS, SETS_OF_BOTH, missing, raw_cues_of, read_maps, write_label_map
from data import square
from loop import keep_settings, rank_and_world, read_settings, threads, wait_for_all
from panels import draw, draw_bars
from torch.nn.functional import interpolate

import cuekit
from cuekit.metrics import bootstrap, confusion_matrix, iou, mean_iou

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from data import VocFolder
    from models import Network

    # name → seed → network and the settings of its training
    Segmenters = dict[str, dict[int, tuple[Network, dict[str, Any]]]]
    Labels = dict[int, Path]  # seed → folder of label maps

CAM, PREDICTION, LABELS = "CAM", "with prediction", "with class labels"
BEFORE = "before the CRF"


class Tagging(NamedTuple):
    """The threshold that turns a classifier's scores into tags, and the quality of these tags.

    Attributes
    ----------
    threshold : float
        Classes with at least this score are tags. The class with the highest score always is,
        because a photo without tags would lose all of its classes.
    precision, recall : float
        Over all tags of all photos.
    exact : float
        Share of the photos whose tags are all correct.
    """

    threshold: float
    precision: float
    recall: float
    exact: float


def tags_of(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return the tags (…, C) predicted by scores (…, C)."""
    return (scores >= threshold) | (scores == scores.max(-1, keepdims=True))


def choose_threshold(scores: np.ndarray, tags: np.ndarray, recall: float) -> float:
    """Return the highest threshold that finds at least this share of the tags (N, C).

    Raises
    ------
    ValueError
        If there are no tags, or `recall` is not in (0, 1].
    """
    found = np.sort(scores[tags])[::-1]
    if not len(found):
        raise ValueError("the held-out photos have no tags to choose a threshold by")
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be more than 0 and at most 1, got {recall}")
    return float(found[int(np.ceil(recall * len(found))) - 1])


def judge_tags(scores: np.ndarray, tags: np.ndarray, threshold: float) -> Tagging:
    """Compare the tags predicted by scores (N, C) with the true tags (N, C)."""
    predicted = tags_of(scores, threshold)
    correct = (predicted & tags).sum()
    return Tagging(
        threshold,
        correct / predicted.sum(),
        correct / tags.sum(),
        float((predicted == tags).all(1).mean()),
    )


def probabilities(network: Network, photo: Any, size: int, device: torch.device) -> np.ndarray:
    """Return a photo's probabilities (K, H, W) at its own resolution."""
    with torch.inference_mode():
        pixels = torch.from_numpy(square(photo, size))[None].to(device)
        maps = network(network.see(pixels)).float()
        maps = interpolate(maps, photo.size[::-1], mode="bilinear", align_corners=False)
        return maps.softmax(1)[0].cpu().numpy()


def labels_of(
    scores: np.ndarray, photo: np.ndarray, present: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (H, W) before and after the CRF; only background and present classes occur."""
    if present is not None:
        scores = cuekit.suppress_absent(scores, present)
    refined = cuekit.dense_crf(scores, photo, "sec", present=present, threads=threads())
    return scores.argmax(0), refined.argmax(0)


def write_labels(
    network: Network,
    folder: VocFolder,
    tags: dict[str, np.ndarray | None],
    out: Path,
    *,
    size: int,
    device: torch.device,
) -> None:
    """Segment photos that have no label map yet, given their tags (C,) or None if unknown.

    The labels before the CRF are written to a folder within `out`. Every source of tags has its own
    folder, for which the network is run again, so that each can be added or repeated separately.
    """
    network.move_to(device)
    network.eval()
    (out / BEFORE).mkdir(parents=True, exist_ok=True)
    # The file in BEFORE is written last: if it exists, both exist.
    for name in missing(list(tags), out / BEFORE, ".png"):
        photo = folder.photo(name)
        scores = probabilities(network, photo, size, device)
        before, after = labels_of(scores, np.asarray(photo), tags[name])
        cuekit.io.write_labels(out / f"{name}.png", after)
        cuekit.io.write_labels(out / BEFORE / f"{name}.png", before)


def matrices(folder: VocFolder, names: Iterable[str], labels: Path) -> np.ndarray:
    """Return confusion matrices (N, K + 1, K + 1); the last class is "unknown".

    All photos must have masks.
    """
    unknown = len(folder.names) + 1
    return np.stack(
        [
            confusion_matrix(
                folder.truth(name),
                cuekit.io.read_labels(labels / f"{name}.png"),
                unknown + 1,
                unknown_as=unknown,
            )
            for name in names
        ]
    )


def unknown_as_background(counts: np.ndarray) -> np.ndarray:
    """Return matrices (…, K, K) of (…, K + 1, K + 1) ones, "unknown" counted as background."""
    folded = counts[..., :-1, :-1].copy()
    folded[..., 0] += counts[..., :-1, -1]
    return folded


class Table(NamedTuple):
    """A table of text with a header."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(value: float) -> str:
    """Format a share as a percentage; NaN is a dash."""
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def share(part: int, whole: int) -> float:
    """Divide; 0 / 0 is NaN."""
    return part / whole if whole else np.nan


def result_table(
    counts: dict[str, np.ndarray], before: dict[str, np.ndarray], classes: list[int]
) -> Table:
    """Return table 1: the mean IoU of every method, after and before the CRF."""
    rows = [
        [name, *(percent(mean_iou(x[c].sum(0), classes)) if c in x else "–" for c in counts)]
        for name, x in (("mean IoU", counts), (BEFORE, before))
    ]
    return Table("Table 1: mean IoU, %", ["", *counts], rows)


def together(by_seed: dict[str, dict[int, np.ndarray]]) -> dict[str, np.ndarray]:
    """Sum the matrices over seeds, photo by photo."""
    return {column: np.sum(list(each.values()), axis=0) for column, each in by_seed.items()}


def seed_table(
    counts: dict[str, dict[int, np.ndarray]],
    before: dict[str, dict[int, np.ndarray]],
    classes: list[int],
) -> Table:
    """Return table 1 for every seed separately; empty if there is only one."""
    seeds = list(next(iter(counts.values())))
    rows = []
    for seed in seeds if len(seeds) > 1 else []:
        own, own_before = ({c: x[seed] for c, x in each.items()} for each in (counts, before))
        for name, *values in result_table(own, own_before, classes).rows:
            rows.append([f"{name}, seed {seed}", *values])
    return Table("Table 1 by seed: mean IoU, %", ["", *counts], rows)


def difference_table(
    title: str, counts: dict[str, np.ndarray], pairs: Sequence[tuple[str, str]], classes: list[int]
) -> Table:
    """Return the gain of each step, with the 95 % interval of a paired bootstrap over photos."""
    rows = []
    for before, after in pairs:
        if before in counts and after in counts:
            interval = bootstrap(
                counts[after], counts[before], statistic=partial(mean_iou, classes=classes)
            )
            value, low, high = (100 * x for x in interval)
            rows.append([f"{before} → {after}", f"{value:+.1f}", f"{low:+.1f} … {high:+.1f}"])
    return Table(title, ["step", "mean IoU", "95 % interval"], rows)


def cue_table(title: str, counts: dict[str, np.ndarray], classes: list[int]) -> Table:
    """Return table 2: how much cues cover, and how much of it is correct."""
    rows = []
    for name, each in counts.items():
        total = each.sum(0)
        k = len(total) - 1
        correct = np.trace(total[1:k, 1:k])
        shares = [
            mean_iou(unknown_as_background(total), classes),
            share(correct, total[:, 1:k].sum()),
            share(correct, total[1:k].sum()),
            share(total[:, :k].sum(), total.sum()),
        ]
        rows.append([name, *map(percent, shares)])
    header = ["cues", "mean IoU", "foreground precision", "foreground recall", "coverage"]
    return Table(title, header, rows)


def class_table(counts: dict[str, np.ndarray], names: Sequence[str], classes: list[int]) -> Table:
    """Return table 3: the IoU of every class that is averaged over."""
    values = {column: iou(each.sum(0)) for column, each in counts.items()}
    rows = [[names[c], *(percent(v[c]) for v in values.values())] for c in classes]
    return Table("Table 3: IoU by class, %", ["class", *counts], rows)


def tag_table(rows: dict[str, Tagging]) -> Table:
    """Return the table of the classifiers' tags."""
    shown = [
        [name, f"{t.threshold:.3f}", percent(t.precision), percent(t.recall), percent(t.exact)]
        for name, t in rows.items()
    ]
    header = ["classifier", "threshold", "precision", "recall", "exact match"]
    return Table(
        "Tags predicted by the classifiers, % (the class with the highest score is always a tag)",
        header,
        shown,
    )


def training_minutes(out: Path) -> dict[str, float]:
    """Read from the logs how many minutes every training took."""
    minutes = {}
    for path in sorted([*out.glob("*/log.csv"), *out.glob("systems/*/*/log.csv")]):
        with path.open(newline="", encoding="utf-8") as file:
            name = path.parent.relative_to(out).as_posix()
            minutes[name] = float(list(csv.DictReader(file))[-1]["seconds"]) / 60
    return minutes


def label_minutes(cues: Path) -> float:
    """Return how many minutes the labels of a system took, all photos together; NaN if unknown."""
    lines = [x for path in cues.glob("seconds-*.csv") for x in path.read_text("utf-8").split()]
    return sum(float(line.rpartition(",")[2]) for line in lines) / 60 if lines else np.nan


def comparison_table(
    plan: Plan,
    cues: dict[str, np.ndarray],
    counts: dict[str, np.ndarray],
    before: dict[str, np.ndarray],
    seeds: Sequence[int],
) -> Table:
    """Return table 4: one row for each segmentation network, with what its labels cost.

    `cues` are matrices of the training photos' labels by set. Differences are to merged cues.
    """
    minutes = training_minutes(plan.out)
    score = partial(mean_iou, classes=plan.classes)
    rows = []
    for name, of_name in plan.cue_sets.items():
        column, cells = f"{name} cue", []
        for each in (before, counts):
            cells.append(percent(score(each[column].sum(0))))
            if "merged cue" in each:
                interval = bootstrap(each[column], each["merged cue"], statistic=score)
                value, low, high = (100 * x for x in interval)
                own = name == "merged"
                cells.append("–" if own else f"{value:+.1f} ({low:+.1f} … {high:+.1f})")
            else:
                cells.append("–")
        networks = [
            value
            for key, value in minutes.items()
            if key.startswith(f"systems/{of_name}/")
            or (key == "classifier-gray" and of_name in SETS_OF_BOTH)
        ]
        segmenters = [f"segmenter-{name}" + (f"-seed{seed}" if seed else "") for seed in seeds]
        costs = [
            sum(networks),
            label_minutes(plan.out / "cues" / of_name),
            np.mean([minutes[x] for x in segmenters if x in minutes] or [np.nan]),
        ]
        of_cues = unknown_as_background(cues[of_name].sum(0)) if of_name in cues else None
        rows.append(
            [
                name,
                "–" if of_cues is None else percent(score(of_cues)),
                *cells,
                *("–" if np.isnan(x) else f"{x:.0f}" for x in costs),
            ]
        )
    header = [
        "system",
        "labels of the training photos",
        *(BEFORE, "to merged", "after the CRF", "to merged"),
        *("minutes: own networks", "labels", "segmentation network"),
    ]
    return Table("Table 4: systems, mean IoU, %", header, rows)


@dataclass(frozen=True)
class Plan:
    """The photos and classes to evaluate.

    Attributes
    ----------
    folder : VocFolder
        Photos, masks and tags.
    out : Path
        Folder of the earlier stages' output, and of labels and tables.
    split : str
        Name of the set of photos that are segmented.
    names, held_out, training : list of str
        The photos of the split, those to choose the tags' threshold on, and those trained on.
    classes : list of int
        Class ids to average over.
    cue_sets : dict of str to str
        By segmentation network, the set of cues that it was trained on.
    recall : float
        Share of the held-out photos' tags that the threshold must find.
    """

    folder: VocFolder
    out: Path
    split: str
    names: list[str]
    held_out: list[str]
    training: list[str]
    classes: list[int]
    cue_sets: dict[str, str]
    recall: float

    def with_masks(self, names: Sequence[str]) -> list[str]:
        """Return the photos that have a mask."""
        return [name for name in names if self.folder.mask(name).exists()]

    def scores(self, kind: str, names: Sequence[str]) -> np.ndarray:
        """Return a classifier's scores (N, C) of photos."""
        return np.stack(
            [read_maps(self.out / "maps" / kind / f"{name}.npz").scores for name in names]
        )

    def tags(self, names: Sequence[str]) -> np.ndarray:
        """Return the true tags (N, C) of photos."""
        return np.stack([self.folder.tags[name] for name in names])

    def tagging(self) -> tuple[dict[str, Tagging], float]:
        """Evaluate the tags of both classifiers; return the colour classifier's threshold, too."""
        rows = {}
        thresholds = {}
        for kind in KINDS:
            scores, tags = self.scores(kind, self.held_out), self.tags(self.held_out)
            chosen = thresholds[kind] = choose_threshold(scores, tags, self.recall)
            rows[f"{kind}, held-out"] = judge_tags(scores, tags, chosen)
            scores, tags = self.scores(kind, self.names), self.tags(self.names)
            for threshold in (chosen, 0.5):
                row = f"{kind}, {self.split}, from {threshold:.3f}"
                rows[row] = judge_tags(scores, tags, threshold)
        return rows, thresholds["color"]


def write_labels_of_maps(plan: Plan, predicted: dict[str, np.ndarray], out: Path) -> None:
    """Segment by the colour classifier's maps alone, with the tags that it predicts."""
    settings = read_settings(plan.out / "cues")
    thresholds = {k: settings[k] for k in ("foreground_threshold", "background_threshold")}
    out.mkdir(parents=True, exist_ok=True)
    for name in missing(plan.names, out, ".png"):
        cues = raw_cues_of(
            read_maps(plan.out / "maps" / "color" / f"{name}.npz"), predicted[name], **thresholds
        )
        write_label_map(out / f"{name}.png", cues, plan.folder.photo(name).size[::-1])


def segment(
    plan: Plan,
    segmenters: Segmenters,
    with_tags: str,
    device: torch.device,
) -> tuple[dict[str, Labels], dict[str, Tagging]]:
    """Segment the photos by every method; only the segmenter `with_tags` is also given tags.

    Returns
    -------
    labels : dict of str to dict of int to Path
        Method → seed → folder of label maps.
    tagging : dict of str to Tagging
        Quality of the predicted tags.
    """
    tagging, threshold = plan.tagging()
    scores = plan.scores("color", plan.names)
    predicted = dict(zip(plan.names, tags_of(scores, threshold), strict=True))
    tag_sources: dict[str, dict[str, np.ndarray | None]] = {
        "without": dict.fromkeys(plan.names),
        PREDICTION: {**predicted},
        LABELS: {name: plan.folder.tags[name] for name in plan.names},
    }
    out = plan.out / "labels" / plan.split
    keep_settings(out / CAM, cues=read_settings(plan.out / "cues"), threshold=threshold)
    write_labels_of_maps(plan, predicted, out / CAM)
    columns: dict[str, Labels] = {}
    for name, networks in segmenters.items():
        for source in tag_sources if name == with_tags else ("without",):
            tags = tag_sources[source]
            column = columns.setdefault(f"{name} cue" if source == "without" else source, {})
            given = {"threshold": threshold} if source == PREDICTION else {}
            for seed, (network, settings) in networks.items():
                folder = column[seed] = out / (f"{name}-seed{seed}" if seed else name) / source
                size = settings["size"]
                keep_settings(folder, segmenter=settings, **given)
                write_labels(network, plan.folder, tags, folder, size=size, device=device)
    seeds = {seed for column in columns.values() for seed in column} or {0}
    return {CAM: dict.fromkeys(sorted(seeds), out / CAM), **columns}, tagging


def evaluate(
    plan: Plan,
    segmenters: Segmenters,
    *,
    panels: int,
    device: torch.device,
) -> None:
    """Segment, and write ``tables-SPLIT.md``, ``tables-SPLIT.json`` and pictures.

    Photos without masks are segmented and drawn, but are not in the tables.
    """
    with_tags = "merged" if "merged" in segmenters else list(segmenters)[-1] if segmenters else ""
    labels, tagging = segment(plan, segmenters, with_tags, device)
    wait_for_all()
    if rank_and_world()[0] > 0:
        return
    if plan.with_masks(plan.names):
        write_tables(plan, labels, tagging, f"{with_tags} cue")
    if panels:
        draw_panels(plan, labels, f"{with_tags} cue", panels)
    sys.stdout.write(f"label maps: {plan.out / 'labels' / plan.split}\n")


def write_tables(
    plan: Plan, labels: dict[str, Labels], tagging: dict[str, Tagging], with_tags: str
) -> None:
    """Write all tables as Markdown and JSON, and print them.

    `with_tags` is the column whose networks were also given tags.
    """
    folder, classes = plan.folder, plan.classes
    masked = plan.with_masks(plan.names)

    def counts_of(labels: Path) -> np.ndarray:
        return unknown_as_background(matrices(folder, masked, labels))

    by_seed = {
        column: {seed: counts_of(path) for seed, path in of_seeds.items()}
        for column, of_seeds in labels.items()
    }
    before_by_seed = {
        column: {seed: counts_of(path / BEFORE) for seed, path in of_seeds.items()}
        for column, of_seeds in labels.items()
        if column != CAM  # which has no CRF
    }
    counts, before = together(by_seed), together(before_by_seed)
    seeds = list(by_seed[CAM])
    steps = [
        (CAM, "raw cue"),
        ("raw cue", "snapped cue"),
        ("snapped cue", "merged cue"),
        ("raw cue", "merged cue"),
        ("merged-expansion cue", "merged cue"),
        ("sec cue", "merged cue"),
        ("merged cue", "evidence cue"),
        ("psa cue", "evidence cue"),
        (with_tags, PREDICTION),
        (with_tags, LABELS),
    ]
    cues = {
        f"{title} ({len(names)} photos)": {
            name: matrices(folder, names, plan.out / "cues" / name)
            for name in dict.fromkeys([*SETS, *plan.cue_sets.values()])
            if all((plan.out / "cues" / name / f"{photo}.png").exists() for photo in names)
        }
        for title, names in (
            ("the training photos", plan.with_masks(plan.training)),
            (plan.split, masked),
        )
        if names
    }
    tables = [
        result_table(counts, before, classes),
        seed_table(by_seed, before_by_seed, classes),
        difference_table("What each step of table 1 brings", counts, steps, classes),
        difference_table(f"What each step of table 1 brings, {BEFORE}", before, steps, classes),
    ]
    for title, sets in cues.items():
        tables.append(cue_table(f"Table 2: cues of {title}, given their tags, %", sets, classes))
        of_labels = {name: unknown_as_background(each) for name, each in sets.items()}
        pairs = [
            ("raw-color", "snapped-color"),
            ("raw-gray", "snapped-gray"),
            ("snapped-color", "merged"),
            ("psa", "evidence"),
        ]
        tables.append(
            difference_table(
                f"What each step of table 2 brings, {title}", of_labels, pairs, classes
            )
        )
    if len(plan.cue_sets) > 1:
        of_training = next(iter(cues.values())) if plan.with_masks(plan.training) else {}
        comparison = comparison_table(plan, of_training, counts, before, seeds)
        tables.append(comparison)
        draw_bars(
            ("labels of the training photos", BEFORE, "after the CRF"),
            {row[0]: [_number(row[k]) for k in (1, 2, 4)] for row in comparison.rows},
            plan.out / f"systems-{plan.split}.png",
        )
    tables.append(class_table(counts, ("background", *folder.names), classes))
    tables.append(tag_table(tagging))
    minutes = [[name, f"{value:.1f}"] for name, value in training_minutes(plan.out).items()]
    tables.append(Table("Trainings", ["network", "minutes"], minutes))
    tables = [table for table in tables if table.rows]
    text = "\n\n".join(table.markdown() for table in tables) + "\n"
    (plan.out / f"tables-{plan.split}.md").write_text(text, encoding="utf-8")
    (plan.out / f"tables-{plan.split}.json").write_text(
        json.dumps([table._asdict() for table in tables], indent=1, ensure_ascii=False),
        encoding="utf-8",
    )
    sys.stdout.write(text)


def _number(cell: str) -> float:
    """Read a cell of a table; a dash is NaN."""
    return np.nan if cell == "–" else float(cell)


def draw_panels(plan: Plan, labels: dict[str, Labels], network: str, number: int) -> None:
    """Draw photos at equal steps through the split, with every stage of the first seed.

    `network` is the column of the networks whose labels with tags are drawn, too.
    """
    chosen = plan.names[:: max(len(plan.names) // number, 1)][:number]
    cues = plan.out / "cues"
    columns = {}
    if all(plan.folder.mask(name).exists() for name in chosen):
        columns["truth"] = plan.folder.mask(chosen[0]).parent
    columns |= {
        "raw": cues / "raw-color",
        "snapped (color)": cues / "snapped-color",
        "snapped (gray)": cues / "snapped-gray",
        "merged": cues / "merged",
    }
    if network in labels:
        first = next(iter(labels[network]))
        columns |= {"network": labels[network][first], PREDICTION: labels[PREDICTION][first]}
        others = [name for name in labels if name not in (CAM, PREDICTION, LABELS, network)]
        columns |= {name.removesuffix(" cue"): labels[name][first] for name in others}
    draw(
        [plan.folder.photo(name) for name in chosen],
        {title: [path / f"{name}.png" for name in chosen] for title, path in columns.items()},
        plan.out / f"panels-{plan.split}.png",
    )
