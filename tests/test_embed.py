"""Pictures are encoded once: by what the model was asked, and by rows that equal those without a store."""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import ColourModel, preprocess_for
from decoded import one_by_one
from PIL import Image

from zsclip.errors import ModelError
from zsclip.kept.store import EmbeddingStore, Stored
from zsclip.models import embed
from zsclip.models.embed import Embedded, embed_images, look_ahead
from zsclip.pictures import identity
from zsclip.pictures.identity import file_keys
from zsclip.pictures.pictures import Pictures
from zsclip.pixels import workers
from zsclip.pixels.limits import Decoding
from zsclip.pixels.skipped import Skipped


class Encoder:
    """Counts what it is asked to encode."""

    embed_dim = 3
    in_flight = 0
    is_as_remembered = True

    def __init__(self) -> None:
        self.model = ColourModel()
        self.asked = 0

    def begin_images(self, pixels: Sequence[np.ndarray]) -> Callable[[], np.ndarray]:
        self.asked += len(pixels)
        return self.model.begin_images(pixels)


@contextmanager
def opened(recipe: str = "r", max_pixels: int = 10**6) -> Iterator[EmbeddingStore]:
    with closing(EmbeddingStore(recipe, "colours", 3, max_pixels=max_pixels)) as store:
        yield store


def run(
    paths: list[Path], encoder: Encoder, store: EmbeddingStore | None, batch_size: int = 4, max_pixels: int = 10**6
) -> list[tuple[str | Skipped, list[float] | None]]:
    """Every row with its embedding."""
    decoding = Decoding(max_pixels)
    files = [Pictures(list(map(str, paths)))]
    with look_ahead(files, preprocess_for(8), decoding, store, batch_size=None, threads=2) as ahead:
        batches: list[Embedded] = list(embed_images(ahead.batches(batch_size), encoder, store))  # type: ignore[arg-type]
    rows: list[tuple[str | Skipped, list[float] | None]] = []
    for batch in batches:
        vectors = dict(zip(batch.places.tolist(), batch.vectors.tolist(), strict=True))
        assert sorted([*vectors, *batch.skipped]) == list(range(len(batch)))
        rows += [(batch.skipped.get(i, name), vectors.get(i)) for i, name in enumerate(batch.names)]
    return rows


def found_in(store: EmbeddingStore, paths: list[Path]) -> Stored:
    names = list(map(str, paths))
    return store.find(names, file_keys(names))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Eleven pictures, two of them bad."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(11):
        Image.new("RGB", (9 + i, 12), (20 * i, 255 - 20 * i, 7)).save(folder / f"{i:02d}.png")
    (folder / "03.png").write_bytes(b"no picture")
    (folder / "10.png").write_bytes(b"")
    return sorted(folder.iterdir())


