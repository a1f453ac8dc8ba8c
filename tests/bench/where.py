"""How often `zsclip where` points at the right picture of four: `python tests/bench/where.py DIR`.

DIR/photos holds one folder of pictures a label. Four with different labels make a collage, and each label is asked
for, once alone and once among the four. Counted is whether the highest value lies in its quarter, whether the centre of
what is over half of that does, and whether the box covers the quarter by half of their union. Chance is 25%.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from zsclip.answers.classifier import build_classifier
from zsclip.answers.scores import Matrix
from zsclip.answers.where import Box, Where, enlarged, where
from zsclip.models.find import find_model
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.models.patches import encode_patches
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.limits import DEFAULT_DECODING
from zsclip.pixels.view import View, read_view
from zsclip.words.labels import Label
from zsclip.words.prompts import read_prompts
from zsclip.words.words import expand

SIDE = 224  # pixels of each of the four


def part(path: Path) -> Image.Image:
    """Cut the middle of a picture to a square."""
    with Image.open(path) as photo:
        side = min(photo.size)
        left, top = (photo.width - side) // 2, (photo.height - side) // 2
        square = photo.convert("RGB").crop((left, top, left + side, top + side))
        return square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def collage(paths: list[Path]) -> bytes:
    """Put four pictures together; a PNG file."""
    sheet, file = Image.new("RGB", (2 * SIDE, 2 * SIDE)), io.BytesIO()
    for place, path in enumerate(paths):
        sheet.paste(part(path), (place % 2 * SIDE, place // 2 * SIDE))
    sheet.save(file, "PNG")
    return file.getvalue()


def viewed(data: bytes, encoder: LazyTorchEncoder) -> View:
    """Decode a picture as the command does."""
    view = read_view(Pictures([""], read=lambda place: data), 0, encoder.spec.preprocess, DEFAULT_DECODING)
    assert isinstance(view, View), view
    return view


def looked(view: View, labels: list[str], encoder: LazyTorchEncoder) -> Where:
    """Do what the command does with one picture."""
    words = expand([Label(label) for label in labels], read_prompts("photo"))
    classifier = build_classifier(words, encoder, multi_label=len(labels) == 1)
    (found,) = where(encode_patches(encoder.model, [view.pixels]), [""], [view.area], classifier)
    return found


def judged(heat: Matrix, box: Box | None, quarter: int) -> tuple[bool, bool, bool]:
    """Say whether maximum, centre and box of a label are in its quarter."""
    fine = enlarged(heat, 8)
    high = np.where(fine >= fine.max() / 2, fine, 0)
    highest = np.array(np.unravel_index(fine.argmax(), fine.shape), float)
    centre = np.array([high.sum(axis=1 - axis) @ np.arange(fine.shape[axis]) for axis in (0, 1)]) / high.sum()
    half = (np.array(fine.shape) - 1) / 2
    quarters = [int((point > half) @ (2, 1)) for point in (highest, centre)]
    return quarters[0] == quarter, quarters[1] == quarter, box is not None and overlap(box, quarter) > 0.5


def overlap(box: Box, quarter: int) -> float:
    """Give the intersection of a box and a quarter over their union."""
    left, top = quarter % 2 * SIDE, quarter // 2 * SIDE
    width = max(0, min(box[2], left + SIDE) - max(box[0], left))
    height = max(0, min(box[3], top + SIDE) - max(box[1], top))
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]) + SIDE**2 - width * height)


def main() -> None:
    """Print a table: the label alone, and among those of the collage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--collages", type=int, default=100)
    arguments = parser.parse_args()
    encoder = LazyTorchEncoder(find_model(arguments.model, offline=True), "cpu", "fp32")
    folders = sorted(path for path in (arguments.data / "photos").iterdir() if path.is_dir())
    random = np.random.default_rng(0)
    results: dict[str, list[tuple[bool, bool, bool]]] = {"the label alone": [], "all four labels": []}
    for _ in range(arguments.collages):
        four = [folders[place] for place in random.permutation(len(folders))[:4]]
        data, labels = collage([sorted(folder.iterdir())[0] for folder in four]), [folder.name for folder in four]
        view = viewed(data, encoder)
        for name, asked in (("the label alone", [[label] for label in labels]), ("all four labels", [labels])):
            for some in asked:
                found = looked(view, some, encoder)
                for label, heat, box in zip(found.labels, found.heats, found.boxes, strict=True):
                    results[name].append(judged(heat, box, labels.index(label)))
    print(f"| {arguments.model}, {arguments.collages} collages | maximum | centre | box |\n|---|---|---|---|")
    for name, each in results.items():
        print(f"| {name} | " + " | ".join(f"{share:.1%}" for share in np.mean(each, axis=0)) + " |")


if __name__ == "__main__":
    main()
