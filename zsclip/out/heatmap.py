"""Where labels are seen -> a picture: the photograph once for each label, with what speaks for the label in colour."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from zsclip.answers.where import Box, Where
from zsclip.out.fonts import Font
from zsclip.out.text import without_surrogates
from zsclip.pixels.view import View

MOST_PANELS = 12  # the best labels; the rest have rows only
_WIDE = 1600  # pixels of all panels together, at most
_GAP, _LINE = 6, 22  # pixels
_LEAST = 160  # pixels of the longer side of a panel, and for its caption, so that icons and strips can be read, too
# From nothing to the maximum: the colour, and how much of it covers the photograph.
_HEAT = np.linspace(0, 1, 5)
_COLOURS = np.array([(60, 20, 140), (150, 30, 130), (230, 60, 40), (250, 150, 20), (255, 240, 90)])
_COVER = np.array([0.0, 0.45, 0.6, 0.65, 0.7])
_UNSEEN = 0.35  # what is left of the colours outside the part that the model sees


def heatmap(view: View, where: Where, *, with_boxes: bool = False) -> Image.Image:
    """Draw the best labels beside each other, all on one scale: a label that is hardly seen stays pale.

    What the model does not see is greyed.

    Args:
        with_boxes: whether to draw the box of each label, too.
    """
    shown = range(min(len(where.labels), MOST_PANELS))
    columns = math.ceil(math.sqrt(len(shown)))
    picture = view.image.copy()
    picture.thumbnail((_WIDE // columns, _WIDE // columns))
    factor = -(-_LEAST // max(picture.size))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    room = max(picture.width, _LEAST)
    greyed = _greyed(np.asarray(picture, np.float32), where)
    width, height = room + _GAP, picture.height + _LINE + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, -(-len(shown) // columns) * height + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), Font(15)
    most = max(float(where.heats.max()), 1e-12)
    for place in shown:
        left, top = _GAP + place % columns * width, _GAP + place // columns * height
        panel = _coloured(greyed, where, place, most)
        if with_boxes and (box := where.boxes[place]) is not None:
            _outline(panel, box, where)
        sheet.paste(panel, (left, top))
        caption = f"{where.scores[place]:.3f} {without_surrogates(where.labels[place])}"
        font.draw(draw, (left, top + picture.height + 2), font.cut_to(room, caption), "black")
    return sheet


def _greyed(photo: NDArray[np.float32], where: Where) -> NDArray[np.float32]:
    """Take the colours from what the model does not see. (H, W, 3) float32"""
    height, width = photo.shape[:2]
    x, y = width / where.area.size[0], height / where.area.size[1]
    left, top, right, bottom = where.area.crop
    seen = np.zeros((height, width, 1), bool)
    seen[round(top * y) : round(bottom * y), round(left * x) : round(right * x)] = True
    grey = photo.mean(axis=2, keepdims=True) * _UNSEEN + 255 * (1 - _UNSEEN)
    return np.where(seen, photo, grey)


def _coloured(photo: NDArray[np.float32], where: Where, place: int, most: float) -> Image.Image:
    """Lay the heat of one label over the photograph."""
    height, width = photo.shape[:2]
    left, top, right, bottom = where.area.seen
    x, y = width / where.area.size[0], height / where.area.size[1]
    size = max(1, round((right - left) * x)), max(1, round((bottom - top) * y))
    over = Image.fromarray(np.ascontiguousarray(where.heats[place] / np.float32(most)))
    heat = Image.new("F", (width, height))
    heat.paste(over.resize(size, Image.Resampling.BILINEAR), (round(left * x), round(top * y)))
    strength = np.asarray(heat)[..., None]  # (H, W, 1)
    cover = np.interp(strength, _HEAT, _COVER)
    colours = np.concatenate([np.interp(strength, _HEAT, band) for band in _COLOURS.T], axis=2)
    return Image.fromarray((photo * (1 - cover) + colours * cover).round().clip(0, 255).astype(np.uint8))


def _outline(panel: Image.Image, box: Box, where: Where) -> None:
    x, y = panel.width / where.area.size[0], panel.height / where.area.size[1]
    corners = (box[0] * x, box[1] * y, max(box[2] * x - 1, box[0] * x), max(box[3] * y - 1, box[1] * y))
    draw = ImageDraw.Draw(panel)
    draw.rectangle(corners, outline="black", width=4)
    draw.rectangle(corners, outline="white", width=2)
