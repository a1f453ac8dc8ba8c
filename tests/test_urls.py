"""Images, archives, Parquet files and lists by URL give the rows that they give as files, whatever the server does."""

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from album import ALBUM, KINDS, LABELS, Run, content_of, folder_of, good_album, rows_of, write, write_tar
from conftest import HANGS
from servers import serving

from zsclip import Classifier
from zsclip.errors import InputError
from zsclip.pictures import far_file, fetch, identity
from zsclip.pictures.files import find_images
from zsclip.pictures.remote import Network
from zsclip.pictures.urls import without_password
from zsclip.pixels import ahead

pytest.importorskip("aiohttp")
ARCHIVES = KINDS[:5]
# Beside rows of a run, a list of them: each row gives exactly the same numbers, as all batches have the same shape.
EXACT = ("-f", "jsonl", "-q", "--no-store", "-k", "5", "--batch-size", "1")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_FIRST_WAIT_SECONDS", 0.01)
    far_file._BLOCKS._blocks.clear()
    fetch._server.cache_clear()


def album_in(folder: Path) -> list[str]:
    """Write the album into all kinds of containers, and into a folder; give the names of its files."""
    names = folder_of(folder / "album")
    for kind in KINDS:
        some = [(name, ALBUM[name]) for name in names if kind != "paths.parquet" or name.isascii()]
        write(folder / kind, some, "album")
    return names


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_a_file_on_a_server_is_what_is_in_the_file(kind: str, has_ranges: bool, tmp_path: Path) -> None:
    album_in(tmp_path)
    column = {"column": "path"} if kind == "paths.parquet" else {}
    local = content_of(find_images([str(tmp_path / kind)], **column))  # type: ignore[arg-type]

    with serving(tmp_path, has_ranges=has_ranges) as server:
        far = content_of(find_images([f"{server.url}/{kind}"], **column))  # type: ignore[arg-type]

    assert [data or "unreadable: the file is empty" for _, data in local] == [data for _, data in far]
    if kind in ARCHIVES:
        assert [name.replace(str(tmp_path), server.url) for name, _ in local] == [name for name, _ in far]
        assert server.count("GET") == (1 if has_ranges else 2)  # one that is not answered with a part
    assert len(far) >= 27


@pytest.mark.parametrize("kind", ["a.tar", "a.zip", "struct.parquet", "binary.parquet", "a.csv"])
def test_rows_are_those_of_the_files_to_the_last_digit(kind: str, run: Run, tmp_path: Path, model: str) -> None:
    names = album_in(tmp_path)
    command = ("classify", *LABELS, "-m", model, *EXACT)
    expected = {row["file_name"]: row for row in rows_of(run(*command, "album"))}

    with serving(tmp_path) as server:
        done = run(*command, f"{server.url}/{kind}")

    assert done.returncode == 1  # some are damaged
    found = rows_of(done)
    assert len(found) == len(names)
    for row, name in zip(found, names, strict=True):
        assert row | {"file_name": ""} == expected[f"album/{name}"] | {"file_name": ""}


def test_urls_on_the_command_line_on_stdin_in_lists_and_in_python(run: Run, tmp_path: Path, model: str) -> None:
    folder_of(tmp_path / "d", {f"s-{i}.png": data for i, data in enumerate(list(ALBUM.values())[:4])})
    command = ("classify", *LABELS, "-m", model, *EXACT)
    expected = [row | {"file_name": ""} for row in rows_of(run(*command, "d"))]
    with serving(tmp_path) as server:
        urls = [f"{server.url}/d/s-{i}.png?x=[{i}]" for i in range(4)]
        (tmp_path / "urls.csv").write_text("image\n" + "\n".join(urls))
        (tmp_path / "mixed.jsonl").write_text(f'{{"path": "{urls[0]}"}}\n{{"path": "d/s-1.png"}}\n')

        for inputs, given in ((urls, b""), (["-"], "\n".join(urls).encode()), (["urls.csv"], b"")):
            rows = rows_of(run(*command, *inputs, input=given))
            assert [row["file_name"] for row in rows] == urls
            assert [row | {"file_name": ""} for row in rows] == expected
        braces = rows_of(run(*command, f"{server.url}/d/s-{{0..3}}.png"))
        assert [row | {"file_name": ""} for row in braces] == expected
        mixed = rows_of(run(*command, "mixed.jsonl"))
        assert [row["file_name"] for row in mixed] == [urls[0], "d/s-1.png"]
        assert [row | {"file_name": ""} for row in mixed] == expected[:2]
        classify = Classifier(["red", "green", "blue", "a dog", "w7"], model=model)
        assert classify(urls[0]).label == expected[0]["label"]
        assert classify([urls[1], tmp_path / "d" / "s-0.png"]).labels == [expected[1]["label"], expected[0]["label"]]
        assert "image/webp" in classify(urls)._repr_html_()


