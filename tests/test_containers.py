"""Images in archives, Parquet files and lists get the rows that they get as files; and nothing is lost or believed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from album import ALBUM, KINDS, LABELS, Run, folder_of, good_album, numbers_of, rows_of, write, write_tar, write_zip
from conftest import HANGS

from zsclip import Answers, Classifier
from zsclip.pictures import identity, shards
from zsclip.pictures.files import find_images
from zsclip.pictures.refused import Refused


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_same_pictures_in_a_folder(kind: str, run: Run, tmp_path: Path, model: str) -> None:
    names = [name for name in folder_of(tmp_path / "album") if kind != "paths.parquet" or name.isascii()]
    command = ("classify", *LABELS, "-m", model, "-f", "jsonl", "--no-store", "-q", "-k", "5")
    expected = {row["file_name"]: row for row in rows_of(run(*command, "album"))}
    write(tmp_path / kind, [(name, ALBUM[name]) for name in names], "album")
    column = ("--column", "path") if kind == "paths.parquet" else ()

    done = run(*command, kind, *column)

    is_rows, is_listed = kind in ("struct.parquet", "binary.parquet"), kind in KINDS[5:]
    found = rows_of(done)
    assert done.returncode == 1  # some are damaged
    assert len(found) == len(names) >= 27
    for number, (row, name) in enumerate(zip(found, names, strict=True)):
        own = f"album/{name}" if is_listed else f"{kind}#{number if is_rows else name}"
        assert os.fsencode(row["file_name"]) == os.fsencode(own)
        same = expected[f"album/{name}"]
        assert row["error"] == same["error"]
        assert row["message"] == same["message"]
        assert row["label"] == same["label"]
        assert numbers_of(row) == pytest.approx(numbers_of(same), abs=1e-5)
    assert sum(row["error"] is None for row in found) >= 23


@pytest.mark.parametrize("kind", KINDS[:5])
def test_a_second_run_reads_no_picture(
    kind: str, run: Run, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    album = good_album()
    write(tmp_path / kind, album, "")
    monkeypatch.setattr(identity, "GRAIN_NS", 0)
    command = ("classify", kind, *LABELS, "-m", model, "-f", "jsonl")
    first = run(*command)
    assert b"encoded by an earlier run" not in first.stderr

    def refuse(*arguments: object) -> bytes:
        raise AssertionError("a picture is read")

    for module, name in (("shards", "Shard.picture"), ("columns", "_read_block"), ("tars", "check_packed")):
        monkeypatch.setattr(f"zsclip.pictures.{module}.{name}", refuse)
    second = run(*command)

    assert first.stdout == second.stdout
    assert second.stderr.decode().startswith(f"{len(album)} images, encoded by an earlier run\n")


def test_a_shard_that_was_changed_a_moment_ago_gives_no_keys_and_a_changed_one_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "a.tar", good_album())

    def keys() -> list[bytes | None]:
        return [key for some in find_images([str(tmp_path / "a.tar")]).rest() for key in some.keys(0, len(some)) or ()]

    assert set(keys()) == {None}
    monkeypatch.setattr(identity, "GRAIN_NS", 0)
    first = keys()
    assert None not in first
    assert len(set(first)) == len(good_album())
    assert first == sorted(first, key=bytes)  # type: ignore[arg-type]
    assert keys() == first
    status = os.stat(tmp_path / "a.tar")
    with open(tmp_path / "a.tar", "r+b") as file:
        file.write(b"x")
    os.utime(tmp_path / "a.tar", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not set(keys()) & set(first)


def test_a_shard_that_changes_during_the_run_is_not_read_on(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, [("a.png", b"first")])
    (some,) = find_images([str(path)]).rest()
    shards._opened.cache_clear()
    path.unlink()
    write_tar(path, [("a.png", b"other")])

    with pytest.raises(Refused, match="has changed since this run began"):
        some.open(0)


@pytest.mark.parametrize("name", ["a.tar", "a.csv", "d/a.png"])
def test_an_input_is_not_replaced(name: str, run: Run, tmp_path: Path, model: str) -> None:
    folder_of(tmp_path / "d", {"a.png": ALBUM["00.png"]})
    write_tar(tmp_path / "a.tar", good_album()[:2])
    (tmp_path / "a.csv").write_text("file_name\nd/a.png\n")
    before = (tmp_path / name).read_bytes()

    done = run("classify", "a.tar", "a.csv", *LABELS, "-m", model, "-f", "csv", "-o", name, "--overwrite")

    assert done.returncode == 2
    assert b"would overwrite" in done.stderr
    assert (tmp_path / name).read_bytes() == before


def test_from_python_an_archive_gives_answers_for_its_members(tmp_path: Path, model: str) -> None:
    album = good_album()[:4]
    write_tar(tmp_path / "a.tar", album)
    write_zip(tmp_path / "b.zip", album[:1])
    classify = Classifier(["red", "green", "blue"], model=model)

    answers = classify(tmp_path / "a.tar")
    several = classify([tmp_path / "b.zip", album[3][1], str(tmp_path / "a.tar")])

    assert isinstance(answers, Answers)
    assert list(answers.names) == [f"{tmp_path}/a.tar#{name}" for name, _ in album]
    assert "image/webp" in answers._repr_html_()
    assert len(classify(tmp_path / "b.zip")) == 1
    assert len(classify(f"{tmp_path}/{{a.tar,b.zip}}")) == 5
    assert classify(answers.names[2]) == answers[2]  # one picture has one record
    assert list(classify([answers.names[2]])) == [answers[2]]
    assert several.labels == [*answers.labels[:1], answers.labels[3], *answers.labels]
    assert several._repr_html_().count("image/webp") == 6


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "struct.parquet"])
def test_a_run_over_an_archive_that_was_killed_goes_on(kind: str, tmp_path: Path, model: str) -> None:
    names = folder_of(tmp_path / "album")
    write(tmp_path / kind, [(name, ALBUM[name]) for name in names], "album")
    command = [sys.executable, "-m", "zsclip", "classify", kind, *LABELS, "-m", model, "-q", "--no-store"]
    command += ["--batch-size", "1", "-j", "1", "-o", "rows.jsonl"]
    process = subprocess.Popen(command, cwd=tmp_path)
    while not (tmp_path / "rows.jsonl.part").exists() or (tmp_path / "rows.jsonl.part").read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait(HANGS)
    done = (tmp_path / "rows.jsonl.part").read_bytes().count(b"\n")
    assert 5 <= done < len(names)

    resumed = subprocess.run([*command, "--resume"], cwd=tmp_path, timeout=HANGS)
    rows = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").unlink()
    whole = subprocess.run(command, cwd=tmp_path, timeout=HANGS)

    assert resumed.returncode == whole.returncode == 1
    assert rows == (tmp_path / "rows.jsonl").read_bytes()
