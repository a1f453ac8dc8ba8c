"""`zsclip apply --tag`: what happens to sidecars and pictures, and how it is taken back."""

import os
import random
from pathlib import Path

import pytest
from sidecars import BARE, FOREIGN, LIGHTROOM, lists_in, some_tags
from test_apply import Given, Run, given, row
from trees import apply, snapshot, take_back

from zsclip.out.reader import Answered
from zsclip.out.tagplan import Tagging

__all__ = ["given"]
GROUPS = "dog: {group: animal}\nsnow: {group: weather}\nsun:\n"


def test_sidecars_are_written_merged_and_taken_back(given: Given, run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/b.jpg.xmp").write_text(LIGHTROOM)
    os.chmod(tmp_path / "in/b.jpg.xmp", 0o640)
    os.utime(tmp_path / "in/b.jpg.xmp", ns=(10**18, 10**18))
    (tmp_path / "labels.yaml").write_text(GROUPS)
    given(row("in/a.jpg", "dog", "sun"), row("in/b.jpg", "snow"), row("in/c.jpg"), row("in/d.jpg", error="missing"))
    before = snapshot(tmp_path / "in")
    command = ("apply", "rows.jsonl", "--tag", "xmp", "--groups", "labels.yaml")

    planned = run(*command, "--dry-run")
    done = run(*command)
    after = snapshot(tmp_path / "in")
    again = run(*command)

    assert planned.stdout.decode() == "tag in/a.jpg.xmp: animal|dog, sun\ntag in/b.jpg.xmp: weather|snow\n"
    assert planned.stderr.splitlines()[0] == b"2 files would be written"
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode().splitlines() == [
        "2 files written",
        "not tagged: 1 without an answer and 1 that could not be read",
        "log: rows.jsonl.apply.jsonl; `zsclip apply --undo rows.jsonl.apply.jsonl` takes all of it back",
    ]
    assert lists_in((tmp_path / "in/a.jpg.xmp").read_bytes())["digiKam"] == ["animal/dog", "sun"]
    assert lists_in((tmp_path / "in/b.jpg.xmp").read_bytes())["lr"] == ["places|Rome", "weather|snow"]
    assert (tmp_path / "in/b.jpg.xmp").stat().st_mode & 0o777 == 0o640
    assert again.stderr.decode().splitlines()[0] == "2 tagged already"
    assert snapshot(tmp_path / "in") == after
    undone = run("apply", "--undo", "rows.jsonl.apply.jsonl")
    assert (undone.returncode, undone.stderr) == (0, b"2 files taken back\n")
    assert snapshot(tmp_path / "in") == before


def test_groups_have_as_many_levels_as_their_file_says(given: Given, run: Run, tmp_path: Path) -> None:
    (tmp_path / "labels.yaml").write_text(
        "dog: {group: [animal, mammal]}\nowl: {group: animal|bird}\nsun: {group: a/b}\n"
    )
    given(row("a.jpg", "dog", "owl", "sun"), row("b.jpg", "animal|bird"))  # the latter with --by group

    run("apply", "rows.jsonl", "--tag", "xmp", "--groups", "labels.yaml")

    assert lists_in((tmp_path / "a.jpg.xmp").read_bytes()) == {
        "dc": ["dog", "owl", "sun"],
        "lr": ["animal|mammal|dog", "animal|bird|owl", "a/b|sun"],
        "digiKam": ["animal/mammal/dog", "animal/bird/owl", "a\\b/sun"],
    }
    assert lists_in((tmp_path / "b.jpg.xmp").read_bytes()) == {
        "dc": ["bird"], "lr": ["animal|bird"], "digiKam": ["animal/bird"]
    }  # fmt: skip


def test_other_labels_and_unknown_rows_remove_our_tags_and_no_others(given: Given, run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jpg.xmp").write_text(LIGHTROOM)
    given(row("a.jpg", "dog"), row("b.jpg", "dog", score=0.4))
    run("apply", "rows.jsonl", "--tag", "xmp")

    planned = run("apply", "rows.jsonl", "--tag", "xmp", "--min-score", "0.5", "--dry-run")
    given(row("a.jpg"), row("b.jpg", "cat"))
    done = run("apply", "rows.jsonl", "--tag", "xmp")

    assert planned.stdout == b"untag b.jpg.xmp\n"
    assert done.stderr.splitlines()[0] == b"2 files written"
    assert (tmp_path / "a.jpg.xmp").read_text() == LIGHTROOM
    assert lists_in((tmp_path / "b.jpg.xmp").read_bytes())["dc"] == ["cat"]
    assert run("apply", "--undo", "rows.jsonl.apply.jsonl").stderr == b"4 files taken back\n"
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".xmp") == ["a.jpg.xmp"]


def test_pictures_may_share_a_sidecar_of_adobe_if_their_tags_are_the_same(
    given: Given, run: Run, tmp_path: Path
) -> None:
    given(row("a.jpg", "dog"), row("a.nef", "dog"), row("a.png", "cat"), row("a.jpg", "cat"))

    done = run("apply", "rows.jsonl", "--tag", "xmp", "--sidecar", "adobe", "-q")

    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "left a.png: a.xmp gets the tags of a.jpg",
        "left a.jpg: a.xmp gets the tags of another row",
    ]
    assert lists_in((tmp_path / "a.xmp").read_bytes())["dc"] == ["dog"]


