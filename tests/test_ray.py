"""The engine that is Ray: real actors on this machine, which die. Its start takes from ten seconds to a minute."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from unittest import mock

import pytest
from conftest import HANGS
from test_parts import command, data, ended, parts_of, plain, rows_of, started

from zsclip.cli.rows import Output
from zsclip.engine.ray import started_ray
from zsclip.errors import InputError

__all__ = ["data", "plain"]  # fixtures

Run = Callable[..., subprocess.CompletedProcess[bytes]]

ray = pytest.importorskip("ray")


@pytest.fixture(autouse=True)
def _ray_as_tests_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would keep a token in the home folder, and let its workers wait for all else that this machine does."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in actors of one processor: sums are the same to the last digit


def kill_actors(folder: Path, shard: str, times: int, killed: list[int], stop: threading.Event) -> None:
    """Kill, as often, the actor that has claimed a shard."""
    for generation in range(times):
        claim = folder / ".unfinished" / f"{shard}.{generation}"
        while not stop.is_set():
            with suppress(OSError, ValueError):
                pid = json.loads(claim.read_text())["pid"]
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                break
            sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 3])
def test_two_actors_write_what_one_process_does_although_some_die(times: int, run: Run, data: Path, plain: str) -> None:
    arguments = command(plain, "--no-store", "-j", "1", "--shard-size", "3")
    ended(started([*arguments, "-o", "expected/"], data))
    killed, stop = list[int](), threading.Event()
    killer = threading.Thread(target=kill_actors, args=(data / "out", "files-000002", times, killed, stop))
    killer.start()

    told = ended(started([*arguments, "--engine", "ray"], data))
    stop.set()
    killer.join()

    assert len(killed) == times, told
    assert not (data / "out" / ".unfinished").exists(), told
    assert "2 actors on Ray, with 1 processor each" in told
    left_out = {"files-000002.parquet"} if times == 3 else set()
    assert set(parts_of(data / "expected")) - set(parts_of(data / "out")) == left_out
    for name in parts_of(data / "out"):
        assert rows_of(data / "out" / name) == rows_of(data / "expected" / name)
    line = "zsclip: files-000002: 3 files from 'photos/06.png': 3 actors have died of it; it is skipped"
    assert (line in told.splitlines()) == (times == 3)
    assert f"wrote {9 - len(left_out)} parts in out/" in told
    if times == 3:
        last = started(arguments, data)
        told = ended(last)
        assert last.returncode == 1, told
        assert rows_of(data / "out") == rows_of(data / "expected")


@pytest.fixture
def cluster() -> Iterator[str]:
    """A cluster that runs already, with two processors."""
    folder = tempfile.mkdtemp(prefix="zr", dir="/tmp")  # short, as sockets lie in it
    command = [
        Path(sys.executable).parent / "ray", "start", "--head", "--block", "--port=0", "--num-cpus=2",
        "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = Path(folder) / "ray_current_cluster"
    deadline = monotonic() + HANGS
    while not address.exists():
        assert process.poll() is None
        assert monotonic() < deadline
        sleep(0.1)
    yield address.read_text().strip()
    process.terminate()
    process.wait(HANGS)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_cluster_that_runs_already_is_used(
    run: Run, data: Path, plain: str, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = command(plain, "-j", "1")
    ended(started([*arguments, "-o", "expected/"], data))
    monkeypatch.setenv("RAY_ADDRESS", cluster)

    told = ended(started([*arguments, "--engine", "ray"], data))

    assert "2 actors on Ray" in told
    assert rows_of(data / "out") == rows_of(data / "expected")


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_a_run_to_finish(run: Run, data: Path, plain: str) -> None:
    arguments = command(plain, "--no-store", "-j", "1", "--shard-size", "1", "--batch-size", "1")
    ended(started([*arguments, "-o", "expected/"], data))
    process = started([*arguments, "--engine", "ray"], data)
    while not (data / "out").exists() or not any(data.glob("out/*.parquet")):
        assert process.poll() is None
        sleep(0.01)

    process.kill()
    ended(process)
    deadline = monotonic() + HANGS
    while run(*arguments).returncode != 1 or parts_of(data / "out") != parts_of(data / "expected"):
        assert monotonic() < deadline  # its actors notice that it has gone, and end
    assert rows_of(data / "out") == rows_of(data / "expected")


@pytest.mark.slow
def test_parts_of_another_run_and_missing_gpus_are_one_line(run: Run, data: Path, plain: str) -> None:
    run(*command(plain, "-l", "red,blue"))

    other = started([*command(plain), "--engine", "ray", "-q"], data)
    told = ended(other)
    gpus = started([*command(plain, "-l", "red,blue", "-o", "out2/"), "--engine", "ray", "--gpus", "9"], data)
    missing = ended(gpus)

    assert (other.returncode, told.count("\n")) == (2, 1), told
    assert "made with other settings: labels: " in told
    assert (gpus.returncode, missing) == (2, "zsclip: --gpus 9: Ray has 0; use fewer, or leave it out\n")


def test_a_cluster_that_does_not_answer_is_one_line(
    run: Run, data: Path, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")

    done = run(*command(plain), "--engine", "ray")

    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(b"zsclip: RAY_ADDRESS 127.0.0.1:1: connection refused; check the cluster")


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, Ray raises a bare Exception."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    why = "The current node timed out during startup."
    monkeypatch.setattr("ray.init", mock.Mock(side_effect=Exception(why)))

    with pytest.raises(InputError) as caught, started_ray():
        pass

    assert str(caught.value) == (
        "--engine ray: Ray does not start: the current node timed out during startup; try again when the machine is "
        "less busy, or use --engine local"
    )


def test_what_ray_says_goes_to_stderr() -> None:
    script = (
        "import os\nfrom zsclip.engine.ray import started_ray\n"
        "with started_ray():\n    print('(raylet) a'); os.write(1, b'(raylet) b\\n')\n"
        "print('result')"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=HANGS)

    assert (done.returncode, done.stdout) == (0, "result\n"), done.stderr
    assert "(raylet) a\n" in done.stderr
    assert "(raylet) b\n" in done.stderr


def test_options_of_engines_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^--engine ray: only a folder"):
        Output(output="a.parquet", engine="ray")
    with pytest.raises(InputError, match=r"^--gpus: "):
        Output(output="out/", gpus=2)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(InputError, match=r"^--engine ray: needs Ray: pip install 'zsclip\[ray\]'$"):
        Output(output="out/", engine="ray")
