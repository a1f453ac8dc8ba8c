"""Claims on shards: one process at a time, and none is lost with a process that is killed."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from zsclip.engine.claims import Claims
from zsclip.errors import OutputError

_HOLD = """
import sys, time
from zsclip.engine.claims import Claims
with Claims(sys.argv[1], run=sys.argv[2]).take("a.tar-1") as part:
    open(part, "w").write("half")
    print(part, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / ".unfinished")


def holder(folder: str, run: str = "") -> "subprocess.Popen[str]":
    """A process that works on a shard and does not end."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD, folder, run], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip().endswith(".part")
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def killed(folder: str) -> str:
    process = holder(folder)
    kill(process)
    return folder


def test_only_one_gets_a_shard_and_it_is_free_afterwards(folder: str) -> None:
    one, other = Claims(folder), Claims(folder)

    with one.take("a") as part:
        assert part is not None
        with other.take("a") as nothing, other.take("b") as another:
            assert nothing is None
            assert another not in (None, part)
    with other.take("a") as again:
        assert again == part
    other.close()
    assert not os.path.exists(folder)


def test_what_a_killed_process_had_is_taken_over_by_one_only(killed: str) -> None:
    assert sorted(os.listdir(killed)) == ["a.tar-1.0", "a.tar-1.0.part"]

    with Claims(killed).take("a.tar-1") as mine, Claims(killed).take("a.tar-1") as others:
        assert mine == f"{killed}/a.tar-1.1.part"
        assert others is None
        Claims(killed).clean("a.tar-1")

    assert os.listdir(killed) == []


def test_a_living_process_keeps_its_shard(folder: str) -> None:
    process = holder(folder)

    with Claims(folder, expiry_seconds=0).take("a.tar-1") as part:
        assert part is None
    kill(process)
    with Claims(folder).take("a.tar-1") as part:
        assert part is not None


def test_a_process_that_ended_in_peace_is_not_counted_as_given_up(folder: str) -> None:
    claims = Claims(folder, run="mine")
    with claims.take("a.tar-1") as part:
        assert part is not None
    assert claims.given_up("a.tar-1") == 0
    for count in (1, 2):
        kill(holder(folder, "mine"))
        assert claims.given_up("a.tar-1") == count
    kill(holder(folder, "another"))

    assert claims.given_up("a.tar-1") == 2


def of_another_machine(folder: str) -> str:
    """Make the claim of this process look like one of another machine."""
    (name,) = (name for name in os.listdir(folder) if not name.endswith(".part"))
    claim = os.path.join(folder, name)
    owner = json.loads(Path(claim).read_text())
    Path(claim).write_text(json.dumps(owner | {"machine": "another", "pid": 1}))
    return claim


def test_a_claim_of_another_machine_is_left_when_it_is_no_longer_touched(folder: str) -> None:
    claims = Claims(folder, expiry_seconds=60)
    with ExitStack() as stack:
        stack.enter_context(claims.take("a"))
        claim = of_another_machine(folder)
        with Claims(folder, expiry_seconds=60).take("a") as part:
            assert part is None
        os.utime(claim, (time.time() - 61,) * 2)

        with Claims(folder, expiry_seconds=60).take("a") as part:
            assert part is not None
            assert part.endswith("a.1.part")


def test_a_claim_of_the_same_run_is_left_wherever_its_process_was(folder: str) -> None:
    """Ray gives a shard to one actor at a time, and to the next one only when that has died."""
    with Claims(folder, run="mine").take("a"):
        of_another_machine(folder)
        with Claims(folder, run="another").take("a") as nothing, Claims(folder, run="mine").take("a") as part:
            assert nothing is None
            assert part is not None


def test_a_claim_is_touched_as_long_as_its_process_works(folder: str) -> None:
    with Claims(folder, expiry_seconds=0.5).take("a"):
        claim = of_another_machine(folder)
        os.utime(claim, (1, 1))
        deadline = time.monotonic() + 60
        while os.stat(claim).st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_claim_without_its_owners_name_counts_by_its_time(folder: str) -> None:
    os.mkdir(folder)
    Path(folder, "a.0").touch()  # killed between two system calls

    with Claims(folder).take("a") as part:
        assert part is None
    os.utime(Path(folder, "a.0"), (1, 1))
    with Claims(folder).take("a") as part:
        assert part is not None


_RACE = """
import os, sys, time
from zsclip.engine.claims import Claims
claims = Claims(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(200):
    if not os.path.exists(f"{sys.argv[2]}/{number}"):
        with claims.take(f"s-{number}") as part:
            if part is not None and not os.path.exists(f"{sys.argv[2]}/{number}"):
                with open(f"{sys.argv[2]}/{number}.{os.getpid()}", "x"):
                    pass
                open(part, "w").close()
                os.replace(part, f"{sys.argv[2]}/{number}")
                claims.clean(f"s-{number}")
claims.close()
"""


def test_processes_that_race_for_shards_do_each_once(folder: str, tmp_path: Path) -> None:
    """Half of the shards were left by a process that was killed."""
    os.mkdir(folder)
    kill(holder(folder))
    owner = Path(folder, "a.tar-1.0").read_text()
    for number in range(0, 200, 2):
        Path(folder, f"s-{number}.0").write_text(owner)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", _RACE, folder, str(tmp_path / "out")]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for racer in racers:
        assert racer.stdout is not None
        racer.stdout.readline()
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate()
        assert racer.returncode == 0

    made = [name for name in os.listdir(tmp_path / "out") if "." in name]
    assert len(made) == len({name.partition(".")[0] for name in made}) == 200
    assert sorted(os.listdir(folder)) == ["a.tar-1.0", "a.tar-1.0.part"]


def test_processes_come_while_the_last_one_leaves(folder: str) -> None:
    def come_and_go() -> None:
        claims = Claims(folder)
        for _ in range(500):
            assert claims.join({"labels": "a,b"}) is None
            assert claims.began() > 0
            claims.overwriting_since(is_begun=True)
            claims.close()

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(come_and_go) for _ in range(4)]:
            each.result()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()

    with pytest.raises(OutputError, match="x: not a directory; "), Claims(str(tmp_path / "a file" / "x")).take("a"):
        pass
