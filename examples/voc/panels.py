"""Draws label maps of every stage: one row per photo, one column per stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HEIGHT, GAP, HEADER = 160, 6, 26  # pixels
OPACITY = 0.65


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
