"""What a run imports, opens and reads on the way to its first answer, and how long each takes."""

import ast
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from zsclip.errors import InputError, ModelError, ZsclipError

_RUNS = 5
_LEAST = 0.001  # seconds: anything shorter is summed up
_IMPORTED = re.compile(r"import time: +(\d+) \| +\d+ \| +([\w.]+)")
_REST = "Python itself, computing, and waiting"


@dataclass(frozen=True)
class Start:
    """How long a run takes until its first answer, and what for.

    seconds: until the first answer, the median of a few runs. first: of the run before them, which may have found
    nothing in the cache. steps: seconds by step, the longest first, of one more run, which is watched and so a little
    slower. short: the number of the steps that are left out, each below a millisecond, and their sum. rest: seconds
    for everything else.
    """

    seconds: float
    first: float
    steps: dict[str, float]
    short: tuple[int, float]
    rest: float


def time_start(command: Sequence[str]) -> Start:
    """Start a command of zsclip a few times.

    Args:
        command: such as `classify a.jpg ...`; its first output must be its first answer.

    Raises:
        ZsclipError: the command fails.
    """
    first, *others = (_first_answer(command) for _ in range(1 + _RUNS))
    steps, total = _watched(command)
    ordered = sorted(steps.items(), key=lambda step: -step[1])
    long = {name: seconds for name, seconds in ordered if seconds >= _LEAST}
    short = [seconds for seconds in steps.values() if seconds < _LEAST]
    rest = max(0.0, total - sum(steps.values()))  # threads may do several things at a time
    return Start(statistics.median(others), first, long, (len(short), sum(short)), rest)


def _first_answer(command: Sequence[str]) -> float:
    """Give the seconds from the start of the process to the first byte of its output."""
    begun = time.perf_counter()
    full = [sys.executable, "-m", "zsclip", *command]
    with subprocess.Popen(full, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        is_answer = bool(process.stdout.read(1))
        seconds = time.perf_counter() - begun
        _, errors = process.communicate()
    if not is_answer:
        raise _failure(process.returncode, errors)
    return seconds


def _watched(command: Sequence[str]) -> tuple[dict[str, float], float]:
    """Run the command once more; give the seconds of each step, and of the whole run."""
    with tempfile.TemporaryDirectory() as folder:
        notes = os.path.join(folder, "notes")
        full = [sys.executable, "-X", "importtime", "-m", "zsclip.cli.watched", notes, *command]
        begun = time.monotonic()  # the same clock in every process
        done = subprocess.run(full, capture_output=True, check=False)
        if not os.path.exists(notes):
            raise _failure(done.returncode, done.stderr)
        with open(notes, encoding="utf-8") as file:
            lines = [line.rstrip("\n").split("\t") for line in file]
    opened = [(thread, float(at), str(ast.literal_eval(what))) for thread, at, what in lines]
    steps = _imports(done.stderr.decode(errors="replace"))
    for place, (thread, at, what) in enumerate(opened):
        if what:  # takes until the next thing that its thread opens, or the next of any if that was the last
            later = [each for each in opened[place + 1 :] if each[0] == thread] or opened[place + 1 :]
            steps[what] += later[0][1] - at
    return steps, opened[-1][1] - begun


def _imports(errors: str) -> defaultdict[str, float]:
    """Read what `-X importtime` prints: seconds by package, without the packages that each imports."""
    seconds, modules = defaultdict[str, float](float), Counter[str]()
    for microseconds, name in _IMPORTED.findall(errors):
        package = name.partition(".")[0]
        seconds[package] += int(microseconds) / 1e6
        modules[package] += 1
    return defaultdict(float, {_import(name, modules[name]): taken for name, taken in seconds.items()})


def _import(package: str, modules: int) -> str:
    return f"import {package}" + (f" ({modules} modules)" if modules > 1 else "")


def _failure(code: int, errors: bytes) -> ZsclipError:
    """Give the error that ended a run, as it was printed."""
    said = [line for line in errors.decode(errors="replace").splitlines() if line.startswith("zsclip: ")]
    why = said[-1].removeprefix("zsclip: ") if said else "bench --start: the run gave no answer"
    return {2: InputError, 3: ModelError}.get(code, ZsclipError)(why)


def start_lines(found: Start) -> list[str]:
    """Format a start for people."""
    count, short = found.short
    rows = [*found.steps.items(), (f"{count:,} things below a millisecond", short), (_REST, found.rest)]
    return [
        f"first answer after {1000 * found.seconds:,.0f} ms ({1000 * found.first:,.0f} ms the first time)",
        *(f"{1000 * seconds:>9.1f} ms  {name}" for name, seconds in rows),
    ]
