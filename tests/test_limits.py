"""What one picture may cost, and what all may hold at once."""

import gc
import io
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_decode import SIMPLE, colours, noise, png, run_python, skipped
from tiffs import RGB, tiff

from zsclip.pixels.available_memory import _cgroup_memory, available_memory
from zsclip.pixels.decode import decode_image
from zsclip.pixels.limits import BYTES_A_SECOND, CPU_SECONDS, Decoding, MemoryBudget
from zsclip.pixels.reasons import given_up
from zsclip.pixels.skipped import Skipped


def test_too_many_pixels_are_refused_by_the_header(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(100_000, 100_000, 8, 2, b""))
    Image.new("1", (100, 101)).save(tmp_path / "x.png")
    message = "10000000000 pixels, more than --max-pixels 178956970"

    assert skipped(tmp_path / "bomb.png") == Skipped(str(tmp_path / "bomb.png"), "too-large", message)
    assert skipped(tmp_path / "bomb.png", max_pixels=10**9).error == "too-large"
    assert skipped(tmp_path / "x.png", max_pixels=10_099).message == "10100 pixels, more than --max-pixels 10099"
    assert colours(tmp_path / "x.png", max_pixels=10_100).shape == (8, 8, 3)


def test_max_pixels_may_be_more_than_pillow_allows(tmp_path):
    # In a process of its own, as Pillow's limit is for the whole process.
    Image.new("RGB", (40, 40)).save(tmp_path / "warned.png")
    Image.new("RGB", (100, 100)).save(tmp_path / "refused.png")
    code = """
        from zsclip.pixels.decode import *
        Image.MAX_IMAGE_PIXELS = 1000
        preprocess = Preprocess((8, 8), (0,) * 3, (1,) * 3)
        print(decode_image("warned.png", preprocess, Decoding(1000)).message)
        print(decode_image("warned.png", preprocess, Decoding(1600)).shape)
        print(decode_image("refused.png", preprocess, Decoding(10_000)).shape)
        print(Image.MAX_IMAGE_PIXELS)
    """

    expected = ["1600 pixels, more than --max-pixels 1000", "(3, 8, 8)", "(3, 8, 8)", "1000"]
    assert run_python(code, cwd=tmp_path).stdout.splitlines() == expected


ONE = 100 * 100 * 36 + 100 * 24  # what the pixels and rows of a small picture in RGB take at most


