"""Makes a picture small: with 256 colours it takes a third of the bytes."""

from typing import Any

from PIL import Image

EXACT = 128
"""How many of the most common colours stay as they are; Pillow alone changes them, and grounds then look different."""


def reduce_colors(image: Image.Image) -> Image.Image:
    counted: Any = image.getcolors(1 << 24)
    found = [color for _, color in sorted(counted, reverse=True)]
    covering: Any = image.quantize(256 - EXACT, Image.Quantize.MAXCOVERAGE).getpalette()
    palette = found[:EXACT] + list(zip(*[iter(covering)] * 3, strict=True))
    nearest = {color: _find_nearest(color, palette) for color in found}
    reduced = Image.new("P", image.size)
    reduced.putpalette([part for color in palette for part in color])
    pixels: Any = image.get_flattened_data()
    reduced.putdata([nearest[pixel] for pixel in pixels])
    return reduced


def _find_nearest(color: tuple[int, ...], palette: list[tuple[int, ...]]) -> int:
    def distance(index: int) -> int:
        return sum((one - other) ** 2 for one, other in zip(color, palette[index], strict=True))

    return min(range(len(palette)), key=distance)
