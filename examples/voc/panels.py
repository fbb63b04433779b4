"""Draws label maps of every stage, one row per photo, and bars of the figures of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HEIGHT, GAP, HEADER = 160, 6, 26  # pixels
OPACITY = 0.65
BAR, NAME, SCALE = 15, 150, 8  # pixels: height of a bar, width of the names, and per percent
BAR_COLORS = ("#a8c5e8", "#f2b46d", "#c0562a")


def overlay(photo: Image.Image, labels: Path) -> Image.Image:
    """Blend a label map in VOC's colours over a photo; background is black, unknown is pale."""
    with Image.open(labels) as file:
        colors = file.convert("RGB").resize(photo.size, Image.Resampling.NEAREST)
    return Image.blend(photo, colors, OPACITY)


def draw(photos: Sequence[Image.Image], columns: dict[str, Sequence[Path]], path: Path) -> None:
    """Write a picture of the photos and, beside each photo, one label map per column."""
    rows = []
    for n, photo in enumerate(photos):
        small = photo.resize((round(photo.width * HEIGHT / photo.height), HEIGHT))
        rows.append([small, *(overlay(small, files[n]) for files in columns.values())])
    width = max(row[0].width for row in rows)
    sheet = Image.new(
        "RGB",
        ((width + GAP) * (len(columns) + 1) + GAP, HEADER + (HEIGHT + GAP) * len(rows)),
        "white",
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, title in enumerate(["photo", *columns]):
        left = GAP + column * (width + GAP)
        pen.text((left + width / 2, HEADER / 2), title, fill="black", font=font, anchor="mm")
        for n, row in enumerate(rows):
            corner = (left + (width - row[column].width) // 2, HEADER + n * (HEIGHT + GAP))
            sheet.paste(row[column], corner)
    sheet.save(path)


def draw_bars(series: Sequence[str], rows: dict[str, Sequence[float]], path: Path) -> None:
    """Write a picture of horizontal bars: one of each series per row, in percent; NaN has none."""
    high = BAR * len(series) + 2 * GAP
    largest = max((x for values in rows.values() for x in values if x == x), default=0)
    size = (int(NAME + SCALE * largest + 60), HEADER + high * len(rows) + GAP)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    left = GAP
    for name, color in zip(series, BAR_COLORS, strict=False):
        pen.rectangle((left, 8, left + 12, 20), fill=color)
        pen.text((left + 17, 14), name, fill="black", font=font, anchor="lm")
        left += 35 + int(font.getlength(name))
    for n, (row, values) in enumerate(rows.items()):
        top = HEADER + n * high + GAP
        pen.text((NAME - GAP, top + high / 2 - GAP), row, fill="black", font=font, anchor="rm")
        for k, (value, color) in enumerate(zip(values, BAR_COLORS, strict=False)):
            if value == value:
                y, right = top + k * BAR, NAME + SCALE * value
                pen.rectangle((NAME, y, right, y + BAR - 2), fill=color)
                pen.text(
                    (right + 4, y + BAR / 2 - 1),
                    f"{value:.1f}",
                    fill="black",
                    font=font,
                    anchor="lm",
                )
    sheet.save(path)
