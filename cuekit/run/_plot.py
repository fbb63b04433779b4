"""A curve as a picture, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

_WIDTH, _HEIGHT = 800, 500
_LEFT, _TOP, _RIGHT, _BOTTOM = 70, 60, 30, 60  # margins
_FINE = 3  # drawn in this size and made smaller, for Pillow's lines have steps
_INK, _PALE, _CURVE, _MARKS = "#333333", "#e4e4e4", "#1f5fa8", ("#c23b22", "#2a7f3f")
_MOST_TICKS = 12


class Mark(NamedTuple):
    """A point of the curve with a text."""

    text: str
    x: float
    y: float


def plot_curve(
    x: Sequence[float],
    y: Sequence[float],
    marks: Sequence[Mark],
    *,
    title: str,
    logarithmic: bool = False,
) -> Image:
    """Draw a curve with marked points; NaN interrupts it."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (_WIDTH * _FINE, _HEIGHT * _FINE), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(15 * _FINE)
    known = [each for each in y if not math.isnan(each)]
    y_ticks = _ticks(min(known), max(known))
    x_ticks = list(x) if len(x) <= _MOST_TICKS else _ticks(x[0], x[-1], inside=True)
    across = _scale(x[0], x[-1], _LEFT, _WIDTH - _RIGHT, math.log if logarithmic else float)
    up = _scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP, float)
    left, right, bottom = _LEFT * _FINE, (_WIDTH - _RIGHT) * _FINE, (_HEIGHT - _BOTTOM) * _FINE

    for tick in y_ticks:
        draw.line([left, up(tick), right, up(tick)], _PALE, _FINE)
        draw.text((left - 10 * _FINE, up(tick)), f"{tick:g}", _INK, font, "rm")
    for tick in x_ticks:
        draw.line([across(tick), bottom, across(tick), bottom + 6 * _FINE], _INK, _FINE)
        draw.text((across(tick), bottom + 12 * _FINE), f"{tick:g}", _INK, font, "mt")
    draw.line([left, bottom, right, bottom], _INK, _FINE)
    draw.text((left, 14 * _FINE), title, _INK, font)

    points: list[tuple[float, float]] = []
    for each in [*zip(x, y, strict=True), (x[-1], math.nan)]:
        if not math.isnan(each[1]):
            points.append((across(each[0]), up(each[1])))
            continue
        if len(points) > 1:
            draw.line(points, _CURVE, 3 * _FINE, joint="curve")
        points = []
    for i, mark in enumerate(marks):
        colour = _MARKS[i % len(_MARKS)]
        place = across(mark.x), up(mark.y)
        draw.line([place[0], place[1], place[0], bottom], colour, 2 * _FINE)
        draw.circle(place, 6 * _FINE, colour)
        line = (right, (14 + 22 * i) * _FINE)
        draw.text(line, mark.text, colour, font, "ra")
    return image.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)


def _scale(
    low: float, high: float, begin: float, end: float, warp: Callable[[float], float]
) -> Callable[[float], float]:
    """Return the function from values to pixels."""
    span = warp(high) - warp(low) or 1.0

    def place(value: float) -> float:
        return _FINE * (begin + (end - begin) * (warp(value) - warp(low)) / span)

    return place


def _ticks(low: float, high: float, inside: bool = False) -> list[float]:
    """Return round numbers, some 5 to 10 of them, from below `low` to above `high`, or inside."""
    span = high - low or 1.0
    step = 10.0 ** math.floor(math.log10(span))
    step = next(step * part for part in (0.1, 0.2, 0.5, 1) if span <= 10 * step * part)
    first, last = low / step, high / step
    begin, end = (
        (math.ceil(first - 1e-9), math.floor(last + 1e-9))
        if inside
        else (math.floor(first), max(math.ceil(last), math.floor(first) + 1))
    )
    return [round(i * step, 12) for i in range(begin, end + 1)]