def test_what_cannot_be_tagged_is_left_with_the_reason(given: Given, run: Run, tmp_path: Path) -> None:
    for name, data in (("a", "x"), ("b", "<!DOCTYPE x>" + BARE), ("c", " " * (8 << 20) + BARE)):
        (tmp_path / f"{name}.jpg.xmp").write_text(data)
    (tmp_path / "d.jpg.xmp").symlink_to("a.jpg.xmp")
    (tmp_path / "e.jpg.xmp").mkdir()
    (tmp_path / "x.tar").touch()
    given(
        *(row(name, "dog") for name in ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "x.tar#a.jpg", "https://x.org/a"])
    )
    before = snapshot(tmp_path)

    done = run("apply", "rows.jsonl", "--tag", "xmp", "-q")

    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "left a.jpg: a.jpg.xmp: not XML: syntax error in line 1",
        "left b.jpg: b.jpg.xmp: has a document type, which could declare entities",
        "left c.jpg: c.jpg.xmp is larger than 8 MB",
        "left d.jpg: d.jpg.xmp is not a regular file",
        "left e.jpg: e.jpg.xmp is not a regular file",
        "left x.tar#a.jpg: inside an archive; extract it to tag it",
        "left https://x.org/a: on a server; download it first",
    ]
    assert snapshot(tmp_path) == before


def test_a_sidecar_that_has_changed_since_stays(given: Given, run: Run, tmp_path: Path) -> None:
    (tmp_path / "b.jpg.xmp").write_text(LIGHTROOM)
    given(*(row(f"{name}.jpg", "dog") for name in "abc"))
    run("apply", "rows.jsonl", "--tag", "xmp")
    for name in "ab":
        path = tmp_path / f"{name}.jpg.xmp"
        path.write_bytes(path.read_bytes().replace(b"dog", b"cat"))
    os.utime(tmp_path / "c.jpg.xmp", (0, 0))  # only touched

    done = run("apply", "--undo", "rows.jsonl.apply.jsonl")

    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [f"left {name}.jpg.xmp: has changed since" for name in "ba"] + [
        "1 file taken back"
    ]
    assert not (tmp_path / "c.jpg.xmp").exists()


def test_a_file_that_several_runs_tagged_is_named_once(given: Given, run: Run, tmp_path: Path) -> None:
    for label in ("dog", "cat"):
        given(row("a.jpg", label))
        run("apply", "rows.jsonl", "--tag", "xmp")
    (tmp_path / "a.jpg.xmp").write_text(LIGHTROOM)

    done = run("apply", "--undo", "rows.jsonl.apply.jsonl", "-q")

    assert (done.returncode, done.stderr) == (1, b"left a.jpg.xmp: has changed since\n")
    assert (tmp_path / "a.jpg.xmp").read_text() == LIGHTROOM


@pytest.mark.parametrize("before", [None, LIGHTROOM])
def test_a_sidecar_that_another_program_wrote_after_a_kill_is_never_taken_for_ours(
    before: str | None, given: Given, run: Run, tmp_path: Path
) -> None:
    """The run is killed between its announcement and the sidecar."""
    sidecar, log = tmp_path / "a.jpg.xmp", tmp_path / "rows.jsonl.apply.jsonl"
    if before is not None:
        sidecar.write_text(before)
    given(row("a.jpg", "dog"))
    run("apply", "rows.jsonl", "--tag", "xmp")
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    sidecar.write_bytes(FOREIGN["exiftool"])

    done = run("apply", "--undo", "rows.jsonl.apply.jsonl")

    assert (done.returncode, done.stderr) == (0, b"nothing is left to take back\n")
    assert sidecar.read_bytes() == FOREIGN["exiftool"]


def test_what_a_killed_run_wrote_is_taken_back_after_later_runs(given: Given, run: Run, tmp_path: Path) -> None:
    """The run is killed between the sidecar and the line that says so."""
    log = tmp_path / "rows.jsonl.apply.jsonl"
    given(row("a.jpg", "dog"))
    run("apply", "rows.jsonl", "--tag", "xmp")
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    given(row("a.jpg", "cat"))
    run("apply", "rows.jsonl", "--tag", "xmp")

    done = run("apply", "--undo", "rows.jsonl.apply.jsonl")

    assert (done.returncode, done.stderr) == (0, b"2 files taken back\n")
    assert not (tmp_path / "a.jpg.xmp").exists()


