"""Pictures and lines of text on a dark sheet, drawn with PIL; see `look`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .frame import Array

if TYPE_CHECKING:
    import PIL.Image
    import PIL.ImageFont

_BACKGROUND, _EMPTY = (32, 33, 36), (48, 49, 54)
BRIGHT, DIM, WARNING = (232, 234, 237), (160, 165, 172), (242, 201, 76)
MARGIN_PX, GAP_PX = 16, 12
_LINE_PX, _TEXT_PX = 19, 14


class Line(NamedTuple):
    """One line of a caption; it is wrapped where it is too long."""

    text: str
    colour: tuple[int, int, int] = DIM


def fitted(pixels: Array, side: int) -> PIL.Image.Image:
    """Enlarged by a whole number, or reduced, to fit a square; aspect kept."""
    from PIL import Image

    height, width = pixels.shape[:2]
    if max(height, width) <= side:
        return enlarged(pixels, side // max(height, width))
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.LANCZOS)


def enlarged(pixels: Array, times: int) -> PIL.Image.Image:
    """(H, W, 3) uint8 with every pixel `times` as wide and as high."""
    from PIL import Image

    return Image.fromarray(pixels.repeat(times, axis=0).repeat(times, axis=1))


def captioned(image: PIL.Image.Image, side: int, lines: Sequence[Line]) -> PIL.Image.Image:
    """The image in the middle of a square, with its caption below."""
    from PIL import Image

    box = Image.new("RGB", (side, side), _EMPTY)
    box.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    caption = text_block(lines, side)
    whole = Image.new("RGB", (side, side + GAP_PX // 2 + caption.height), _BACKGROUND)
    whole.paste(box, (0, 0))
    whole.paste(caption, (0, side + GAP_PX // 2))
    return whole


def side_by_side(parts: Sequence[PIL.Image.Image]) -> PIL.Image.Image:
    """Parts in a row, aligned at the top, on the background."""
    from PIL import Image

    width = sum(part.width for part in parts) + GAP_PX * (len(parts) - 1)
    row = Image.new("RGB", (width, max(part.height for part in parts)), _BACKGROUND)
    left = 0
    for part in parts:
        row.paste(part, (left, 0))
        left += part.width + GAP_PX
    return row


def text_block(lines: Sequence[Line], width: int) -> PIL.Image.Image:
    """Lines of text wrapped to `width` pixels; empty ones are left out."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_TEXT_PX)
    wrapped = [Line(text, line.colour) for line in lines if line.text for text in _wrapped(line.text, font, width)]
    block = Image.new("RGB", (width, max(1, len(wrapped) * _LINE_PX)), _BACKGROUND)
    draw = ImageDraw.Draw(block)
    for i, line in enumerate(wrapped):
        draw.text((0, i * _LINE_PX), line.text, fill=line.colour, font=font)
    return block


def _wrapped(text: str, font: PIL.ImageFont.ImageFont | PIL.ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines that fit `width` pixels, broken between words, or inside a word that is too long by itself."""
    printable = "".join(c if c.isprintable() else "?" for c in text)
    lines = [""]
    for word in printable.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def stacked(parts: Sequence[PIL.Image.Image]) -> PIL.Image.Image:
    """Parts above one another, aligned at the left, on the background."""
    from PIL import Image

    height = sum(part.height for part in parts) + GAP_PX * (len(parts) - 1)
    sheet = Image.new("RGB", (max(part.width for part in parts), height), _BACKGROUND)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height + GAP_PX
    return sheet


def save_png(sheet: PIL.Image.Image, out: Path) -> None:
    """Add a margin and write the file whole, with nothing in it but pixels.

    Raises:
        OSError: the file cannot be written.
    """
    from PIL import ImageOps

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    try:
        ImageOps.expand(sheet, MARGIN_PX, _BACKGROUND).save(partial, "PNG")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