@pytest.fixture
def no_grain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose clock tells every write."""
    monkeypatch.setattr(identity, "GRAIN_NS", -(10**12))


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_rows_are_the_same_with_and_without_a_store(pictures: list[Path], batch_size: int, no_grain: None) -> None:
    expected = run(pictures, Encoder(), None, batch_size)
    with opened() as store:
        first, second = Encoder(), Encoder()
        assert run(pictures, first, store, batch_size) == expected
        assert run(pictures, second, store, batch_size) == expected

    assert (first.asked, second.asked) == (9, 0)
    assert (store.kept, store.read) == (9, 9)


class Gpu(Encoder):
    """Works while the next batch is got ready, and remembers what it began and what was waited for."""

    in_flight = 1

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def begin_images(self, pixels: Sequence[np.ndarray]) -> Callable[[], np.ndarray]:
        finish, name = super().begin_images(pixels), f"{len(self.events)}"
        self.events.append(f"begin {name}")

        def finish_and_tell() -> np.ndarray:
            self.events.append(f"finish {name}")
            return finish()

        return finish_and_tell


def test_a_gpu_has_the_next_batch_before_the_last_is_waited_for(pictures: list[Path], no_grain: None) -> None:
    good = [path for path in pictures if path.name not in ("03.png", "10.png")]
    gpu = Gpu()

    assert run(good, gpu, None, 3) == run(good, Encoder(), None, 3)
    assert gpu.events == ["begin 0", "begin 1", "finish 0", "begin 3", "finish 1", "finish 3"]
    with opened() as store:  # rows that are known, bad, new
        run(pictures[1::2], Gpu(), store, 2)
        assert run(pictures, Gpu(), store, 2) == run(pictures, Encoder(), None, 2)
        assert (store.kept, store.read) == (9, 4)


def test_batches_in_flight_are_yielded_before_an_error(pictures: list[Path]) -> None:
    class Failing(Gpu):
        def begin_images(self, pixels: Sequence[np.ndarray]) -> Callable[[], np.ndarray]:
            if self.asked:
                raise ModelError("no memory")
            return super().begin_images(pixels)

    with look_ahead(
        one_by_one(map(str, pictures[:3])), preprocess_for(8), Decoding(), None, batch_size=1, threads=1
    ) as ahead:
        embedded = embed_images(ahead.batches(1), Failing(), None)  # type: ignore[arg-type]
        assert next(embedded).names == [str(pictures[0])]
        with pytest.raises(ModelError):
            next(embedded)


def test_a_gpu_holds_nothing_back_in_a_pause(pictures: list[Path]) -> None:
    waited = threading.Event()

    def slow() -> Iterator[str]:
        yield str(pictures[0])
        assert waited.wait(30)
        yield str(pictures[1])
        raise OSError("the disk is gone")

    with look_ahead(one_by_one(slow()), preprocess_for(8), Decoding(), None, batch_size=1, threads=1) as ahead:
        embedded = embed_images(ahead.batches(1), Gpu(), None)  # type: ignore[arg-type]
        assert next(embedded).names == [str(pictures[0])]
        waited.set()
        assert next(embedded).names == [str(pictures[1])]
        with pytest.raises(OSError, match="the disk is gone"):
            next(embedded)


def test_known_and_new_pictures_keep_their_places(pictures: list[Path], no_grain: None) -> None:
    expected = run(pictures, Encoder(), None)
    with opened() as store:
        run(pictures[1::2], Encoder(), store)
        encoder = Encoder()
        assert run(pictures, encoder, store) == expected
    assert encoder.asked == 5


def test_a_moved_or_copied_picture_is_not_encoded_again(pictures: list[Path], no_grain: None) -> None:
    with opened() as store:
        expected = run(pictures[:1], Encoder(), store)
        moved = pictures[0].rename(pictures[0].with_name("moved.png"))
        copy = Path(shutil.copy(moved, moved.with_name("copy.png")))
        encoder = Encoder()
        rows = run([moved, copy], encoder, store)
        assert [embedding for _, embedding in rows] == [expected[0][1]] * 2
        assert encoder.asked == 0
        moved.unlink()
        moved.mkdir()  # would not be found by reading
        assert found_in(store, [moved, copy]).names == [str(copy)]


def test_a_changed_picture_is_encoded_again(pictures: list[Path], no_grain: None) -> None:
    with opened() as store:
        run(pictures, Encoder(), store)
        shutil.copy(pictures[1], pictures[0])
        Image.new("RGB", (7, 7), "red").save(pictures[2])
        encoder = Encoder()
        rows = run(pictures, encoder, store)

    assert rows[0][1] == rows[1][1]  # known by its content
    assert encoder.asked == 1
    assert np.argmax(rows[2][1]) == 0


def test_what_was_written_a_moment_ago_is_read_again(pictures: list[Path]) -> None:
    """It might be written once more within the same tick of the file system's clock."""
    with opened() as store:
        run(pictures[:1], Encoder(), store)
        assert len(found_in(store, pictures[:1])) == 0
        status = pictures[0].stat()
        size = status.st_size
        Image.new("RGB", (9, 12), (0, 255, 9)).save(pictures[0])
        assert pictures[0].stat().st_size == size
        encoder = Encoder()
        run(pictures[:1], encoder, store)
        assert encoder.asked == 1


def test_a_file_that_changes_while_it_is_read_is_not_recognised(
    pictures: list[Path], no_grain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed_meanwhile() -> int:
        Image.new("RGB", (5, 5), "red").save(pictures[0])
        return 2 * 10**18

    monkeypatch.setattr(workers.time, "time_ns", changed_meanwhile)
    with opened() as store:
        rows = run(pictures[:1], Encoder(), store)
        assert np.argmax(rows[0][1]) == 0
        assert len(found_in(store, pictures[:1])) == 0


def test_a_large_file_is_encoded_but_not_kept(
    pictures: list[Path], no_grain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "MAX_BYTES", 10)
    with opened() as store:
        assert run(pictures, Encoder(), store) == run(pictures, Encoder(), None)
        assert store.kept == 0


def test_a_lower_limit_of_pixels_refuses_what_is_known(pictures: list[Path], no_grain: None) -> None:
    with opened() as store:
        run(pictures[:3], Encoder(), store)
    with opened(max_pixels=9 * 12) as store:
        rows = run(pictures[:3], Encoder(), store, max_pixels=9 * 12)

    assert [getattr(row, "error", None) for row, _ in rows] == [None, "too-large", "too-large"]


def test_a_model_that_is_not_what_was_remembered_keeps_nothing(pictures: list[Path], no_grain: None) -> None:
    with opened() as store:
        encoder = Encoder()
        encoder.is_as_remembered = False
        run(pictures, encoder, store)
        assert len(found_in(store, pictures)) == 0


def test_pictures_without_a_file_are_identified_by_content(pictures: list[Path], no_grain: None) -> None:
    data = [path.read_bytes() for path in pictures]
    names = [f"shard#{i}" for i in range(11)]
    expected = [(getattr(row, "error", None), vector) for row, vector in run(pictures, Encoder(), None)]

    def in_memory(encoder: Encoder, store: EmbeddingStore | None) -> list[tuple[str | None, list[float] | None]]:
        source = [Pictures(names, data.__getitem__)]
        with look_ahead(source, preprocess_for(8), Decoding(), store, batch_size=4, threads=2) as ahead:
            rows = list(embed_images(ahead.batches(4), encoder, store))  # type: ignore[arg-type]
        assert [name for batch in rows for name in batch.names] == names
        return [
            (batch.skipped[i].error, None)
            if i in batch.skipped
            else (None, batch.vectors[batch.places == i][0].tolist())
            for batch in rows
            for i in range(len(batch))
        ]

    with opened() as store:
        assert in_memory(Encoder(), None) == in_memory(Encoder(), store) == expected
        again = Encoder()
        assert in_memory(again, store) == expected
        assert again.asked == 0
