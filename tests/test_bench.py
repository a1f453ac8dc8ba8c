"""`zsclip bench` on runs that were made slow on purpose, one stage at a time."""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from conftest import preprocess_for
from PIL import Image
from torch import Tensor

from zsclip.errors import InputError
from zsclip.measure import bench as bench_module
from zsclip.measure import start
from zsclip.measure.bench import _time_decoders, bench
from zsclip.models import graphs
from zsclip.models.find import TINY_DIR, find_model
from zsclip.models.graphs import IMAGE
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.models.onnx_encoder import OnnxEncoder
from zsclip.models.onnx_export import export_graphs
from zsclip.models.runtimes import named, other_runtimes
from zsclip.models.torch_encoder import ClipModel
from zsclip.pictures.pictures import Pictures
from zsclip.pixels import workers
from zsclip.pixels.fit import Preprocess
from zsclip.pixels.limits import Decoding, MemoryBudget
from zsclip.pixels.processors import available_cpus

Run = Callable[..., CompletedProcess[bytes]]
STAGES = ["read", "decode", "preprocess", "copy", "image tower", "score"]


@pytest.fixture
def model(tiny_model: Callable[[str], Path]) -> LazyTorchEncoder:
    return LazyTorchEncoder(find_model(str(tiny_model("plain"))), "cpu", "fp32")