def test_memory_is_bounded_however_many_threads(tmp_path):
    """Eight threads, memory for two pictures and a half: two at a time. One larger than all of it goes alone."""
    for i in range(8):
        Image.new("RGB", (100, 100), (i, 0, 0)).save(tmp_path / f"{i}.png")
    Image.new("RGB", (300, 300)).save(tmp_path / "large.png")
    held, most, lock, pair = 0, 0, threading.Lock(), threading.Barrier(2)

    class Counted(MemoryBudget):
        @contextmanager
        def held(self, count: int) -> Iterator[None]:
            nonlocal held, most
            with super().held(count):
                with lock:
                    held += count
                    most = max(most, held)
                if count == ONE and not pair.broken:
                    pair.wait(60)  # there is always another one
                yield
                with lock:
                    held -= count

    decoding = Decoding(budget=Counted(5 * ONE // 2))
    with ThreadPoolExecutor(8) as pool:
        small = [pool.submit(decode_image, str(tmp_path / f"{i}.png"), SIMPLE, decoding) for i in range(8)]
        reds = [int(outcome.result()[0, 0, 0]) for outcome in small]
    assert most == 2 * ONE
    assert reds == list(range(8))
    pair.abort()
    with ThreadPoolExecutor(8) as pool:
        names = ["0", "large", "1", "large"]
        both = [pool.submit(decode_image, str(tmp_path / f"{name}.png"), SIMPLE, decoding) for name in names]
        assert all(outcome.result().shape == (3, 8, 8) for outcome in both)
    assert most == 300 * 300 * 36 + 300 * 24  # never beside another


def test_memory_is_given_back_by_a_picture_that_cannot_be_decoded(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "x.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "x.png").read_bytes()[:500])
    decoding = Decoding(budget=MemoryBudget(64 * 64 * 36))

    for _ in range(3):
        assert decode_image(str(tmp_path / "bad.png"), SIMPLE, decoding).error == "unreadable"
    assert decode_image(str(tmp_path / "x.png"), SIMPLE, decoding).shape == (3, 8, 8)


def jpeg_without_end(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()[:-2]


def png_with_a_broken_profile_at_its_end(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    empty = bytes(4) + b"iCCP" + zlib.crc32(b"iCCP").to_bytes(4, "big")
    return file.getvalue()[:-12] + empty + file.getvalue()[-12:]


def tiff_with_a_wrong_sum(image: Image.Image) -> bytes:
    data = bytearray(tiff(np.asarray(image), RGB, codec="deflate"))
    data[int.from_bytes(data[4:8], "little") - 2] ^= 1  # of the last strip, which ends before the tags begin
    return bytes(data)


@pytest.mark.parametrize("kind", [jpeg_without_end, png_with_a_broken_profile_at_its_end, tiff_with_a_wrong_sum])
def test_a_second_try_begins_without_the_pixels_of_the_first(
    tmp_path: Path, kind: Callable[[Image.Image], bytes]
) -> None:
    size, seen = (173, 91), []
    (tmp_path / "x").write_bytes(kind(noise(*size)))

    class Noted(MemoryBudget):
        def held(self, count: int) -> AbstractContextManager[None]:
            pictures = [each for each in gc.get_objects() if issubclass(type(each), Image.Image)]
            seen.append(sum(each.size == size and each.__dict__.get("_im") is not None for each in pictures))
            return super().held(count)

    decode_image(str(tmp_path / "x"), SIMPLE, Decoding(budget=Noted(10**9)))

    # A JPEG without its end is decoded once more in between, to look for damage.
    assert seen == ([0, 0, 0] if kind is jpeg_without_end else [0, 0])


@pytest.mark.skipif(sys.platform != "linux", reason="measured as Linux counts")
def test_large_pictures_leave_nothing_behind_on_their_threads(tmp_path: Path) -> None:
    side, reserved = 5200, 5200 * 5200 * 8 + 32_000_000 + 5200 * 24  # RGBA, and on white
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(side, side, 8, 6, bytes(side * 4 + 1) * side))
    code = f"""
        from concurrent.futures import ThreadPoolExecutor
        from zsclip.pixels.decode import *
        from zsclip.pixels.limits import MemoryBudget

        def memory(name):
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

        preprocess, decoding = Preprocess((8, 8), (0,) * 3, (1,) * 3), Decoding(budget=MemoryBudget({reserved}))
        with ThreadPoolExecutor(2) as pool:
            before = memory("VmRSS")
            rows = list(pool.map(lambda i: decode_image(f"{{i}}.png", preprocess, decoding).shape, range(4)))
        print(len(rows), memory("VmHWM") - before)
    """

    count, taken = map(int, run_python(code, cwd=tmp_path).stdout.split())

    assert count == 4
    assert taken <= reserved * 1.1  # one at a time


def test_what_a_hanging_decoder_holds_is_freed_once():
    budget, stuck, over = MemoryBudget(100), threading.Event(), threading.Event()

    def hang() -> None:
        with budget.held(100):
            stuck.set()
            over.wait(60)

    thread = threading.Thread(target=hang)
    thread.start()
    assert stuck.wait(60)
    row = given_up("x.jpg", thread.ident, Decoding(budget=budget))
    assert (row.file_name, row.error) == ("x.jpg", "timeout")
    with budget.held(100):
        assert thread.is_alive()  # it has not simply been waited for
        over.set()
        thread.join(60)
    with budget.held(100):
        pass
    assert budget._free == 100


def test_a_thread_waiting_for_memory_is_not_given_up():
    budget = MemoryBudget(100)

    def wait() -> None:
        with budget.held(100):
            pass

    with budget.held(100):
        thread = threading.Thread(target=wait)
        thread.start()
        while not budget.is_waiting_for_memory(thread.ident):
            time.sleep(0.01)
        assert given_up("x.jpg", thread.ident, Decoding(budget=budget)) is None
    thread.join(60)
    assert given_up("x.jpg", thread.ident, Decoding(budget=budget)) is not None


def test_a_row_that_no_decoder_holds_is_refused_by_the_header(tmp_path):
    (tmp_path / "x.png").write_bytes(png(178_000_000, 1, 8, 2, b""))

    row = skipped(tmp_path / "x.png")

    assert (row.error, "rows of 178000000 pixels" in row.message) == ("too-large", True)


@pytest.mark.parametrize("mode", ["longest", "squash"])
def test_a_very_long_strip_is_reduced_without_gigabytes_of_weights(tmp_path, mode):
    (tmp_path / "x.png").write_bytes(png(60_000_000, 1, 1, 0, b"\0" + b"\xff" * 3_750_000 + bytes(3_750_000)))
    code = f"""
        import resource
        from zsclip.pixels.decode import *
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
        pixels = decode_image("x.png", Preprocess((8, 8), (0,) * 3, (1,) * 3, resize_mode={mode!r}))
        print(pixels[0].max(axis=0).tolist() if hasattr(pixels, "shape") else pixels)
    """

    assert run_python(code, cwd=tmp_path).stdout == "[255, 255, 255, 234, 20, 0, 0, 0]\n"


def test_the_memory_for_pictures_is_less_where_there_is_less(tmp_path):
    (tmp_path / "membership").write_text("0::/a\n4:memory:/b\n")
    (tmp_path / "mount/a").mkdir(parents=True)
    (tmp_path / "mount/memory/b").mkdir(parents=True)
    assert _cgroup_memory(tmp_path / "membership", tmp_path / "mount") == 1 << 62
    (tmp_path / "mount/a/memory.max").write_text("max\n")
    (tmp_path / "mount/memory/memory.limit_in_bytes").write_text("800000000\n")

    assert _cgroup_memory(tmp_path / "membership", tmp_path / "mount") == 800_000_000
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with MemoryBudget().held(1 << 62):
        pass  # it goes alone


def test_the_time_a_picture_may_take_depends_on_its_size():
    budget, thread = MemoryBudget(10**9), threading.get_ident()

    assert budget.cpu_seconds(thread) == CPU_SECONDS
    with budget.held(40 * BYTES_A_SECOND):
        assert budget.cpu_seconds(thread) == CPU_SECONDS + 40
        row = given_up("x.jpg", thread, Decoding(budget=budget))
    assert row.message.startswith(f"not decoded within {CPU_SECONDS + 40} s of CPU time")


def test_a_picture_of_millions_of_rows_is_refused_by_the_memory_that_rows_take(tmp_path):
    (tmp_path / "x.png").write_bytes(png(1, 178_000_000, 8, 2, b""))

    row = skipped(tmp_path / "x.png")

    assert (row.error, row.message) == ("too-large", "takes 5.0 GB of memory to decode; convert it first")