def test_members_are_named_by_urls_on_the_command_line_and_in_a_list_beside_the_archive(
    run: Run, tmp_path: Path, model: str
) -> None:
    write_tar(tmp_path / "a b.tar", [(f"d/{name}", data) for name, data in good_album()[:3]])
    command = ("classify", *LABELS, "-m", model, *EXACT)
    with serving(tmp_path) as server:
        rows = rows_of(run(*command, f"{server.url}/a%20b.tar"))
        members = [row["file_name"].rpartition("#")[2] for row in rows]
        (tmp_path / "list.csv").write_text("file_name\n" + "\n".join(f"a b.tar#{member}" for member in members))

        one = rows_of(run(*command, rows[1]["file_name"]))
        listed = rows_of(run(*command, f"{server.url}/list.csv"))

    assert len(rows) == 3
    assert one == rows[1:2]
    assert listed == rows


def test_offline_no_archive_is_asked_for_a_member(run: Run, tmp_path: Path, model: str) -> None:
    """Not even to find out that no input is replaced."""
    write_tar(tmp_path / "a.tar", good_album()[:2])
    (tmp_path / "rows.csv").write_text("old")
    with serving(tmp_path) as server:
        member = f"{server.url}/a.tar#{good_album()[0][0]}"

        done = run("classify", member, *LABELS, "-m", model, "--offline", "-o", "rows.csv", "--overwrite")

    assert done.returncode == 2
    assert b"which --offline forbids" in done.stderr
    assert server.asked == []
    assert (tmp_path / "rows.csv").read_text() == "old"


def test_an_archive_is_recognised_by_one_head_alone(
    run: Run, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "GRAIN_NS", 0)
    write_tar(tmp_path / "a.tar", good_album())
    with serving(tmp_path) as server:
        command = ("classify", f"{server.url}/a.tar", *LABELS, "-m", model, "-f", "jsonl")
        first = run(*command)
        assert b"encoded by an earlier run" not in first.stderr
        far_file._BLOCKS._blocks.clear()
        server.asked.clear()

        second = run(*command)

        assert second.stdout == first.stdout
        assert server.asked == [("HEAD", "a.tar")]
        write_tar(tmp_path / "a.tar", good_album()[1:])
        assert len(rows_of(run(*command))) == len(good_album()) - 1


def test_an_image_named_on_the_command_line_is_recognised_by_one_head_alone(
    run: Run, tmp_path: Path, model: str
) -> None:
    (tmp_path / "a.png").write_bytes(ALBUM["00.png"])
    with serving(tmp_path) as server:
        command = ("classify", f"{server.url}/a.png", *LABELS, "-m", model, "-f", "jsonl")
        first = run(*command)
        server.asked.clear()

        assert run(*command).stdout == first.stdout
        assert server.asked == [("HEAD", "a.png")]
        (tmp_path / "a.png").write_bytes(ALBUM["03.png"])
        assert run(*command).stdout != first.stdout


@pytest.mark.parametrize("kind", ["a.zip", "struct.parquet", "a.csv"])
def test_members_and_files_are_recognised_without_reading_them(
    kind: str, run: Run, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path / "album", dict(good_album()))
    write(tmp_path / kind, good_album(), "album")
    with serving(tmp_path) as server:
        command = ("classify", f"{server.url}/{kind}", *LABELS, "-m", model, "-f", "jsonl")
        first = run(*command)
        sent = server.sent
        monkeypatch.setattr("zsclip.pictures.shards.Shard.picture", None)
        monkeypatch.setattr("zsclip.pictures.columns._read_block", None)

        second = run(*command)

        assert second.stdout == first.stdout
        assert b"encoded by an earlier run" in second.stderr
        if kind == "a.csv":  # the list itself
            assert server.sent == sent
        server.has_tags = False
        assert run(*command).returncode == (0 if kind == "a.csv" else 1)  # read, as contents alone identify them


