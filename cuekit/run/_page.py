"""The page of `view`: HTML in one file, without scripts, that asks for nothing from a network."""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cuekit.run._panels import UNKNOWN, Panel, data_uri, printable, swatch

GENERATOR = "cuekit view"


@dataclass(frozen=True)
class Curve:
    """The curve of a sweep: mean IoU by threshold or alpha, and values that are marked."""

    parameter: str
    values: Sequence[float]
    mean_iou: Sequence[float]
    marks: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Class:
    """A row of the table of classes; values are in [0, 1], or NaN, one for each set of labels."""

    class_id: int
    name: str
    photos: int
    values: Sequence[float]


@dataclass
class Entry:
    """A photo that is shown."""

    name: str
    scores: Sequence[str] = ()
    classes: Sequence[Class] = ()
    panels: Sequence[Panel] = ()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """A table of text that was found beside labels."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Report:
    """All that the page shows. Its texts are plain: they are escaped here."""

    title: str
    facts: Sequence[tuple[str, str]]
    sources: Sequence[tuple[str, str]]
    policy: str
    sets: Sequence[str]
    measure: str
    classes: Sequence[Class]
    means: Sequence[float]
    groups: Sequence[tuple[str, Sequence[Entry]]]
    curve: Curve | None
    tables: Sequence[Table]
    notes: Sequence[str]
    failures: Sequence[tuple[str, str]]
    version: str


def text(value: str) -> str:
    """Escape a text for HTML."""
    return html.escape(printable(value))


def percent(value: float) -> str:
    """Return a share as text."""
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def page(report: Report) -> Iterator[str]:
    """Yield the page, part by part."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
    # Nothing is loaded, run or sent: even if a text were not escaped, it could do nothing.
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    yield f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="{GENERATOR}">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{text(report.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{text(report.title)}</h1>
"""
    yield _list("facts", report.facts)
    if report.failures or report.notes:
        yield f'<p class="alert"><a href="#problems">{_problems(report)}</a></p>\n'
    yield "</header>\n<main>\n"
    yield _class_table(report)
    if report.curve:
        yield _curve(report.curve)
    yield _HOW_TO_READ
    for number, (heading, entries) in enumerate(report.groups):
        yield f'<section>\n<h2 id="group{number}">{text(heading)}</h2>\n'
        for entry in entries:
            yield from _entry(entry)
        yield "</section>\n"
    yield '<section>\n<h2 id="settings">Settings</h2>\n'
    yield _list("sources", report.sources)
    for table in report.tables:
        yield from _table(table)
    yield "</section>\n"
    if report.failures or report.notes:
        yield f'<section>\n<h2 id="problems">{_problems(report)}</h2>\n<ul>\n'
        yield from (f"<li>{text(note)}</li>\n" for note in report.notes)
        yield from (
            f"<li><b>{text(name)}</b>: {text(reason)}</li>\n" for name, reason in report.failures
        )
        yield "</ul>\n</section>\n"
    yield f"</main>\n<footer>Written by cuekit {text(report.version)}</footer>\n</body>\n</html>\n"


def _problems(report: Report) -> str:
    number = len(report.failures) + len(report.notes)
    return f"{number} problem{'s' if number > 1 else ''}"


def _list(kind: str, pairs: Sequence[tuple[str, str]]) -> str:
    items = "\n".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs
    )
    return f'<dl class="{kind}">\n{items}\n</dl>\n'


def _colour(class_id: int) -> str:
    """Return a square in the colour of a class; unknown pixels are gray with lines."""
    if class_id == UNKNOWN:
        mark = (
            '<rect width="12" height="12" fill="#999"/>'
            '<path d="M0 12 12 0M0 6 6 0M6 12 12 6" stroke="#fff"/>'
        )
    else:
        mark = f'<rect width="12" height="12" fill="{swatch(class_id)}"/>'
    return f'<svg class="swatch" viewBox="0 0 12 12" aria-hidden="true">{mark}</svg>'


def _class_table(report: Report) -> str:
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in report.sets)
    rows = "".join(
        f'<tr><th scope="row">{_colour(row.class_id)} {text(row.name)}</th><td>{row.photos}</td>'
        f"{''.join(map(_bar, row.values))}</tr>\n"
        for row in report.classes
    )
    means = "".join(map(_bar, report.means))
    foot = f'<tfoot><tr><th scope="row">mean</th><td></td>{means}</tr></tfoot>\n' if means else ""
    return f"""<section>
<h2 id="classes">{text(report.measure)}</h2>
<div class="wide"><table class="classes">
<thead><tr><th scope="col">class</th><th scope="col">photos</th>{heads}</tr></thead>
<tbody>
{rows}</tbody>
{foot}</table></div>
<p class="policy">{text(report.policy)}</p>
</section>
"""


def _bar(value: float) -> str:
    width = 0 if math.isnan(value) else 100 * value
    return (
        '<td class="bar"><svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="10"/>'
        f'<rect class="value" width="{width:.2f}" height="10"/></svg>'
        f"<span>{percent(value)}</span></td>"
    )


def _entry(entry: Entry) -> Iterator[str]:
    scores = " · ".join(entry.scores)
    yield f'<article>\n<h3>{text(entry.name)}</h3>\n<p class="scores">{text(scores)}</p>\n'
    chips = "".join(
        f"<li>{_colour(row.class_id)} {text(row.name)}"
        f" <b>{' / '.join(map(percent, row.values))}</b></li>"
        for row in entry.classes
    )
    yield f'<ul class="chips">{chips}</ul>\n'
    yield from (f'<p class="alert">{text(note)}</p>\n' for note in entry.notes)
    yield '<div class="panels">\n'
    for panel in entry.panels:
        height, width = panel.picture.shape[:2]
        yield (
            f'<figure><img src="{data_uri(panel.picture)}" width="{width}" height="{height}" '
            f'alt="{text(panel.alt)}"><figcaption>{text(panel.caption)}</figcaption></figure>\n'
        )
    yield "</div>\n</article>\n"


def _table(table: Table) -> Iterator[str]:
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in table.head)
    yield f'<details open>\n<summary>{text(table.title)}</summary>\n<div class="wide"><table>\n'
    yield f"<thead><tr>{heads}</tr></thead>\n<tbody>\n"
    for row in table.rows:
        yield f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>\n"
    yield "</tbody>\n</table></div>\n</details>\n"


# The curve's frame, in the units of its picture.
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 430, 12, 210


def _curve(curve: Curve) -> str:
    points = sorted(
        (x, y) for x, y in zip(curve.values, curve.mean_iou, strict=True) if not math.isnan(y)
    )
    # Alphas are powers of 2 or the like.
    scale, back = (math.log, math.exp) if curve.parameter == "alpha" else (float, float)
    first, last = scale(points[0][0]), scale(points[-1][0])
    top = max(0.1, math.ceil(10 * max(y for _, y in points)) / 10)

    def across(x: float) -> float:
        share = (scale(x) - first) / (last - first) if last > first else 0.5
        return _LEFT + (_RIGHT - _LEFT) * share

    def up(y: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * y / top

    parts = []
    for step in range(5):
        x, y = back(first + (last - first) * step / 4), top * step / 4
        parts.append(
            f'<path class="grid" d="M{_LEFT} {up(y):.1f}H{_RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{100 * y:.3g}</text>'
        )
        if last > first or step == 2:
            place = _LEFT + (_RIGHT - _LEFT) * step / 4
            parts.append(
                f'<text x="{place}" y="{_BOTTOM + 17}" text-anchor="middle">{x:.3g}</text>'
            )
    line = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
    parts.append(f'<polyline class="line" points="{line}"/>')
    captions = []
    for number, (name, value) in enumerate(curve.marks):
        x, y = min(points, key=lambda point: abs(point[0] - value))
        parts.append(
            f'<path class="mark{number}" d="M{across(x):.1f} {_TOP}V{_BOTTOM}"/>'
            f'<circle class="mark{number}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="4"/>'
        )
        captions.append(
            f'<svg class="key" viewBox="0 0 12 12" aria-hidden="true">'
            f'<path class="mark{number}" d="M6 0V12"/></svg> '
            f"{text(name)}: {value:.3g}, mIoU {percent(y)}"
        )
    middle, center = (_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2
    parameter = text(curve.parameter)
    return f"""<section>
<h2 id="sweep">mIoU of the maps by {parameter}</h2>
<figure class="curve"><svg viewBox="0 0 440 250" role="img" aria-label="mIoU by {parameter}">
{"".join(parts)}
<text x="{middle}" y="{_BOTTOM + 36}" text-anchor="middle">{parameter}</text>
<text text-anchor="middle" transform="translate(14 {center}) rotate(-90)">mIoU, %</text>
</svg><figcaption>{"<br>".join(captions)}</figcaption></figure>
</section>
"""


_HOW_TO_READ = f"""<p class="policy">Labels and truth have the colours of the table; the background
is dark, {_colour(UNKNOWN)} unknown pixels (255) are gray with lines. In a map, negative values
count as 0 and the maximum has the brightest colour.</p>
"""

_STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --paper: #fff; --card: #f6f8fa; --line: #d0d7de;
  --value: #0969da; --alert: #9a3412; --alert-paper: #fff4ec; --other: #bf3989; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9da7b3; --paper: #0d1117; --card: #161b22; --line: #30363d;
    --value: #4493f8; --alert: #ffb28a; --alert-paper: #2b1a10; --other: #f778ba; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(.75rem, 2vw, 2rem); max-width: 110rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.45 system-ui, sans-serif; }
h1, h2, h3, dd, li, p, figcaption, details td { overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .2rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .75rem; border-bottom: 1px solid var(--line);
  padding-bottom: .3rem; }
h3 { font-size: 1rem; margin: 0; font-family: ui-monospace, monospace; }
dl { margin: 0; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .5rem .9rem; }
.facts dt, .policy, .scores, figcaption, footer, .sources dt { color: var(--soft);
  font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.sources div { display: flex; flex-wrap: wrap; gap: 0 .6rem; }
.sources dt { min-width: 5rem; }
.sources dd { margin: 0; font-family: ui-monospace, monospace; font-size: .85rem; }
.alert { background: var(--alert-paper); color: var(--alert); border-left: 4px solid;
  padding: .4rem .8rem; margin: .75rem 0; }
.alert a { color: inherit; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; vertical-align: top; }
thead th { color: var(--soft); font-weight: normal; border-bottom: 1px solid var(--line); }
tbody th { font-weight: normal; }
tfoot th, tfoot td { border-top: 1px solid var(--line); font-weight: bold; }
.classes { width: 100%; max-width: 60rem; }
.classes th:nth-child(2), .classes td:nth-child(2) { font-variant-numeric: tabular-nums;
  text-align: right; }
.classes tr > :nth-child(-n+2) { width: 1%; white-space: nowrap; }
.classes th[scope=row] { max-width: 40vw; overflow: hidden; text-overflow: ellipsis; }
.bar svg { width: calc(100% - 4.2rem); height: .7rem; vertical-align: baseline; }
.bar span { display: inline-block; width: 4rem; text-align: right;
  font-variant-numeric: tabular-nums; }
.track { fill: var(--line); opacity: .5; }
.value { fill: var(--value); }
.swatch, .key { width: .8em; height: .8em; vertical-align: -.05em; }
.swatch { border: 1px solid var(--soft); border-radius: 2px; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .75rem; margin: 0 0 1rem; break-inside: avoid; }
.scores { margin: 0; font-variant-numeric: tabular-nums; }
.chips { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .3rem 0 .6rem;
  padding: 0; font-size: .85rem; font-variant-numeric: tabular-nums; }
.chips b { font-weight: 600; }
.panels { display: grid; gap: .6rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, max(9.5rem, 15%)), 1fr)); }
figure { margin: 0; }
.panels img { display: block; width: 100%; height: auto; max-height: 24rem; object-fit: contain;
  background: var(--line); border-radius: .25rem; }
.curve { max-width: 42rem; }
.curve svg[role=img] { width: 100%; height: auto; }
.curve text { fill: var(--soft); font-size: 12px; }
.grid { stroke: var(--line); fill: none; }
.line { stroke: var(--value); stroke-width: 2.5; fill: none; }
.mark0 { stroke: var(--ink); fill: var(--ink); stroke-dasharray: 4 3; }
.mark1 { stroke: var(--other); fill: var(--other); stroke-dasharray: 2 3; }
.curve circle { stroke-dasharray: none; }
details { margin-top: 1rem; }
details td { min-width: 7rem; }
details td:first-child { min-width: 11rem; }
summary { cursor: pointer; font-weight: 600; }
footer { margin-top: 2rem; }
@media (max-width: 36rem) {
  .bar svg { display: block; width: 100%; margin-top: .3rem; }
  .bar span { width: auto; }
}
@media print {
  :root { --ink: #000; --soft: #444; --paper: #fff; --card: #fff; --line: #bbb; --value: #0969da;
    --alert: #9a3412; --alert-paper: #fff; --other: #bf3989; }
  body { padding: 0; font-size: 10pt; }
  svg, img { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .panels { grid-template-columns: repeat(auto-fill, minmax(4cm, 1fr)); }
  h2, h3, .scores, .chips { break-after: avoid; }
}
"""
