"""The pictures of `view`: a photo, and its labels and maps laid over it, as small images."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit.io.labels import palette

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image

    Picture = NDArray[np.uint8]  # (h, w, 3)

UNKNOWN = 255
COLOURS = np.array(palette(), np.uint8).reshape(256, 3)

# The longest side of a panel on the page and on the contact sheet, in pixels.
_PAGE_SIDE = 384
_SHEET_SIDE = 224
_GAP = 12
_LINE = 22
_JPEG_QUALITY = 80  # about 20 kB for a panel

_TINT = 0.55  # the share of a class's colour
_DIMMED = 0.35  # what is left of the photo under the background
_HATCH = 8  # distance between the lines over unknown pixels
# Colours of a map's values 0, 1/4, ... 1: ever brighter, so that they are in order in gray, too.
_HEAT = np.array(
    [(10, 10, 50), (95, 20, 125), (205, 50, 85), (250, 145, 35), (255, 250, 170)], np.float64
)
_HEAT_SHARE = 0.65


@dataclass(frozen=True)
class Panel:
    """One picture of a photo.

    Attributes
    ----------
    caption : str
        The words under it.
    alt : str
        The words in its place, for who cannot see it.
    picture : (h, w, 3) array of uint8
    """

    caption: str
    alt: str
    picture: Picture


def thumbnail(photo: Picture) -> Picture:
    """Return a photo (H, W, 3) at the size of a panel; small photos are left as they are."""
    from PIL import Image

    image = Image.fromarray(photo)
    image.thumbnail((_PAGE_SIDE, _PAGE_SIDE), Image.Resampling.LANCZOS)
    return np.array(image)


def draw_labels(small: Picture, labels: NDArray[np.uint8]) -> Picture:
    """Lay a label map (H, W) over a thumbnail (h, w, 3).

    Classes are tinted and outlined in their colours, the background is dark, unknown pixels are
    gray with lines.
    """
    shown = _resized(labels, small, nearest=True)
    picture = (1 - _TINT) * small + _TINT * COLOURS[shown]
    background, unknown = shown == 0, shown == UNKNOWN
    picture[background] = _DIMMED * small[background]
    y, x = np.indices(shown.shape)
    gray = 90 + 0.45 * small.mean(-1)
    gray[(x + y) % _HATCH < 2] = 235
    picture[unknown] = gray[unknown, None]
    # A line of the class's colour within the region, and a white one around it: together they are
    # seen on any photo.
    outside = background | unknown
    border = _borders(np.where(outside, np.uint8(0), shown))
    picture[border] = 255
    line = _widened(border) & ~outside
    picture[line] = COLOURS[shown[line]]
    return _uint8(picture)


def draw_heat(small: Picture, values: NDArray[Any]) -> Picture:
    """Lay a map (H, W) over a gray thumbnail (h, w, 3); its maximum is the brightest colour."""
    heat = np.maximum(values.astype(np.float64), 0)
    heat /= heat.max() or 1
    level = _resized(heat.astype(np.float32), small) * (len(_HEAT) - 1)
    steps = np.arange(len(_HEAT))
    colours = np.stack([np.interp(level, steps, channel) for channel in _HEAT.T], axis=-1)
    gray = small.mean(-1, keepdims=True)
    return _uint8((1 - _HEAT_SHARE) * gray + _HEAT_SHARE * colours)


def draw_superpixels(small: Picture, superpixels: NDArray[Any]) -> Picture:
    """Draw the borders of superpixels (H, W) on a thumbnail (h, w, 3)."""
    shown = _resized(superpixels.astype(np.int32), small, nearest=True)
    picture = small.copy()
    picture[:, 1:][shown[:, 1:] != shown[:, :-1]] = (255, 240, 0)
    picture[1:][shown[1:] != shown[:-1]] = (255, 240, 0)
    return picture


def data_uri(picture: Picture) -> str:
    """Return a picture as the address of an image that is part of the page."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