def test_a_tar_is_read_once_and_its_blocks_do_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far_file, "_BLOCK_BYTES", 10_000)
    monkeypatch.setattr(far_file, "_BLOCKS_KEPT", 40)
    monkeypatch.setattr("zsclip.pictures.tars._BLOCK_BYTES", 50_000)
    monkeypatch.setattr(ahead, "BYTES_AHEAD", 150_000)
    album = [(f"{i:04}.png", random.Random(i).randbytes(2000)) for i in range(1000)]
    write_tar(tmp_path / "a.tar", album)
    with serving(tmp_path) as server:
        pictures = find_images([f"{server.url}/a.tar"]).rest()
        with ahead.Ahead(pictures, lambda some, i: some.open(i).read(), batch_size=8, threads=2) as reader:
            found = [each for batch in reader.batches(8) for each in batch]

    assert [(name.partition("#")[2], data) for name, data in found] == album  # type: ignore[misc]
    assert server.sent <= (tmp_path / "a.tar").stat().st_size * 1.02
    assert len(far_file._BLOCKS._blocks) <= 40


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_connection_that_ends_early_costs_only_what_was_not_sent(
    ending: str, has_ranges: bool, tmp_path: Path
) -> None:
    album = [(f"{i:04}.png", random.Random(i).randbytes(2000)) for i in range(300)]
    write_tar(tmp_path / f"a.{ending}", album)
    whole = (tmp_path / f"a.{ending}").read_bytes()
    (tmp_path / f"short.{ending}").write_bytes(whole[: len(whole) // 2])
    *local, _ = content_of(find_images([str(tmp_path / f"short.{ending}")]))

    with serving(tmp_path, has_ranges=has_ranges, fault=lambda path, count: "half") as server:
        *far, (name, message) = content_of(find_images([f"{server.url}/a.{ending}"]))

    assert name == f"{server.url}/a.{ending}"
    assert message == "unreadable: cannot be fetched: the connection broke off, 5 times"
    assert [data for _, data in far] == [data for _, data in local][: len(far)]
    assert len(far) >= len(local) - (35 if ending == "tar.gz" else 0) > 100


def test_a_glob_in_a_url_says_what_to_write(tmp_path: Path) -> None:
    with serving(tmp_path) as server, pytest.raises(InputError) as raised:
        find_images([f"{server.url}/*.tar"])

    assert str(raised.value).endswith("; only s3:// and gs:// have globs; use a range such as {000..127}")


def test_a_server_that_redirects_in_a_circle_is_named_in_words(tmp_path: Path) -> None:
    with serving(tmp_path, fault=lambda path, count: 302) as server:
        ((_, message),) = content_of(find_images([f"{server.url}/a.png"]))

    assert message == "unreadable: cannot be fetched: the server redirects without end"


def test_many_urls_are_fetched_at_the_same_time(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"{i}.png": b"x" for i in range(300)})
    with serving(tmp_path, latency=0.02) as server:
        begun = time.monotonic()
        (some,) = Network().with_urls(find_images([f"{server.url}/0.png"]).rest())
        pictures = Network().pictures([f"{server.url}/{i}.png" for i in range(300)])
        assert [pictures.open(i).read() for i in range(300)] == [b"x"] * 300
    assert time.monotonic() - begun < 300 * 0.02 / 2
    assert len(some) == 1


def test_a_server_that_is_busy_for_a_while_is_asked_again(run: Run, tmp_path: Path, model: str) -> None:
    album_in(tmp_path)
    command = ("classify", *LABELS, "-m", model, *EXACT)
    with serving(tmp_path) as server:
        calm = run(*command, f"{server.url}/a.tar", f"{server.url}/a.csv")
        far_file._BLOCKS._blocks.clear()
        server.fault = lambda path, count: (503, 429, "half", None)[count % 4]

        busy = run(*command, f"{server.url}/a.tar", f"{server.url}/a.csv")

    assert calm.stdout, calm.stderr
    assert busy.stdout == calm.stdout


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (503, "unreadable", "cannot be fetched: HTTP 503 Service Unavailable"),
        (404, "missing", "HTTP 404 Not Found"),
        (403, "permission", "HTTP 403 Forbidden"),
        (418, "unreadable", "HTTP 418 "),
        ("half", "unreadable", "cannot be fetched: "),
        ("silent", "timeout", "the server was silent for 1 s"),
    ],
)
def test_a_server_that_fails_for_ever_costs_rows_and_no_time(
    fault: int | str, error: str, message: str, run: Run, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "silent":  # a busy machine may be silent for a second, too
        monkeypatch.setattr(fetch, "SILENT_SECONDS", 1)
    folder_of(tmp_path, {f"{i}.png": ALBUM["00.png"] for i in range(40)})
    begun = time.monotonic()
    with serving(tmp_path, fault=lambda path, count: None if path == "39.png" else fault) as server:
        (tmp_path / "a.csv").write_text("path\n" + "".join(f"{server.url}/{i}.png\n" for i in range(40)))

        done = run("classify", "a.csv", *LABELS, "-m", model, "-f", "jsonl", "-q")

    rows = rows_of(done)
    assert done.returncode == 1
    assert [row["error"] for row in rows] == [error] * 39 + [None]
    assert all(row["message"].startswith(message) for row in rows[:39])
    assert time.monotonic() - begun < 40


@pytest.mark.parametrize("kind", ["a.tar", "a.zip", "struct.parquet"])
def test_a_file_that_changes_during_the_run_is_never_mixed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far_file, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(far_file, "_BLOCKS_AHEAD", 0)
    monkeypatch.setattr(far_file, "_BLOCKS_KEPT", 1)
    old = [(f"{i}.png", bytes([i]) * 700) for i in range(40)]
    for place, some in (("old", old), ("new", [(name, b"n" * 700) for name, _ in old])):
        (tmp_path / place).mkdir()
        write(tmp_path / place / kind, some, "")
    os.link(tmp_path / "old" / kind, tmp_path / kind)

    def swap(path: str, count: int) -> None:
        if count == 12:
            os.replace(tmp_path / "new" / kind, tmp_path / kind)

    with serving(tmp_path, fault=swap) as server:
        found = content_of(find_images([f"{server.url}/{kind}"]))

    whole = [data for _, data in found if isinstance(data, bytes)]
    failed = [data for _, data in found if isinstance(data, str)]
    assert set(whole) <= {data for _, data in old}
    assert failed
    assert all("has changed since this run began" in each for each in failed)


def test_what_is_known_to_be_wrong_ends_before_a_model_is_looked_for(run: Run, tmp_path: Path) -> None:
    (tmp_path / "far.csv").write_text("path\n/etc/passwd\nfile:///etc/passwd\nmemory://x\nx.png\n")
    with serving(tmp_path) as server:
        for url, said in (
            (f"{server.url}/none.jpg", "cannot read '{}': HTTP 404 Not Found"),
            ("shell://x/a.jpg", "'{}': this kind of URL is not read; use one of http, "),
            ("simplecache::http://x/a.jpg", "'{}': this kind of URL is not read; use one of http, "),
            ("zip://a.jpg::http://x/a.zip", "'{}': this kind of URL is not read; use one of http, "),
            ("python://a", "'{}': this kind of URL is not read; use one of http, "),
            ("http://[x]/a.tar", "'{}': not a valid URL; check the name of its server"),
            ("file://[x/a.jpg", "'{}': not a valid URL; check the name of its server"),
        ):
            done = run("classify", url, *LABELS, "-m", "no/such-model")
            assert done.returncode == 2
            assert done.stderr.decode().startswith(f"zsclip: {said.format(url)}"), done.stderr
        asked = len(server.asked)
        done = run("classify", f"{server.url}/far.csv", *LABELS, "--offline")
        assert (done.returncode, len(server.asked)) == (2, asked)
        assert b"a URL, which --offline forbids" in done.stderr

        found = dict(content_of(find_images([f"{server.url}/far.csv"])))

    assert [str(each) for each in found.values()] == [
        *["permission: a list on a server may not name files of this machine"] * 3, "missing: HTTP 404 Not Found"
    ]  # fmt: skip


def test_rows_that_name_other_kinds_of_urls_and_a_run_offline(run: Run, tmp_path: Path, model: str) -> None:
    (tmp_path / "a.png").write_bytes(ALBUM["00.png"])
    invalid = ["http://[x/a.png", "https://[x]/a.tar#a.png"]
    lines = ["path", "shell://x", "https://127.0.0.1:9/x.png", *invalid, f"file://{tmp_path}/a.png", "a.png"]
    (tmp_path / "a.csv").write_text("\n".join(lines))

    rows = rows_of(run("classify", "a.csv", *LABELS, "-m", model, "-f", "jsonl", "--offline", "-q"))

    assert [row["error"] for row in rows] == ["unsupported"] * 4 + [None, None]
    assert rows[1]["message"] == "a URL, which --offline forbids; download the file first"
    assert rows[2]["message"] == "not a valid URL; check the name of its server"


def test_without_the_back_end_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsclip.pictures.urls.find_spec", lambda name: None)
    for url, module, extra in (
        ("https://a.b/c.jpg", "aiohttp", "http"), ("s3://a/c.jpg", "s3fs", "s3"), ("gs://a/c.jpg", "gcsfs", "gcs")
    ):  # fmt: skip
        with pytest.raises(InputError, match=re.escape(f"needs {module}: pip install 'zsclip[{extra}]'")):
            find_images([url])


def test_a_password_is_in_no_message_and_no_key(tmp_path: Path) -> None:
    assert without_password("https://me:secret@a.b/c") == "https://***@a.b/c"
    write_tar(tmp_path / "a.tar", good_album())
    with serving(tmp_path) as server:
        url = server.url.replace("//", "//me:secret@")
        keys = [key for some in find_images([f"{url}/a.tar"]).rest() for key in some.keys(0, len(some)) or ()]
        with pytest.raises(InputError) as raised:
            find_images([f"{url}/none.tar"])
    assert len(keys) == len(good_album())
    assert not any(b"secret" in (key or b"secret") for key in keys)
    assert "secret" not in str(raised.value)


def test_a_url_that_is_signed_for_get_alone(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", good_album())
    with serving(tmp_path, has_heads=False) as server:
        assert len(content_of(find_images([f"{server.url}/a.tar?signature=x"]))) == len(good_album())


def test_ctrl_c_ends_a_run_that_waits_for_a_server(tmp_path: Path, model: str) -> None:
    (tmp_path / "a.png").write_bytes(ALBUM["00.png"])
    with serving(tmp_path, fault=lambda path, count: "silent" if count else None) as server:
        command = [sys.executable, "-m", "zsclip", "classify", f"{server.url}/a.png", *LABELS, "-m", model]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
        while len(server.asked) < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(2)
        begun = time.monotonic()
        assert process.wait(HANGS) == 130
        assert time.monotonic() - begun < fetch.SILENT_SECONDS / 2
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
        process.stderr.close()


@pytest.mark.parametrize("seed", range(8))
def test_any_mix_of_containers_order_names_and_damage(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    names = [name for name in ALBUM if "\n" not in name and "\udce9" not in name]
    inputs, expected = [], []
    with serving(tmp_path, has_ranges=seed % 2 == 0, has_tags=seed % 3 > 0) as server:
        for number in range(5):
            some = [(name, ALBUM[name]) for name in chance.sample(names, chance.randint(1, len(names)))]
            kind = chance.choice((*ARCHIVES, "a.csv"))
            root = tmp_path / str(number)
            root.mkdir()
            folder_of(root / "album", dict(some))
            write(root / kind, some, "album")
            cut = chance.random() < 0.3 and kind in ("a.tar", "a.zip") and some
            if cut:
                whole = (root / kind).read_bytes()
                (root / kind).write_bytes(whole[: chance.randrange(1, len(whole))])
            is_far = chance.random() < 0.7
            local = content_of(find_images([str(root / kind)]))
            place = server.url if is_far else str(tmp_path)
            inputs.append(f"{place}/{number}/{kind}")
            expected += [data or ("" if not is_far and kind == "a.csv" else "the file is empty") for _, data in local]
            assert cut or len(local) == len(some)

        found = content_of(find_images(inputs))

    texts = [str(data).removeprefix("unreadable: ") if data else "" for _, data in found]
    assert texts == [str(data).removeprefix("unreadable: ") if data else "" for data in expected]