def pictures(folder: Path, size: tuple[int, int], name: str = "{}.png") -> Pictures:
    random = np.random.default_rng(0)
    paths = [folder / name.format(i) for i in range(3)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return Pictures(list(map(str, paths)))


@pytest.fixture
def _quick_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure no model: on a busy machine even the smallest may be slower than what a test makes slow."""
    monkeypatch.setattr(bench_module, "_time_model", lambda *given: dict.fromkeys(STAGES[3:], 1e-6))


@pytest.mark.usefixtures("_quick_model")
def test_a_slow_reader_is_named(model: LazyTorchEncoder, tmp_path: Path) -> None:
    files = pictures(tmp_path, (8, 8)).names

    def slow(place: int) -> bytes:
        time.sleep(0.2)
        return Path(files[place]).read_bytes()

    report = bench(Pictures(files, slow), model, threads=1, batch_size=2, decoding=Decoding(), seconds=0.1)

    assert report.slowest == "read"
    assert report.seconds["read"] >= 0.2
    assert report.decoding <= 5
    assert "--threads 4" in report.hint


@pytest.mark.usefixtures("_quick_model")
def test_one_decode_thread_is_named(model: LazyTorchEncoder, tmp_path: Path) -> None:
    never = threading.Event()

    class Slow(MemoryBudget):
        @contextmanager
        def held(self, count: int) -> Iterator[None]:
            with super().held(count):
                never.wait(0.2)  # as if the picture took that long to decode
                yield

    given = {"threads": 1, "batch_size": 4, "decoding": Decoding(budget=Slow(10**9)), "seconds": 0.1}

    large = bench(pictures(tmp_path, (300, 400), "{}.jpg"), model, **given)
    small = bench(pictures(tmp_path, (30, 40)), model, **given)

    assert large.slowest == small.slowest == "decode"
    assert large.hint == "--fast-jpeg"
    assert small.hint.startswith(f"--threads {available_cpus()}" if available_cpus() > 1 else "smaller pictures")


def test_where_processes_decode_the_pace_is_theirs(
    model: LazyTorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "available_cpus", lambda: 6)
    monkeypatch.setattr(bench_module, "_time_decoders", lambda *given: 12345.0)

    report = bench(pictures(tmp_path, (8, 8)), model, threads=6, batch_size=2, decoding=Decoding(), seconds=0.05)

    assert report.decoding == 12345
    assert report.slowest in ("copy", "image tower", "score")


def test_the_rate_is_measured_while_processes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Process(workers._Process):
        def __init__(self, preprocess: Preprocess, decoding: Decoding) -> None:
            super().__init__(preprocess, decoding)
            started.append(time.monotonic())

    monkeypatch.setattr(workers, "_Process", Process)
    monkeypatch.setattr(workers, "available_cpus", lambda: 6)

    rate = _time_decoders(pictures(tmp_path, (8, 8)), preprocess_for(8), 6, Decoding(), 0.1)

    assert time.monotonic() - started[0] > 0.1
    assert rate > 0


def test_a_slow_model_is_named(model: LazyTorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_its_speed = ClipModel.begin_images

    def slow(self: ClipModel, pixels: Sequence[np.ndarray]) -> Callable[[], Tensor]:
        time.sleep(0.02 * len(pixels))
        return at_its_speed(self, pixels)

    time_decoding = bench_module._time_decoding

    def quick(*given: Any) -> Any:
        return replace(time_decoding(*given), rate=1e6)

    monkeypatch.setattr(ClipModel, "begin_images", slow)
    monkeypatch.setattr(bench_module, "_time_decoding", quick)

    report = bench(pictures(tmp_path, (8, 8)), model, threads=2, batch_size=4, decoding=Decoding(), seconds=0.1)

    assert report.slowest == "image tower"
    assert report.model <= 50
    assert report.stream <= 50
    assert "--model" in report.hint or "--precision" in report.hint


def test_a_bad_picture_is_skipped_and_no_good_one_is_an_error(model: LazyTorchEncoder, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no")
    os.mkfifo(tmp_path / "pipe.png")  # which nobody ever writes to
    bad, good = str(tmp_path / "bad.png"), pictures(tmp_path, (8, 8))
    given = {"threads": 2, "batch_size": 2, "decoding": Decoding(), "seconds": 0.05}

    assert bench(Pictures([bad, str(tmp_path / "pipe.png"), *good.names]), model, **given).decoding > 0
    with pytest.raises(InputError, match="none of the images"):
        bench(Pictures([bad]), model, **given)


def test_the_command_prints_a_table_or_json(run: Run, photos: Path, tiny_model: Callable[[str], Path]) -> None:
    arguments = ("bench", "photos", "--model", tiny_model("plain"), "--seconds", "0.05")

    table, one = run(*arguments), run(*arguments, "--json", "--threads", "1", "--batch-size", "3")

    assert (table.returncode, one.returncode) == (0, 0), table.stderr + one.stderr
    lines = table.stdout.decode().splitlines()
    assert [line[:12].strip() for line in lines[:6]] == STAGES
    assert lines[-1].startswith("bottleneck: ")
    report = json.loads(one.stdout)
    assert list(report["seconds"]) == STAGES
    assert report["slowest"] in STAGES
    assert (report["threads"], report["batch_size"]) == (1, 3)
    assert all(report[name] > 0 for name in ("decoding", "model", "stream", "text"))
    assert report["runtime"] in ("torch in fp32", "torch in bf16")
    assert list(report["others"]) == ["onnx in fp32"]
    assert report["others"]["onnx in fp32"] > 0
    assert f"runtime: {report['runtime']}, ".encode() in table.stdout
    assert re.search(rb"images a second in the model; onnx in fp32: [\d.]+\n", table.stdout)
    assert graphs.size_on_disk() == 0  # the graph was made for the moment


def test_an_exported_model_is_timed_in_torch_too(model: LazyTorchEncoder) -> None:
    spec = model.spec
    exported = export_graphs(spec)

    with other_runtimes(OnnxEncoder(spec, exported)) as others:
        assert [named(other).split()[0] for other in others] == ["torch"]
    with other_runtimes(OnnxEncoder(spec, exported, exported)) as others:
        assert [named(other) for other in others][1:] == ["onnx in fp32"]
    with other_runtimes(model) as others:
        assert [named(other) for other in others][-1] == "onnx in fp32"
        assert others[-1].begin_images([np.zeros((3, 32, 32), np.uint8)])().shape == (1, 32)


@pytest.mark.parametrize(
    ("others", "hint"),
    [
        (
            {"onnx in fp32": 21.0, "torch in bf16": 12.0},
            "`zsclip models export m` and --runtime onnx (onnx in fp32 is 2.1",
        ),
        ({"torch in bf16": 12.0}, "--runtime torch (torch in bf16 is 1.2 times as fast)"),
        ({"onnx in int8": 30.0, "torch in fp32": 12.0}, "--precision int8 (onnx in int8 is 3.0 times as fast)"),
        ({"torch in fp32": 10.5}, ""),
        ({}, ""),
    ],
)
def test_a_faster_runtime_is_the_hint(others: dict[str, float], hint: str, model: LazyTorchEncoder) -> None:
    model.spec = replace(model.spec, name="m")

    found = bench_module._faster_runtime(model, 10.0, others)

    assert found.startswith(hint)
    assert bool(found) == bool(hint)


def test_the_start_of_a_run_is_listed_longest_first(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_RUNS", 1)
    watched, totals = start._watched, list[float]()

    def noted(command: Sequence[str]) -> tuple[dict[str, float], float]:
        steps, total = watched(command)
        totals.append(total)
        return steps, total

    monkeypatch.setattr(start, "_watched", noted)

    listed = run("bench", "photos", "--model", "tiny", "--device", "cpu", "--start")
    one = run("bench", "photos", "--model", "tiny", "--device", "cpu", "--start", "--json", "--runtime", "torch")

    assert (listed.returncode, one.returncode) == (0, 0), listed.stderr + one.stderr
    first, *lines = listed.stdout.decode().splitlines()
    assert re.fullmatch(r"first answer after [\d,]+ ms \([\d,]+ ms the first time\)", first)
    found = {line[14:]: float(line[:9]) for line in lines}
    *steps, short, rest = found
    assert [found[step] for step in steps] == sorted((found[step] for step in steps), reverse=True)
    assert any(step.startswith("import numpy (") for step in steps)
    assert f"load {TINY_DIR / IMAGE}" in steps
    assert not any(step.startswith("import torch") for step in steps)
    assert re.fullmatch(r"\d+ things below a millisecond", short)
    assert rest == "Python itself, computing, and waiting"
    report = json.loads(one.stdout)
    assert report.keys() == {"seconds", "first", "steps", "short", "rest"}
    assert any(step.startswith("import torch (") for step in report["steps"])
    whole = sum(report["steps"].values()) + report["short"][1] + report["rest"]
    assert 0.1 < totals[-1] <= whole + 1e-6  # of the run that was watched; another may be slower or faster
    assert report["seconds"] > 0.1


def test_a_thread_takes_until_it_opens_the_next_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["1\t10.0\t'read a'", "2\t10.1\t'use b'", "1\t10.4\t''", "1\t11.0\t'read a'", "0\t11.5\t''"]

    def run(command: Sequence[str], **options: object) -> CompletedProcess[bytes]:
        Path(command[5]).write_text("\n".join(lines))
        errors = b"import time:      1000 |       1000 | numpy.core\nimport time:       500 |       9000 |   numpy\n"
        return CompletedProcess(command, 0, b"", errors + b"zsclip: a note\n")

    monkeypatch.setattr(start.subprocess, "run", run)
    monkeypatch.setattr(start.time, "monotonic", lambda: 9.5)

    steps, total = start._watched(["classify"])

    assert steps == pytest.approx({"read a": 0.4 + 0.5, "use b": 0.3, "import numpy (2 modules)": 0.0015})
    assert total == pytest.approx(2)


def test_a_run_that_fails_is_reported_as_the_run_reports_it(run: Run, photos: Path) -> None:
    result = run("bench", "photos", "--model", "local-dir:nope", "--start")

    assert (result.returncode, result.stdout) == (3, b"")
    assert result.stderr.decode().startswith("zsclip: local-dir:nope: no such folder; ")
    assert result.stderr.decode().count("\n") == 1


def test_a_folder_without_pictures_is_reported_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    result = run("bench", "empty", "--model", "base", "--offline")  # reported before a model that is not here

    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr.decode().count("\n") == 1