class ContactSheet:
    """A picture of many panels, one row of them for each photo, with a legend.

    Parameters
    ----------
    title : str
        The first line.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._rows: list[tuple[str, list[tuple[str, Image.Image]]]] = []

    def add(self, title: str, panels: Sequence[Panel]) -> None:
        """Add the panels of a photo. Only small copies of them are kept."""
        from PIL import Image

        small = [(panel.caption, Image.fromarray(panel.picture)) for panel in panels]
        for _, image in small:
            image.thumbnail((_SHEET_SIDE, _SHEET_SIDE))
        self._rows.append((title, small))

    def draw(self, legend: Sequence[tuple[int, str]]) -> Image.Image:
        """Return the picture; `legend` has class ids and names."""
        from PIL import Image, ImageDraw

        columns = max([len(images) for _, images in self._rows] + [3])
        width = _GAP + columns * (_SHEET_SIDE + _GAP)
        font, small = _font(15), _font(12)
        labels = [(class_id, _fitted(name, font, width - 3 * _LINE)) for class_id, name in legend]
        places, x, y = [], _GAP, 0
        for class_id, name in labels:
            step = _LINE + int(font.getlength(name)) + _GAP
            if x + step > width and x > _GAP:
                x, y = _GAP, y + _LINE
            places.append((x, y, class_id, name))
            x += step
        heights = [
            2 * _LINE + max((image.height for _, image in images), default=0)
            for _, images in self._rows
        ]
        top = 2 * _LINE
        height = top + y + 2 * _LINE + sum(heights) + _GAP * len(heights)
        sheet = Image.new("RGB", (width, height), "white")
        pen = ImageDraw.Draw(sheet)
        pen.text((_GAP, _GAP), _fitted(self._title, font, width - 2 * _GAP), "black", font)
        for x, y, class_id, name in places:
            box = (x, top + y + 2, x + _LINE - 8, top + y + _LINE - 6)
            colour = "lightgray" if class_id == UNKNOWN else tuple(COLOURS[class_id].tolist())
            pen.rectangle(box, colour, "black")
            pen.text((x + _LINE - 2, top + y), name, "black", font)
        top = height - sum(heights) - _GAP * len(heights)
        for (title, images), row in zip(self._rows, heights, strict=True):
            pen.text((_GAP, top), _fitted(title, font, width - 2 * _GAP), "black", font)
            for column, (caption, image) in enumerate(images):
                x = _GAP + column * (_SHEET_SIDE + _GAP)
                sheet.paste(image, (x, top + _LINE))
                place = (x, top + _LINE + image.height + 1)
                pen.text(place, _fitted(caption, small, _SHEET_SIDE), "black", small)
            top += row + _GAP
        return sheet


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)  # it comes with Pillow


def _fitted(text: str, font: Any, width: int) -> str:
    """Cut a text to a width in pixels."""
    text = printable(text[:300])  # more never fits
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def printable(text: str) -> str:
    """Replace characters that do not print, or that turn the text after them round."""
    return "".join(
        each if each.isprintable() else " " if each.isspace() else "\N{REPLACEMENT CHARACTER}"
        for each in text
    )


def swatch(class_id: int) -> str:
    """Return the colour of a class as `#rrggbb`."""
    red, green, blue = COLOURS[class_id].tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"


def _resized(array: NDArray[Any], small: Picture, *, nearest: bool = False) -> NDArray[Any]:
    """Resize (H, W) to the size of a thumbnail; means are taken where it is smaller."""
    from PIL import Image

    rule = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(array).resize((small.shape[1], small.shape[0]), rule))


def _borders(shown: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels whose left, right, upper or lower neighbour has another label."""
    border = np.zeros(shown.shape, np.bool_)
    across, down = shown[:, 1:] != shown[:, :-1], shown[1:] != shown[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border


def _widened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from PIL import Image, ImageFilter

    return np.array(Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(3))) > 0


def _uint8(picture: NDArray[Any]) -> Picture:
    result: Picture = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return result
