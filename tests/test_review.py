"""`zsclip review`: the page of rows, and a server that gives nothing to anybody else."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import dom_of, given_in, needs_browser, with_scripts
from conftest import HANGS
from PIL import Image

from zsclip.errors import OutputError
from zsclip.measure.labelled import read_labelled
from zsclip.out import review as review_module
from zsclip.out.corrections import Corrections
from zsclip.out.reader import read_answers
from zsclip.out.review import Review, Server
from zsclip.pictures.remote import Network

LABELS = ("cat", "dog")


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of pictures of all kinds, and of files that are none."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (300, 200), "red").save("a.png")
    Image.new("CMYK", (300, 200)).save("b.tif")
    Image.new("RGB", (30, 20), "blue").save("line\nbreak.jpg")
    Path("secret.txt").write_text("secret")
    with tarfile.open("s.tar", "w") as tar:
        tar.add("a.png", "in/d.png")
    names = ["a.png", "b.tif", "line\nbreak.jpg", "secret.txt", "s.tar#in/d.png", "gone.png", "a.png"]
    lines = []
    for place, name in enumerate(names):
        some = [
            {"label": label, "score": score, "cosine": 0.2} for label, score in zip(LABELS, (0.9, 0.1), strict=True)
        ]
        answer = {"label": "cat", "score": 0.9, "score_kind": "softmax", "predictions": some, "beaten_by": None}
        failed = {"label": None, "score": None, "predictions": [], "error": "missing", "message": "no such file"}
        lines.append({"file_name": name, "error": None, **answer, **(failed if place == 5 else {})})
    Path("rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return tmp_path / "rows.jsonl"


@pytest.fixture
def server(rows: Path) -> Iterator[Server]:
    review = Review(
        list(read_answers(str(rows))),
        Corrections("c.csv"),
        title="rows.jsonl",
        threads=2,
        network=Network(offline=True),
    )
    with Server(review) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served
        served.shutdown()


Answer = tuple[int, dict[str, str], bytes]


def ask(server: Server, what: str = "", *, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """Send a request as the page would, but for what is given; `path` is what comes instead of the token."""
    path = headers.pop("path", f"/{server.token}/{what}")
    if body is not None:
        headers = {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{server.server_port}", **headers}
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=HANGS)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": f"127.0.0.1:{server.server_port}", **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    reply = connection.getresponse()
    found = reply.status, dict(reply.getheaders()), reply.read()
    connection.close()
    return found


def correct(server: Server, row: Any, label: Any, **headers: str) -> Answer:
    return ask(server, "corrections", method="POST", body=json.dumps({"row": row, "label": label}).encode(), **headers)


def test_the_page_its_rows_and_its_pictures(server: Server) -> None:
    status, headers, page = ask(server)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert b'{"labels": ["cat", "dog"], "count": 7, "file": "c.csv"}' in page

    some = json.loads(ask(server, "rows/0")[2])
    assert [row[0] for row in some][2:5] == ["line\nbreak.jpg", "secret.txt", "s.tar#in/d.png"]
    assert some[0] == ["a.png", None, ["cat"], 0.9, None, None, None, None, [["cat", 0.9], ["dog", 0.1]], None]
    assert some[5] == ["gone.png", None, [], None, "missing", "no such file", None, None, [], None]
    assert json.loads(ask(server, "rows/5")[2]) == some[5:]
    assert json.loads(ask(server, "rows/7")[2]) == []
    status, headers, data = ask(server, "picture/0")
    assert (status, headers["Content-Type"], data) == (200, "image/png", Path("a.png").read_bytes())
    assert ask(server, "picture/4")[2] == data
    assert ask(server, "picture/1")[1]["Content-Type"] == "image/jpeg"
    assert ask(server, "picture/1")[2][:2] == b"\xff\xd8"
    for number in (0, 1, 2, 4):
        status, headers, data = ask(server, f"thumbnail/{number}")
        assert (status, headers["Content-Type"], data[8:12]) == (200, "image/webp", b"WEBP")


def test_what_is_not_a_picture_of_the_rows_is_not_sent(server: Server) -> None:
    Path("other.png").write_bytes(Path("a.png").read_bytes())
    for what in (
        "picture/3", "thumbnail/3", "picture/5", "picture/7", "thumbnail/99999999999", "picture/-1", "picture/1.0",
        "picture/other.png", "picture/../../other.png", "other.png", "picture/", "picture", "rows", "rows/x",
        "corrections/", "../c.csv", "page", "picture/%30", "?x",
    ):  # fmt: skip
        assert ask(server, what)[::2] == (404, b""), what


def test_requests_of_others_get_nothing(server: Server) -> None:
    port, token = server.server_port, server.token
    good = {"Host": f"127.0.0.1:{port}"}
    assert ask(server, "rows/0", Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200
    assert ask(server, "rows/0", Sec_Fetch_Site="same-origin")[0] == 200
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert ask(server, **link)[0] == 200  # to the page alone, and not into a frame
    assert [ask(server, what, **link)[0] for what in ("rows/0", "picture/0", "corrections")] == [404] * 3
    wrong: list[dict[str, str]] = [
        {"Host": f"evil.example:{port}"}, {"Host": "127.0.0.1"}, {"Host": ""}, {"Host": f"127.0.0.1:{port + 1}"},
        {"Host": f"127.0.0.1:{port}@evil.example"}, good | {"Origin": "http://evil.example"},
        good | {"Origin": "null"}, good | {"Origin": f"https://127.0.0.1:{port}"}, good | {"Origin": ""},
        good | {"Origin": f"http://localhost:{port}"}, good | {"Sec_Fetch_Site": "cross-site"},
        good | {"Sec_Fetch_Site": "same-site"}, good | link | {"Sec_Fetch_Dest": "iframe"},
        good | link | {"Sec_Fetch_Mode": "no-cors"},
    ]  # fmt: skip
    paths = [
        "/", "", "//", f"/{token}", f"/{token[:-1]}/", f"/{token}x/", f"/{token.swapcase()}/", f"//{token}/",
        f"/x/{token}/", f"x/{token}/", f"/{token}/../{token}/", f"http://127.0.0.1:{port}/{token}/", "*",
    ]  # fmt: skip
    for headers in [*wrong, *({"path": path} for path in paths)]:
        if headers != {"path": f"//{token}/"}:  # which http.server takes for one slash
            assert ask(server, **headers)[::2] == (404, b""), headers
        assert correct(server, 0, "dog", **headers)[::2] == (404, b""), headers
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"):
        assert ask(server, method=method)[2] == b""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):  # as a form of another page could send it
        assert correct(server, 0, "dog", **{"Content-Type": kind})[::2] == (404, b"")
    assert not os.path.exists("c.csv")


def test_corrections_are_on_the_disk_before_the_answer(server: Server) -> None:
    assert json.loads(correct(server, 0, "dog")[2]) == {"0": "dog", "6": "dog"}  # two rows of one picture
    assert Path("c.csv").read_text() == "file_name,label\na.png,dog\n"
    correct(server, 4, 'a "new", label')
    correct(server, 2, "")
    assert json.loads(ask(server, "corrections")[2]) == {"0": "dog", "6": "dog", "4": 'a "new", label', "2": ""}
    correct(server, 6, None)

    assert Path("c.csv").read_text() == 'file_name,label\ns.tar#in/d.png,"a ""new"", label"\n"line\nbreak.jpg",\n'
    assert read_labelled("c.csv").words == ('a "new", label',)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b"{", b'{"row": 0}', b'{"row": "0", "label": "x"}', b'{"row": 7, "label": "x"}',
        b'{"row": -1, "label": "x"}', b'{"row": true, "label": "x"}', b'{"row": 0, "label": 3}',
        b'{"row": 0, "label": "a\\nb"}', b'{"row": 0, "label": "\\ud800"}', b'{"row": 5, "label": "x"}',
        b'{"row": 0, "label": "%s"}' % (b"x" * 1001), b"[" * 60_000, b"x" * 70_000,
    ],
    ids=lambda body: body[:30].decode(),
)  # fmt: skip
def test_a_correction_that_makes_no_sense_is_refused(body: bytes, server: Server) -> None:
    try:
        assert ask(server, "corrections", method="POST", body=body)[::2] == (404, b"")
    except ConnectionError:  # what is too long is not even read
        assert len(body) > 1 << 16
    assert not os.path.exists("c.csv")


def test_a_correction_that_cannot_be_written_is_reported(server: Server) -> None:
    Path("c.csv").write_text("something else")

    status, _, body = correct(server, 0, "dog")

    assert status == 507
    assert json.loads(body)["error"].startswith("c.csv: not a file of corrections")
    assert Path("c.csv").read_text() == "something else"


def test_a_length_that_is_no_number_gets_nothing(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for length in ("9" * 5000, "-1", "+1", "1 1", "x", ""):
        assert ask(server, "corrections", method="POST", Content_Length=length)[::2] == (404, b""), length[:9]
    assert capsys.readouterr().err == ""


class Changing(io.BytesIO):
    """A file whose size is another one when it is read."""

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return int(self.getvalue()[:2]) if whence == os.SEEK_END else super().seek(place, whence)


def test_an_answer_is_as_long_as_it_says_and_a_shorter_one_ends(server: Server, monkeypatch) -> None:
    def changing(number: int) -> Any:
        return "image/png", Changing(f"{number:02} others".encode())

    monkeypatch.setattr(server.review, "picture", changing)
    asked = "GET /{}/picture/{} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        for number in (4, 90):  # on one connection, where more would be taken for the next answer
            connection.sendall(asked.format(server.token, number, server.server_port).encode())
        with connection.makefile("rb") as file:
            received = file.read()

    assert [each.partition(b"\r\n\r\n")[2] for each in received.split(b"HTTP/1.1 ")[1:]] == [b"04 o", b"90 others"]


def test_a_port_is_free_again_at_once_and_never_for_two(server: Server) -> None:
    port = server.server_port
    with pytest.raises(OutputError, match=f"--port {port}: address already in use; leave it out"):
        Server(server.review, port)
    browser = HTTPConnection("127.0.0.1", port, timeout=HANGS)  # which keeps its connection
    browser.request("GET", f"/{server.token}/rows/0")
    assert browser.getresponse().read()
    server.shutdown()
    server.server_close()

    with Server(server.review, port) as again:
        assert again.server_port == port
    browser.close()


def test_what_a_browser_is_started_with_leads_to_the_page_once(server: Server) -> None:
    path = "/" + server.url_to_start().split("/", 3)[3]
    assert server.token not in path
    assert ask(server, path=path + "rows/0")[0] == ask(server, path=path, method="POST")[0] == 404
    assert ask(server, path=path, Origin="http://evil.example")[0] == 404

    status, headers, body = ask(server, path=path)

    assert (status, headers["Location"], body) == (303, f"/{server.token}/", b"")
    assert ask(server, path=path)[0] == ask(server, path="//")[0] == 404


def test_two_tabs_do_not_overwrite_each_other(server: Server) -> None:
    tabs = [
        threading.Thread(target=lambda some=some: [correct(server, row, f"{row}") for row in some * 5])
        for some in ([0, 1], [2, 3, 4])
    ]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()

    assert json.loads(ask(server, "corrections")[2]) == {"0": "0", "6": "0", "1": "1", "2": "2", "3": "3", "4": "4"}


@needs_browser
def test_a_browser_shows_the_rows_and_saves_what_is_corrected(server: Server, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(review_module, "_MOST_ROWS", 20)  # so that two are sent first, and the rest later
    Corrections("c.csv").set("b.tif", "dog")
    whole = server.review.page
    after = """
        const wait = (ms) => new Promise((done) => setTimeout(done, ms));
        while (rows.length < facts.count) await wait(50);
        await wait(500);
        const before = [...corrected];
        document.querySelector(".card").focus();
        press("2"); press("ArrowRight"); press("x"); press("ArrowRight"); press("2"); press("2");
        await sending;
        press("Enter");
        await wait(1000);
        const large = [by("large").naturalWidth, by("large").naturalHeight];
        press("Escape");
        const images = document.querySelectorAll(".card img").length;
        give([before, [...corrected], by("kept").textContent, large, by("shown").textContent, images]);
    """

    def page() -> Any:
        kind, text = whole()
        assert isinstance(text, bytes)
        return kind, with_scripts(text.decode(), "", after).encode()

    monkeypatch.setattr(server.review, "page", page)

    before, now, kept, large, shown, images = given_in(dom_of(f"{server.url}#order=name", tmp_path))

    assert before == [[1, "dog"]]
    assert dict(now) == {0: "", 6: "", 1: "dog"}  # two rows of one picture, the second one corrected last
    assert Corrections("c.csv").labels() == {str(tmp_path / "a.png"): "", str(tmp_path / "b.tif"): "dog"}
    assert kept.endswith("in c.csv")
    assert large == [300, 200]
    assert shown == "7 of 7 images"
    assert images == 5  # of those that are pictures


@pytest.fixture
def frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of rows about frames and members, some of which are not there."""
    pytest.importorskip("av")
    from clips import make_clip

    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "c.mp4", 100, size=(320, 240), gop=10)
    Path("damaged.mp4").write_bytes(b"no video")
    with tarfile.open("s.tar", "w"):
        pass
    names = [
        *(f"c.mp4#t={at}" for at in ("1.000", "3.960", "99.000")),
        "damaged.mp4#t=1.000",
        "s.tar#a.png",
        "gone.mp4#t=1",
    ]
    rows = [{"file_name": name, "label": "cat", "score": 0.9, "predictions": []} for name in names]
    Path("rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    answers = list(read_answers("rows.jsonl"))
    review = Review(answers, Corrections("c.csv"), title="rows", threads=2, network=Network(offline=True))
    with Server(review) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served
        served.shutdown()


def test_frames_are_shown_and_what_cannot_be_had_says_why(
    frames: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from clips import number_of

    for number, wanted in ((1, 99 % 64), (0, 25)):
        status, headers, data = ask(frames, f"picture/{number}")
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        assert number_of(np.asarray(Image.open(io.BytesIO(data)))) == wanted
        assert ask(frames, f"thumbnail/{number}")[1]["Content-Type"] == "image/webp"
    reasons = {2: "no frame at 99.000 s; the last is at 3.960 s", 3: "damaged, or not a video in a supported format"}
    for number, reason in (reasons | {4: "the archive has no such member"}).items():
        for what in ("picture", "thumbnail"):
            assert text_of_placeholder(ask(frames, f"{what}/{number}")) == reason
    assert ask(frames, "picture/5")[::2] == ask(frames, "thumbnail/5")[::2] == (404, b"")
    monkeypatch.setattr(review_module, "_FRAME_SECONDS", -1)
    again = Review(frames.review._rows, Corrections("c.csv"), title="", threads=1, network=Network(offline=True))
    with pytest.raises(review_module.NotFound, match="its frame was not reached within -1 s"):
        again.picture(1)
    monkeypatch.setattr("zsclip.pictures.named_frames.find_spec", lambda name: None)
    again = Review(frames.review._rows, Corrections("c.csv"), title="", threads=1, network=Network(offline=True))
    with pytest.raises(review_module.NotFound, match=r"to read it: pip install 'zsclip\[video\]'"):
        again.thumbnail(0)
    assert capsys.readouterr().err == ""


def text_of_placeholder(answer: Answer) -> str:
    status, headers, data = answer
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (404, "image/svg+xml", "no-store")
    return " ".join(
        "".join(each.itertext()) for each in ElementTree.fromstring(data).iter() if each.tag[-5:] == "tspan"
    )


@needs_browser
def test_a_browser_shows_frames_and_placeholders(frames: Server, monkeypatch, tmp_path: Path) -> None:
    whole = frames.review.page
    after = """
        const wait = (ms) => new Promise((done) => setTimeout(done, ms));
        while (rows.length < facts.count) await wait(50);
        await wait(1000);
        const widths = [...document.querySelectorAll(".card img")].map((image) => image.naturalWidth);
        const large = [];
        for (const place of [0, 2]) {
          enlarge(place);
          await wait(1000);
          large.push([by("where").textContent, by("large").naturalWidth]);
        }
        give([widths, large, document.querySelectorAll(".card .none").length]);
    """
    monkeypatch.setattr(frames.review, "page", lambda: (whole()[0], with_scripts(text_of(whole()), "", after).encode()))

    widths, large, without = given_in(dom_of(f"{frames.url}#order=name", tmp_path))

    assert widths == [160] * 5
    assert large == [["c.mp4#t=1.000", 320], ["c.mp4#t=99.000", 160]]
    assert without == 1  # the one whose video is gone


@needs_browser
def test_a_browser_shows_what_stands_in_the_file_when_saving_fails(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, sent = server.review.page, server.review.rows
    contents = {100: "something else", 101: "file_name,label\nb.tif,dog\n"}
    after = """
        const wait = (ms) => new Promise((done) => setTimeout(done, ms));
        const seen = () => [[...corrected], by("kept").textContent];
        const asks = () => !dispatchEvent(new Event("beforeunload", { cancelable: true }));
        while (rows.length < facts.count) await wait(50);
        await wait(500);
        document.querySelector(".card").focus();
        press("2");
        const first = [asks()];
        await sending;
        first.push(asks(), ...seen());
        await fetch("rows/100");
        dispatchEvent(new Event("focus"));
        await wait(500);
        const broken = seen();
        press("1"); press("x");
        await sending;
        const failed = seen();
        await fetch("rows/101");
        press("x");
        await sending;
        dispatchEvent(new Event("focus"));
        await wait(500);
        give([first, broken, failed, seen()]);
    """

    def rows(start: int) -> Any:
        if start in contents:
            Path("c.csv").write_text(contents[start])
        return sent(start)

    monkeypatch.setattr(server.review, "rows", rows)
    monkeypatch.setattr(server.review, "page", lambda: (whole()[0], with_scripts(text_of(whole()), "", after).encode()))

    first, broken, failed, now = given_in(dom_of(f"{server.url_to_start()}#order=name", tmp_path))

    dog = [[0, "dog"], [6, "dog"]]
    assert first == [True, False, dog, "2 corrections in c.csv"]
    assert broken[0] == failed[0] == dog
    assert broken[1].startswith("c.csv: not a file of corrections")
    assert failed[1].startswith("the correction of a.png was not saved: c.csv: not a file of corrections")
    assert (dict(now[0]), now[1]) == ({0: "", 6: "", 1: "dog"}, "3 corrections in c.csv")


def text_of(reply: Any) -> str:
    return reply[1].decode()


def started(*arguments: str | Path, cwd: Path, opens: bool = False) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "zsclip", "review", *map(str, arguments), *["--no-open"] * (not opens)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Running:
    """What `ask` needs of a server in another process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        _, _, address, self.token, _ = url.split("/")
        self.server_port = int(address.split(":")[1])


def test_a_killed_server_loses_nothing_and_the_next_one_goes_on(rows: Path) -> None:
    process = started(rows.name, cwd=rows.parent)
    served: Any = Running(process)
    assert correct(served, 0, "dog")[0] == 200
    process.kill()
    process.communicate()
    assert (rows.parent / "rows.jsonl.corrections.csv").read_text() == "file_name,label\na.png,dog\n"

    process = started(rows.name, "--port", str(served.server_port), cwd=rows.parent)
    again: Any = Running(process)
    assert again.token != served.token
    assert ask(served)[0] == 404
    assert json.loads(ask(again, "corrections")[2]) == {"0": "dog", "6": "dog"}
    assert correct(again, 2, "cow")[0] == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=HANGS)

    assert (process.returncode, out) == (130, "")
    assert err.splitlines() == [
        "zsclip: 7 images; corrections go to rows.jsonl.corrections.csv; press Ctrl-C to stop",
        "zsclip: interrupted: 2 corrections are in rows.jsonl.corrections.csv",
    ]


def test_the_list_of_processes_does_not_give_the_token_away(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser, address = rows.parent / "browser", rows.parent / "address"
    browser.write_text(f'#!/bin/sh\necho "$1" > {address}.new\nmv {address}.new {address}\n')
    browser.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    process = started(rows.name, cwd=rows.parent, opens=True)
    served: Any = Running(process)
    while not address.exists():
        time.sleep(0.05)
        assert process.poll() is None
    given = address.read_text().strip()
    path = given.removeprefix(f"http://127.0.0.1:{served.server_port}")

    first, second = ask(served, path=path), ask(served, path=path)
    process.terminate()
    process.communicate(timeout=HANGS)

    assert served.token not in given
    assert (first[0], first[1]["Location"], second[0]) == (303, f"/{served.token}/", 404)


def test_rows_in_another_folder_are_noted(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    process = started(rows, cwd=tmp_path / "elsewhere")
    served: Any = Running(process)
    assert ask(served, "picture/0")[0] == 404
    process.send_signal(signal.SIGINT)

    _, err = process.communicate(timeout=HANGS)

    assert "zsclip: the first images are not here; run this in the folder in which they were classified\n" in err


Run = Callable[..., CompletedProcess[bytes]]


def test_mistakes_get_one_line(rows: Path, run: Run) -> None:
    (rows.parent / "other.csv").write_text("file_name,label,score\n")
    (rows.parent / "empty.jsonl").write_text("")
    (rows.parent / "empty.csv").write_text("file_name,label\n")
    for arguments, code, said in (
        (["gone.csv"], 2, "gone.csv: no such file"),
        (
            ["rows.jsonl", "--corrections", "c.txt"],
            2,
            "--corrections: 'c.txt' is not a table; use a name that ends in .csv",
        ),
        (["rows.jsonl", "--corrections", "no/c.csv"], 4, "no/c.csv: no such file or directory; make its folder first"),
        (["rows.jsonl", "--corrections", "s3://a/c.csv"], 2, "--corrections s3://a/c.csv: only local files can be "),
        (["rows.jsonl", "--corrections", "other.csv"], 2, "other.csv: not a file of corrections"),
        (["empty.csv", "--corrections", "empty.csv"], 2, "would overwrite the rows"),
        (["empty.csv"], 1, "no rows"),
        (["rows.jsonl", "--port", "70000"], 2, "--port"),
    ):
        done = run("review", *arguments, "--no-open")
        assert (done.returncode, done.stdout) == (code, b""), done.stderr
        assert said in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1


def test_the_way_from_answers_to_a_better_classifier(rows: Path, run: Run, tiny_model: Callable[[str], Path]) -> None:
    """Rows, corrections, a head: each step takes the file of the one before."""
    model = str(tiny_model("plain"))
    process = started("rows.jsonl", "--corrections", "right.csv", cwd=rows.parent)
    served: Any = Running(process)
    for row, label in ((0, "dog"), (1, "cat"), (2, "dog"), (4, "cat")):
        assert correct(served, row, label)[0] == 200
    process.terminate()
    process.communicate(timeout=HANGS)
    assert process.returncode == 143

    learnt = run("learn", "right.csv", "-o", "h.head", "--model", model)
    measured = run("eval", "right.csv", "--model", model, "--json", "-q")
    classified = run("classify", "right.csv", "--head", "h.head", "-f", "csv", "-q")

    assert learnt.returncode == 0, learnt.stderr
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["images"] == 4
    assert classified.returncode == 0, classified.stderr
