"""Letters drawn on the spot: the data set that needs no files."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metriczoo._checks import check_count
from metriczoo.data._base import LabelledImages, check_split
from metriczoo.data._letters import FACES, TEST_LETTERS, TRAIN_LETTERS

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

__all__ = ["Glyphs"]

_SIDE = 28
_EM = 20
_OVERSAMPLING = 2
# The distortion makes raw pixels fail (Recall@1 .38 on the test letters) while a small network still learns to see through it.
_ROTATION, _SHEAR, _SCALE, _SHIFT = 0.25, 0.2, (0.85, 1.15), 1.5


class Glyphs(LabelledImages):
    """Letters of the world's scripts in the typefaces that come with matplotlib, 28 × 28 pixels, each distorted at random.

    A class is a letter, an instance a typeface: 8 to 16 of DejaVu Sans, Sans Mono and Serif and STIX General.
    The letters for training are 200 of the Latin script (3,003 images), for testing 200 of the Cyrillic, Armenian and Georgian ones
    (2,524 images).
    Letters that look alike, within a split or across (Latin `A` and Cyrillic `А`), are left out.
    Each image is turned, sheared, scaled and shifted at random, by a generator of its own (seed, letter, typeface): letters and
    distortions are the same on every machine, and grey values up to the version of FreeType. Rendered images are kept in memory.

    Args:
        split: `"train"`, `"test"` or `"all"`.
        transform: applied to each image, a Pillow image of mode `L`, ink 255 on 0.
        train_classes: instead of the split by script: this many of the 400 letters, by code point, train, the rest test.
        seed: seed of the distortion, >= 0.

    Attributes:
        images: all images, uint8 array `[n, 28, 28]`, read-only.

    Raises:
        ImportError: matplotlib or Pillow is not installed.
        FileNotFoundError: matplotlib is installed without its typefaces.

    Example:
        >>> test = Glyphs("test")
        >>> test, test.class_names[:3], test.images.shape
        (Glyphs(split='test', images=2524, classes=200), ['Ђ', 'Ѓ', 'Ї'], (2524, 28, 28))
    """

    def __init__(
        self,
        split: str = "train",
        *,
        transform: Callable[[Image], Any] | None = None,
        train_classes: int | None = None,
        seed: int = 0,
    ) -> None:
        check_split(split)
        letters = TRAIN_LETTERS + TEST_LETTERS
        if train_classes is None and split != "all":
            letters = TRAIN_LETTERS if split == "train" else TEST_LETTERS
        code_points, images = _render(letters, check_count("seed", seed, low=0))
        super().__init__(
            code_points,
            {ord(letter): letter for letter in letters},
            split=split,
            train_ids=set(map(ord, TRAIN_LETTERS)),
            train_classes=train_classes,
            transform=transform,
        )
        self.images = images[self._rows]
        self.images.flags.writeable = False

    def _image(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(self.images[index])


@lru_cache(maxsize=8)
def _render(letters: str, seed: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Code point and image of each letter in each typeface that has it."""
    faces = _load_faces()
    code_points, images = [], []
    for letter in letters:
        for number, (font, covered) in enumerate(faces):
            if ord(letter) in covered:
                code_points.append(ord(letter))
                images.append(_distort(_draw(letter, font), np.random.default_rng([seed, ord(letter), number])))
    return np.array(code_points, dtype=np.int64), np.stack(images)


def _load_faces() -> list[tuple[FreeTypeFont, set[int]]]:
    """Each typeface with the code points it covers."""
    try:
        import matplotlib
        from matplotlib.ft2font import FT2Font
        from PIL import ImageFont
    except ImportError as error:
        raise ImportError(f"Glyphs needs matplotlib and Pillow; `pip install metriczoo[bench]` brings them: {error}") from error
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paths = [folder / f"{face}.ttf" for face in FACES]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"No {', '.join(absent)} in {folder}: this matplotlib came without its typefaces; reinstall it with pip.")
    # The basic layout, since the other one depends on a library that not every build of Pillow has.
    load = ImageFont.truetype
    layout = ImageFont.Layout.BASIC
    return [(load(str(path), _EM * _OVERSAMPLING, layout_engine=layout), set(FT2Font(str(path)).get_charmap())) for path in paths]


def _draw(letter: str, font: FreeTypeFont) -> Image:
    """The letter, white on black, cut to its ink."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = map(int, font.getbbox(letter))
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), letter, fill=255, font=font)
    return image


def _distort(image: Image, generator: np.random.Generator) -> NDArray[np.uint8]:
    """`image` in the middle of a square, after a random affine map."""
    from PIL import Image

    angle, shear = generator.uniform(-_ROTATION, _ROTATION), generator.uniform(-_SHEAR, _SHEAR)
    scale, shift = generator.uniform(*_SCALE, 2), generator.uniform(-_SHIFT, _SHIFT, 2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = np.linalg.inv(
        rotation @ np.array([[scale[0], shear * scale[1]], [0.0, scale[1]]])
    )  # Pillow maps the result back to its source
    origin = np.array(image.size) / 2 - inverse @ ((_SIDE / 2 + shift) * _OVERSAMPLING)
    coefficients = (*inverse[0], origin[0], *inverse[1], origin[1])
    side = _SIDE * _OVERSAMPLING
    square = image.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(square.reduce(_OVERSAMPLING))