def make_pictures(chance: random.Random, root: Path) -> list[Answered]:
    """Make pictures, some with sidecars, and give their rows."""
    rows = []
    for name in ("a.jpg", "b/a.jpg", "new\nline.jpg", "-rf.png", "\udcff.jpg", "日本.jpg", "none"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name.encode("utf-8", "replace").decode())
        if chance.random() < 0.7:
            sidecar = root / f"{name}.xmp"
            sidecar.write_bytes(chance.choice([*FOREIGN.values(), b"no XML"]))
            os.utime(sidecar, ns=(chance.randrange(10**18),) * 2)
        rows.append(Answered(os.fspath(path), tuple((label, 0.9) for label, _ in some_tags(chance))))
    return rows


@pytest.mark.parametrize("seed", range(10))
def test_several_runs_are_taken_back_to_the_byte(seed: int, tmp_path: Path) -> None:
    chance, root, log = random.Random(seed), tmp_path / "tree", tmp_path / "log.jsonl"
    make_pictures(chance, root)
    before = snapshot(root)
    for _ in range(3):
        rows = [Answered(each.name, each.labels) for each in make_rows(chance, root)]
        _, outcome = apply(rows, Tagging(), log)
        assert outcome.left == []
        again, _ = apply(rows, Tagging(), log)
        assert again.groups == []

    assert take_back(log).left == []
    assert snapshot(root) == before


def make_rows(chance: random.Random, root: Path) -> list[Answered]:
    names = [os.path.join(folder, name) for folder, _, files in os.walk(root) for name in files if name[-4:] != ".xmp"]
    return [Answered(name, tuple((label, 0.9) for label, _ in some_tags(chance))) for name in names]


def test_the_order_of_labels_and_the_path_to_a_folder_make_no_difference(
    given: Given, run: Run, tmp_path: Path
) -> None:
    given(row("in/a.jpg", "dog", "snow"), row("in/a.nef", "snow", "dog"))
    (tmp_path / "link").symlink_to("in")
    given(row("in/a.jpg", "dog", "snow"), row("in/a.nef", "snow", "dog"), row("link/a.jpg", "dog", "snow"))

    done = run("apply", "rows.jsonl", "--tag", "xmp", "--sidecar", "adobe", "--log", "log")
    given(row("in/a.jpg", "dog"), row("link/a.jpg", "cat"))
    differing = run("apply", "rows.jsonl", "--tag", "xmp", "-q")

    assert (done.returncode, done.stderr.splitlines()[0]) == (0, b"1 file written")
    assert (differing.returncode, differing.stderr) == (1, b"left link/a.jpg: a.jpg.xmp gets the tags of another row\n")


def test_a_group_is_found_in_either_normal_form(given: Given, run: Run, tmp_path: Path) -> None:
    (tmp_path / "labels.yaml").write_text("cafe\u0301: {group: places}\nna\xefve: {group: moods}\n")
    given(row("a.jpg", "caf\xe9", "nai\u0308ve"))

    run("apply", "rows.jsonl", "--tag", "xmp", "--groups", "labels.yaml")

    assert lists_in((tmp_path / "a.jpg.xmp").read_bytes())["lr"] == ["places|caf\xe9", "moods|nai\u0308ve"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_a_sidecar_keeps_its_owner_and_group(given: Given, run: Run, tmp_path: Path) -> None:
    sidecar = tmp_path / "a.jpg.xmp"
    sidecar.write_text(LIGHTROOM)
    os.chown(sidecar, 1234, 5678)
    given(row("a.jpg", "dog"))

    for command in (["rows.jsonl", "--tag", "xmp"], ["--undo", "rows.jsonl.apply.jsonl"]):
        assert run("apply", *command).returncode == 0
        assert (sidecar.stat().st_uid, sidecar.stat().st_gid) == (1234, 5678)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tag", "xmp", "--copy-to", "out"], "found --copy-to and --tag"),
        (["--tag", "xmp", "--unknown-to", "out"], "--unknown-to: not with --tag, which leaves images where they are"),
        (["--tag", "xmp", "--no-companions"], "--no-companions: not with --tag, which"),
        (["--tag", "exiftool", "--sidecar", "adobe"], "--sidecar: only with --tag xmp"),
        (["--copy-to", "out", "--groups", "l.txt"], "--groups: only with --tag"),
        (["--tag", "xmp", "--groups", "l.txt"], "--groups l.txt: no label has a group; write"),
        (["--tag", "xmp", "--groups", "nope.txt"], "nope.txt"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str, given: Given, run: Run, tmp_path: Path) -> None:
    given(row("a.jpg", "dog"))
    (tmp_path / "l.txt").write_text("dog\ncat\n")

    done = run("apply", "rows.jsonl", *arguments)

    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert said in done.stderr.decode()
