"""Embeddings kept for a locked image tower: those of the model in use, computed once, and never believed blindly."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from zsclip.models.find import find_model
from zsclip.training.features import FEATURES_FILE, build_features
from zsclip.training.log import EncodingProgress
from zsclip.training.pairs import read_pairs

COUNT = 70  # more than two batches of the CPU


class Killed(BaseException):
    """Stands for a power cut."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """70 pictures of coarse noise of many shapes in a list; one is damaged, and one has no words."""
    random = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(COUNT):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((30 + number, 60)).save(folder / f"{number:02d}.png")
    (folder / "07.png").write_bytes(b"nonsense")
    rows = [f"{number:02d}.png,{'' if number == 50 else 'dog' if number % 2 else 'cat'}" for number in range(COUNT)]
    (folder / "list.csv").write_text("\n".join(["file_name,label", *rows]) + "\n")
    return folder


class Built:
    """What `build_features` gives and tells."""

    def __init__(
        self,
        data: Path,
        model: Path,
        *,
        stop_at: int | None = None,
        stop: type[BaseException] = Killed,
        checkpoint_seconds: float = 180,
    ) -> None:
        self.done: list[int] = []
        self.notes: list[str] = []

        def progress(event: EncodingProgress) -> None:
            self.done.append(event.done)
            if event.done == stop_at:
                raise stop

        pairs = read_pairs([str(data / "list.csv")], note=lambda note: None)
        pairs.note = self.notes.append
        self.rows = build_features(
            pairs, find_model(str(model)), data / FEATURES_FILE, device="cpu", precision="fp32", threads=2,
            progress=progress, note=self.notes.append,
            checkpoint_seconds=checkpoint_seconds,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["plain", "resnet", "timm", "siglip"])
def test_features_are_those_of_open_clip_one_picture_at_a_time(
    data: Path, tiny_model: Callable[[str], Path], kind: str
) -> None:
    if kind == "siglip":
        pytest.importorskip("transformers")
    built = Built(data, tiny_model(kind))
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_model(kind)}")
    model.eval()

    assert built.rows.dtype == np.float32
    assert built.done == [32, 64, COUNT - 1]
    for number in range(COUNT):
        if number in (7, 50):
            assert np.isnan(built.rows[number]).all()
            continue
        with torch.no_grad(), Image.open(data / f"{number:02d}.png") as image:
            expected = model.encode_image(transform(image).unsqueeze(0), normalize=True)[0]
        np.testing.assert_allclose(built.rows[number], expected.numpy(), atol=1e-5)


def test_features_are_kept_and_a_damaged_picture_is_noted_once(data: Path, tiny_model: Callable[[str], Path]) -> None:
    first = Built(data, tiny_model("plain"))
    before = (data / FEATURES_FILE).stat().st_mtime_ns
    again = Built(data, tiny_model("plain"))

    assert len(first.notes) == 1
    assert "07.png: image skipped: " in first.notes[0]
    assert again.done == []
    assert again.notes == [f"{data / FEATURES_FILE}: unreadable images left out: 1; delete the file to try them again"]
    np.testing.assert_array_equal(again.rows, first.rows)
    assert (data / FEATURES_FILE).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("checkpoint_seconds", "stop", "kept"), [(0, Killed, 32), (3600, Killed, 0), (3600, KeyboardInterrupt, 32)]
)
def test_a_run_that_was_stopped_goes_on_where_it_was(
    data: Path, tiny_model: Callable[[str], Path], checkpoint_seconds: float, stop: type, kept: int
) -> None:
    whole = Built(data, tiny_model("plain"))
    (data / FEATURES_FILE).unlink()
    with pytest.raises(stop):
        Built(data, tiny_model("plain"), stop_at=32, stop=stop, checkpoint_seconds=checkpoint_seconds)

    rest = Built(data, tiny_model("plain"))

    assert rest.done == [done for done in (32, 64, COUNT - 1) if done > kept]
    np.testing.assert_array_equal(rest.rows, whole.rows)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def lie_about_the_rows(path: Path) -> None:
    """Keep what is written about the rows, and double them."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({"embeddings": 2 * load_file(path)["embeddings"]}, path, metadata)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        lie_about_the_rows,
        lambda path: path.write_bytes(path.read_bytes()[:-50]),
        lambda path: path.write_bytes(b""),
        lambda path: save_file({"embeddings": torch.zeros(70, 32)}, path),
    ],
)
def test_damaged_features_are_built_again(
    data: Path, tiny_model: Callable[[str], Path], damage: Callable[[Path], None]
) -> None:
    whole = Built(data, tiny_model("plain"))
    damage(data / FEATURES_FILE)

    again = Built(data, tiny_model("plain"))

    assert again.done == whole.done
    np.testing.assert_array_equal(again.rows, whole.rows)


def test_features_of_other_pictures_or_of_another_model_are_built_again(
    data: Path, tiny_model: Callable[[str], Path]
) -> None:
    first = Built(data, tiny_model("plain"))
    other = Built(data, tiny_model("custom-text"))
    assert other.done == first.done
    assert not np.allclose(other.rows[0], first.rows[0])

    (data / "00.png").write_bytes((data / "01.png").read_bytes())
    changed = Built(data, tiny_model("custom-text"))
    assert changed.done == first.done
    np.testing.assert_allclose(changed.rows[0], changed.rows[1], atol=1e-6)

    os.utime(data / "00.png", (1, 1))
    assert Built(data, tiny_model("custom-text")).done == first.done
