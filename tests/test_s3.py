"""Images, archives and folders on S3 give the rows that they give as files; and a bucket that fails costs rows."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from album import ALBUM, LABELS, Run, content_of, folder_of, rows_of, write
from clips import make_clip
from servers import serving
from test_parts import parts_of
from test_parts import rows_of as parts_as_rows

from zsclip.errors import InputError
from zsclip.pictures import far_file, fetch, identity
from zsclip.pictures.files import find_images
from zsclip.pictures.remote import Network

s3fs = pytest.importorskip("s3fs")
server_of_moto = pytest.importorskip("moto.server")

NAMES = [name for name in ALBUM if "\udce9" not in name and name != "two\nlines.png"]  # what a bucket may hold
KINDS = ("a.tar", "a.tar.gz", "a.zip", "struct.parquet", "binary.parquet")


@contextmanager
def serving_s3() -> Iterator[Any]:
    """Start a server of S3 that this process and those that it starts use; give what writes to it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_of_moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y"), ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ):  # fmt: skip
            patch.setenv(name, value)
        urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()  # of an earlier server
        fetch._server.cache_clear()
        try:
            yield s3fs.S3FileSystem(skip_instance_cache=True)
        finally:
            fetch._server.cache_clear()
            server.stop()


def upload(folder: Path, files: Any) -> None:
    """Put all files of a folder into a bucket."""
    files.mkdir("bucket")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files.pipe(f"bucket/{path.relative_to(folder)}", path.read_bytes())


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A bucket with the album as a folder and in archives, and the same in a local folder."""
    folder = tmp_path_factory.mktemp("bucket")
    (folder / "clips" / "below").mkdir(parents=True)
    folder_of(folder / "album", {name: ALBUM[name] for name in NAMES})
    for kind in KINDS:
        write(folder / kind, [(name, ALBUM[name]) for name in NAMES], "album")
    make_clip(folder / "clips" / "a.mp4", 60)
    make_clip(folder / "clips" / "below" / "b.mkv", 30)
    write(folder / "clips" / "z.tar", [("00.png", ALBUM["00.png"])], "")
    folder_of(folder / "clips", {"00.png": ALBUM["00.png"], "a0.png": ALBUM["03.png"], "z.png": ALBUM["06.png"]})
    folder_of(folder / "[ab].d", {"[x].png": ALBUM["00.png"], "x.png": ALBUM["03.png"]})
    (folder / "a.csv").write_text("file_name\nalbum/00.png\ns3://bucket/album/03.png\nalbum/none.png\n")
    with serving_s3() as files:
        upload(folder, files)
        yield files, folder


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


PATTERNS = (
    "*.tar", "a.[tz]*", "*.parquet", "album/*", "album/0?.png", "al*/0[0-3].*", "*/*.png", "**/*.jpeg", "**/0*.png",
    "album/**/0*.png", "alb*", "alb*/", "album/**", "al*/**", "album/bel*", "cl*/[!z]*.png", "{a,struct}.[tp]*",
    "[[]ab].d/*", "[ab].d/[x].png", "album/caf*",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_glob_matches_what_it_does_in_a_folder(pattern: str, bucket: tuple[Any, Path]) -> None:
    folder = str(bucket[1]).replace("[", "[[]")

    near = list(find_images([f"{folder}/{pattern}"]))
    far = list(find_images([f"s3://bucket/{pattern}"]))

    assert far == [name.replace(str(bucket[1]), "s3://bucket") for name in near]
    assert far


def test_what_a_glob_found_is_not_asked_for_again(
    bucket: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(tmp_path, behind=os.environ["AWS_ENDPOINT_URL"]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        fetch._server.cache_clear()
        find_images(["s3://bucket/album/0*.png"])
    fetch._server.cache_clear()

    assert server.count("HEAD") == 1  # whether a file has this very name


@pytest.mark.parametrize("url", ["s3://bucket/none*.png", "s3://bucket/none/*", "s3://none/*", "s3://bucket/a.tar/*"])
def test_a_glob_that_matches_nothing_is_one_line(url: str, bucket: tuple[Any, Path]) -> None:
    with pytest.raises(InputError) as raised:
        find_images([url])

    assert str(raised.value) == f"no file or folder matches {url!r}"


def test_a_glob_is_not_expanded_offline(bucket: tuple[Any, Path]) -> None:
    with pytest.raises(InputError, match="a URL, which --offline forbids"):
        find_images(["s3://bucket/*"], network=Network(offline=True))


def test_a_glob_of_archives_is_a_part_for_each(bucket: tuple[Any, Path], run: Run, model: str, tmp_path: Path) -> None:
    command = ("classify", "s3://bucket/a.[tz]*", *LABELS, "-m", model, "--no-store")

    done = run(*command, "-o", "out/")
    again = run(*command, "-o", "out/")

    names = [name.rpartition("-")[0] for name in parts_of(tmp_path / "out")]
    assert names == ["a.tar", "a.tar.gz", "a.zip"], done.stderr
    assert b"out/: already complete: " in again.stderr


def test_a_run_in_parts_is_checked_before_a_model_is_looked_for(bucket: tuple[Any, Path], run: Run) -> None:
    command = ("classify", *LABELS, "-m", "no/such-model", "-o", "out/")

    none = run(*command, "s3://bucket/a.tar", "s3://bucket/none.tar")
    offline = run(*command, "s3://bucket/a.tar", "--offline")

    told = "zsclip: cannot read 's3://bucket/none.tar': no such file on the server\n"
    assert (none.returncode, none.stderr.decode()) == (2, told)
    told = "zsclip: 's3://bucket/a.tar': a URL, which --offline forbids; download the file first\n"
    assert (offline.returncode, offline.stderr.decode()) == (2, told)


def test_archives_in_a_folder_are_passed_over_as_on_the_disk(bucket: tuple[Any, Path], run: Run, model: str) -> None:
    for root in ("s3://bucket", str(bucket[1])):
        done = run("classify", f"{root}/clips", *LABELS, "-m", model, "-f", "jsonl")
        assert len(rows_of(done)) == 3
        passed_over = "passed over: 1 .mkv (video; add --every 1s), 1 .mp4 (video; add --every 1s), "
        assert passed_over + "1 .tar (an archive; name it to read it)" in done.stderr.decode()


@pytest.mark.parametrize("inputs", ["clips/a.mp4", "clips", "clips/*.mp4", "**/*.mkv"])
def test_videos_give_the_rows_of_the_files(inputs: str, bucket: tuple[Any, Path], run: Run, model: str) -> None:
    command = ("classify", *LABELS, "-m", model, "-f", "jsonl", "--every", "7", "--batch-size", "1", "--no-store")

    near, far = rows_of(run(*command, f"{bucket[1]}/{inputs}")), rows_of(run(*command, f"s3://bucket/{inputs}"))

    assert [row["file_name"].replace(str(bucket[1]), "s3://bucket") for row in near] == [r["file_name"] for r in far]
    assert [row | {"file_name": ""} for row in near] == [row | {"file_name": ""} for row in far]
    assert sum("#t=" in row["file_name"] for row in far) >= 5


def test_videos_in_a_folder_are_parts_of_a_run(bucket: tuple[Any, Path], run: Run, model: str, tmp_path: Path) -> None:
    command = ("classify", "s3://bucket/clips", *LABELS, "-m", model, "--every", "7", "--no-store")

    whole = rows_of(run(*command, "-f", "jsonl"))
    done = run(*command, "-o", "out/", "--shard-size", "2")

    assert done.returncode == 0, done.stderr
    assert parts_of(tmp_path / "out") == [f"files-{i:06}.parquet" for i in range(3)]
    assert [row["file_name"] for row in parts_as_rows(tmp_path / "out")] == [row["file_name"] for row in whole]
    dry = run(*command, "-o", "out/", "--shard-size", "2", "--dry-run")
    assert dry.stdout == b"3 shards, 3 complete; left: 0 images\n"


def test_a_second_run_reads_no_frame_of_a_bucket(
    bucket: tuple[Any, Path], run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "GRAIN_NS", 0)
    command = ("classify", "s3://bucket/clips/a.mp4", *LABELS, "-m", model, "-f", "jsonl", "--every", "5")
    first = run(*command)
    far_file._BLOCKS._blocks.clear()
    monkeypatch.setattr(fetch.Server, "_cat", None)

    second = run(*command)

    assert second.stdout == first.stdout
    assert second.stderr.startswith(b"12 images, encoded by an earlier run")


def test_an_archive_that_was_replaced_is_done_again_but_not_if_the_bucket_is_down(
    bucket: tuple[Any, Path], run: Run, model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fetch, "_FIRST_WAIT_SECONDS", 0.01)
    files, folder = bucket
    files.pipe("bucket/parts/a.tar", (folder / "a.tar").read_bytes())
    command = ("classify", "s3://bucket/parts/a.tar", *LABELS, "-m", model, "--no-store", "-o", "out/")
    run(*command)
    before = parts_as_rows(tmp_path / "out")

    with serving(tmp_path, behind=os.environ["AWS_ENDPOINT_URL"], fault=lambda path, count: 503) as server:
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", server.url)
            fetch._server.cache_clear()
            down = run(*command)
        fetch._server.cache_clear()
    assert b"already complete" in down.stderr, down.stderr
    write(tmp_path / "b.tar", [("only.png", ALBUM["00.png"])], "")
    files.pipe("bucket/parts/a.tar", (tmp_path / "b.tar").read_bytes())
    replaced = run(*command)

    assert len(before) == len(NAMES)
    assert b"s3://bucket/parts/a.tar has changed, so it is written again" in replaced.stderr
    assert [row["file_name"] for row in parts_as_rows(tmp_path / "out")] == ["s3://bucket/parts/a.tar#only.png"]


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
    far_file._BLOCKS._blocks.clear()

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
