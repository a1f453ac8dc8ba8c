"""From files on disk to probabilities, against open_clip written out plainly on the same files and weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from decoded import embedded
from PIL import Image

from zsclip.answers.answers import Prediction
from zsclip.answers.classifier import build_classifier
from zsclip.answers.classify import classify
from zsclip.answers.scores import Rule
from zsclip.models.find import find_model
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.words.labels import Label
from zsclip.words.prompts import read_prompts
from zsclip.words.words import expand

LABELS = ["cat", "red dog", "bird", "the sketch", "green w7"]
SCALE = 100.0  # what the published models have; the untrained ones start at 14, which hides differences


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """100 pictures of coarse colour noise in all shapes, half of them PNG, half JPEG."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for i in range(100):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        size = tuple(int(side) for side in random.integers(10, 300, 2))
        coarse.resize(size).save(folder / f"{i:03d}.{'png' if i % 2 else 'jpg'}")  # type: ignore[arg-type]
    return sorted(folder.iterdir())


def by_open_clip(folder: Path, pictures: list[Path]) -> torch.Tensor:
    """The slow twin: open_clip as its README teaches, one picture at a time."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        text = model.encode_text(tokenizer([f"a photo of a {label}." for label in LABELS]), normalize=True)
        rows = []
        for path in pictures:
            image = model.encode_image(transform(Image.open(path)).unsqueeze(0), normalize=True)
            rows.append((SCALE * image @ text.T).softmax(dim=-1)[0])
    return torch.stack(rows)  # (100, C)


@pytest.mark.parametrize("kind", ["plain", "custom-text", "quick-gelu", "siglip", "resnet"])
def test_probabilities_and_answers_are_open_clips(
    kind: str, tiny_model: Callable[[str], Path], pictures: list[Path]
) -> None:
    expected = by_open_clip(tiny_model(kind), pictures)
    model = LazyTorchEncoder(find_model(str(tiny_model(kind))), "cpu", "fp32")
    words = expand([Label(label) for label in LABELS], read_prompts("photo"))
    classifier = replace(build_classifier(words, model), logit_scale=SCALE)

    batches = embedded(map(str, pictures), model.spec.preprocess, model, 16)
    rows = [row for answers in classify(batches, classifier, Rule(k=len(LABELS))) for row in answers.rows()]

    assert len(rows) == 100
    for row, probabilities in zip(rows, expected, strict=True):
        assert isinstance(row, Prediction)
        ours = {candidate.label: candidate.score for candidate in row.predictions}
        theirs = dict(zip(LABELS, probabilities.tolist(), strict=True))
        assert ours == pytest.approx(theirs, abs=1e-4)
        first, second = sorted(theirs.values(), reverse=True)[:2]
        if first - second > 1e-4:
            assert row.label == max(theirs, key=theirs.__getitem__)
    assert expected.std(dim=0).max() > 1e-3  # the pictures are not all the same to this model
