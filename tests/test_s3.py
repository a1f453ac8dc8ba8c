"""Images, archives and folders on S3 give the rows that they give as files; and a bucket that fails costs rows."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from album import ALBUM, LABELS, Run, content_of, folder_of, rows_of, write
from servers import serving

from zsclip.pictures import fetch, identity, remote
from zsclip.pictures.files import find_images

s3fs = pytest.importorskip("s3fs")
server_of_moto = pytest.importorskip("moto.server")

NAMES = [name for name in ALBUM if "\udce9" not in name and name != "two\nlines.png"]  # what a bucket may hold
KINDS = ("a.tar", "a.tar.gz", "a.zip", "struct.parquet", "binary.parquet")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A bucket with the album as a folder and in archives, and the same in a local folder."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    folder, patch = tmp_path_factory.mktemp("bucket"), pytest.MonkeyPatch()
    folder_of(folder / "album", {name: ALBUM[name] for name in NAMES})
    for kind in KINDS:
        write(folder / kind, [(name, ALBUM[name]) for name in NAMES], "album")
    (folder / "a.csv").write_text("file_name\nalbum/00.png\ns3://bucket/album/03.png\nalbum/none.png\n")
    server = server_of_moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y"), ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
    ):  # fmt: skip
        patch.setenv(name, value)
    fetch._server.cache_clear()
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.mkdir("bucket")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files.pipe(f"bucket/{path.relative_to(folder)}", path.read_bytes())
    yield files, folder
    fetch._server.cache_clear()
    patch.undo()
    server.stop()


@pytest.mark.parametrize("kind", [*KINDS, "album"])
def test_what_is_in_a_bucket_is_what_is_in_the_file(kind: str, bucket: tuple[Any, Path]) -> None:
    folder = bucket[1]
    local = content_of(find_images([str(folder / kind)]))

    for url in (f"s3://bucket/{kind}", f"s3://bucket/{kind}/")[: 2 if kind == "album" else 1]:
        far = content_of(find_images([url]))
        names = [name.replace(str(folder), "s3://bucket") for name, _ in local]
        assert [name for name, _ in far] == names
        assert [data for _, data in far] == [data or "unreadable: the file is empty" for _, data in local]
        assert len(far) == len(NAMES)


def test_exclude_and_limit_go_by_the_names_in_a_bucket(bucket: tuple[Any, Path]) -> None:
    folder = str(bucket[1])
    for options in ({"exclude": ["below"]}, {"exclude": ["*.jpeg", "below/0*"]}, {"limit": 3}, {"all_files": True}):
        local = find_images([f"{folder}/album"], **options)  # type: ignore[arg-type]
        far = find_images(["s3://bucket/album"], **options)  # type: ignore[arg-type]
        assert [name.replace(folder, "s3://bucket") for name in local] == list(far)
        assert local.passed_over.excluded == far.passed_over.excluded


def test_lists_in_a_bucket_are_relative_to_it(bucket: tuple[Any, Path]) -> None:
    found = content_of(find_images(["s3://bucket/a.csv"]))

    assert found == [
        ("s3://bucket/album/00.png", ALBUM["00.png"]),
        ("s3://bucket/album/03.png", ALBUM["03.png"]),
        ("s3://bucket/album/none.png", "missing: no such file on the server"),
    ]


@pytest.mark.parametrize("kind", ["a.tar", "album"])
def test_a_second_run_reads_nothing_of_a_bucket(
    kind: str, bucket: tuple[Any, Path], run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "GRAIN_NS", 0)
    command = ("classify", f"s3://bucket/{kind}", *LABELS, "-m", model, "-f", "jsonl", "--exclude", "[cdet]*")
    first = run(*command)
    assert b"encoded by an earlier run" not in first.stderr
    remote._BLOCKS._blocks.clear()

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a file is read")

    monkeypatch.setattr(fetch.Server, "_cat", refuse)
    second = run(*command)

    assert rows_of(second) == rows_of(first)
    assert len(rows_of(first)) >= 20
    assert b"encoded by an earlier run" in second.stderr


def test_what_is_not_in_a_bucket_ends_before_a_model_is_looked_for(bucket: tuple[Any, Path], run: Run) -> None:
    for url in ("s3://bucket/none.jpg", "s3://bucket/none.tar", "s3://none/a.tar"):
        done = run("classify", url, *LABELS, "-m", "no/such-model")
        assert done.returncode == 2
        assert done.stderr.decode() == f"zsclip: cannot read {url!r}: no such file on the server\n"


def test_a_bucket_that_is_busy_for_a_while_or_for_ever(
    bucket: tuple[Any, Path], run: Run, model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fetch, "_FIRST_WAIT_SECONDS", 0.01)
    (tmp_path / "a.csv").write_text("path\n" + "".join(f"s3://bucket/album/0{i}.png\n" for i in (0, 3, 6)))
    command = ("classify", "a.csv", *LABELS, "-m", model, "-f", "jsonl", "-q", "--no-store")
    calm = run(*command)
    with serving(tmp_path, behind=os.environ["AWS_ENDPOINT_URL"]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        fetch._server.cache_clear()
        server.fault = lambda path, count: 503 if count % 6 < 2 else None
        busy = run(*command)
        server.fault = lambda path, count: 503
        begun = time.monotonic()
        never = rows_of(run(*command))
        assert time.monotonic() - begun < 30
        assert server.asked
    fetch._server.cache_clear()

    assert calm.stdout, calm.stderr
    assert busy.stdout == calm.stdout
    assert [row["error"] for row in never] == ["unreadable"] * 3
    assert all(row["message"].startswith("cannot be fetched: ") for row in never)


def test_a_bucket_is_the_same_from_an_archive_as_from_its_files(bucket: tuple[Any, Path], run: Run, model: str) -> None:
    command = ("classify", *LABELS, "-m", model, "-f", "jsonl", "-q", "--no-store", "-k", "5", "--batch-size", "1")
    expected = {row["file_name"].rpartition("/")[2]: row for row in rows_of(run(*command, str(bucket[1] / "album")))}
    for kind in ("a.tar", "album"):
        for row in rows_of(run(*command, f"s3://bucket/{kind}")):
            same = expected[row["file_name"].removeprefix("s3://bucket/a.tar#").rpartition("/")[2]]
            assert row | {"file_name": ""} == same | {"file_name": ""}
