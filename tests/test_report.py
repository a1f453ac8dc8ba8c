import html
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from types import MappingProxyType
from urllib.parse import unquote

import numpy as np
import pytest
from columns import columns
from conftest import HANGS
from PIL import Image

from zsclip.answers.answers import Candidate, Prediction
from zsclip.cli.main import main
from zsclip.out import report as report_module
from zsclip.out.contactsheet import MAX_PICTURES, with_contact_sheet
from zsclip.out.report import with_report
from zsclip.out.thumbnails import HEIGHT, WIDTH, thumbnails
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.skipped import Skipped

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")

Row = Prediction | Skipped


def answer(path: str, label: str | None, score: float, truth: str | None = None) -> Prediction:
    best = Candidate(label or "cat", score, 0.2)
    return Prediction(path, label, best, (best,), "softmax", truth)


def page_of(rows: list[Row], folder: Path, batch: int = 3, about: Mapping[str, str] = MappingProxyType({})) -> str:
    out = io.StringIO()
    batches = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    passed_on = with_report(map(columns, batches), out, str(folder), about=about, threads=2)
    assert [list(answers.rows()) for answers in passed_on] == [list(columns(rows).rows()) for rows in batches]
    return out.getvalue()


def rows_in(page: str) -> list[list]:
    found = re.search(r'<script type="application/json" id="rows">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    (tmp_path / "pictures").mkdir()
    paths = []
    for i, size in enumerate([(400, 100), (50, 60), (300, 900)]):
        paths.append(str(tmp_path / "pictures" / f"{i}.png"))
        Image.new("RGB", size, (80 * i, 0, 0)).save(paths[-1])
    return paths


def test_thumbnails_are_small_upright_and_in_order(pictures, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (400, 100)).save(tmp_path / "turned.jpg", exif=turned)

    files = Pictures([*pictures, str(tmp_path / "gone.png"), str(tmp_path / "turned.jpg")])
    made = thumbnails(files, range(5), threads=2)

    assert made[3] is None
    sizes = [Image.open(io.BytesIO(small)).size for small in made if small is not None]
    assert sizes == [(WIDTH, WIDTH // 4), (50, 60), (round(HEIGHT / 3), HEIGHT), (round(HEIGHT / 4), HEIGHT)]
    assert thumbnails(files, [], threads=2) == []
    assert thumbnails(files, [3, 1], threads=2) == [None, made[1]]
    in_memory = Pictures(["a", "b"], [Path(pictures[1]).read_bytes()].__getitem__)
    assert thumbnails(in_memory, [0, 1], threads=1) == [made[1], None]


def test_the_page_holds_every_row_in_order(pictures, tmp_path):
    rows: list[Row] = [
        answer(pictures[0], "cat", 0.91, "cat"),
        Skipped("b.png", "unreadable", "no", "dog"),
        answer(pictures[1], None, 0.2, "dog"),
        answer(pictures[2], "dog", 0.5, "cat"),
    ]

    found = rows_in(page_of(rows, tmp_path))

    assert [row[:1] + row[2:7] for row in found] == [
        [pictures[0], ["cat"], 0.91, None, None, "cat"],
        ["b.png", [], None, "unreadable", "no", "dog"],
        [pictures[1], [], 0.2, None, None, "dog"],
        [pictures[2], ["dog"], 0.5, None, None, "cat"],
    ]
    assert [row[8:] for row in found[1:3]] == [[[], None], [[["cat", 0.2]], None]]
    assert found[0][1] == "pictures/0.png"
    assert [row[7] is None for row in found] == [False, True, False, False]
    assert rows_in(page_of([], tmp_path)) == []


def test_names_and_labels_cannot_end_the_script_and_links_lead_to_any_name(tmp_path):
    names = [
        "</script><script>alert(1)</script>.png",
        "a b#?%.png",
        "<!--.png",
        os.fsdecode(b"\xff\n.png"),
        "ü&amp;.png",
    ]
    rows: list[Row] = [answer(str(tmp_path / name), "<b>", 0.5) for name in names]

    page = page_of(rows, tmp_path, about={"labels": "</script><b>\udcff"})

    assert page.count("</script>") == 3
    assert "alert(1)</script>" not in page
    assert [unquote(row[1], errors="surrogateescape") for row in rows_in(page)] == names


def test_a_page_has_no_more_thumbnails_than_a_browser_can_open(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "MAX_PAGE_BYTES", 1)

    found = rows_in(page_of([answer(path, "cat", 0.5) for path in pictures * 2], tmp_path, batch=2))

    assert [row[7] is None for row in found] == [False, False, True, True, True, True]


def dom_of(page: str, tmp_path: Path, state: str = "") -> str:
    """What a browser makes of the page, without its data."""
    (tmp_path / "r.html").write_text(page, encoding="utf-8")
    arguments = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=5000",
        "--dump-dom",
        "--window-size=1200,2000",
    )
    done = subprocess.run(
        [str(BROWSER), *arguments, f"--user-data-dir={tmp_path / 'browser'}", f"file://{tmp_path}/r.html{state}"],
        capture_output=True,
        timeout=HANGS,
    )
    return re.sub(r"<script.*?</script>", "", done.stdout.decode(), flags=re.DOTALL)


def cards(dom: str) -> list[str]:
    """The names on the cards, in the order they stand."""
    return [html.unescape(name.split(">")[-1]) for name in re.findall(r'<span class="name">([^<]*)</span></a>', dom)]


@needs_browser
@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("", ["c2.png", "c1.png", "d1.png", "d2.png", "u.png", "bad.png"]),
        ("#order=unsure", ["u.png", "d2.png", "c1.png", "c2.png", "d1.png", "bad.png"]),
        ("#order=sure", ["d1.png", "c2.png", "c1.png", "d2.png", "u.png", "bad.png"]),
        ("#q=nowhere", []),
        ("#q=C1", ["c1.png"]),
        ("#q=unreadable", ["bad.png"]),
        ("#from=0.6", ["c2.png", "d1.png", "bad.png"]),
        ("#section=%3Ddog&order=name", ["d1.png", "d2.png"]),
        ("#section=*mistakes", ["d1.png", "c1.png"]),
        ("#section=*unknown", ["u.png"]),
    ],
)
def test_a_browser_opens_filters_and_sorts_it(tmp_path, state, shown):
    rows: list[Row] = [
        answer("c1.png", "cat", 0.5, "dog"),
        answer("c2.png", "cat", 0.7, "cat"),
        Skipped("bad.png", "unreadable", "no <b>picture</b>", "dog"),
        answer("d1.png", "dog", 0.9, "cat"),
        answer("d2.png", "dog", 0.4, "dog"),
        answer("u.png", None, 0.1, "dog"),
    ]
    dom = dom_of(page_of(rows, tmp_path), tmp_path, state)

    assert cards(dom) == shown
    assert f"{len(shown)} of 6 images" in dom
    assert "6 images, 2 labels, 1 unknown, 1 failed, 2 mistakes" in dom
    assert "<b>picture" not in dom
    table = re.search(r"<table>.*</table>", dom, re.DOTALL)
    assert table
    assert re.findall(r"<td[^>]*>(\d*)</td>", table[0]) == ["1", "1", "", "1", "1", "1"]
    head, body = table[0].split("</thead>")
    assert re.findall(r"<th>([^<]*)</th>", head) == ["", "cat", "dog", "unknown"]
    assert re.findall(r"<th>([^<]*)</th>", body) == ["cat", "dog"]
    assert ('<p id="none" hidden="">' in dom) == bool(shown)
    assert ("<h2" in dom) == ("order=" not in state and bool(shown))


@needs_browser
def test_a_card_shows_the_runner_up_and_the_nearest_label(tmp_path):
    cat, dog = Candidate("cat", 0.6, 0.2), Candidate("dog", 0.3, 0.1)
    rows: list[Row] = [
        Prediction("a/b/c.png", "cat", cat, (cat, dog), "softmax", "dog"),
        Prediction("a/d.png", None, cat, (cat, dog), "softmax", "dog"),
        Prediction("a/e.png", None, dog, (dog, cat), "softmax", "dog", "fog"),
        Skipped("a/f.png", "unreadable", "the whole reason, however long it may be"),
    ]
    dom = dom_of(page_of(rows, tmp_path, about={"model": "<tiny>", "made": "today"}), tmp_path, "#order=name")

    details = [re.findall(r'class="detail">([^<]*)', card) for card in dom.split('class="card"')[1:]]
    truth = "truth: dog"
    assert details == [["0.600", truth, "0.300 dog"], ["0.600 cat?", truth], ["0.300 dog?", "fog won", truth], []]
    titles = [title.splitlines() for title in re.findall(r'title="([^"]*)" data-place', dom)]
    assert titles[0] == ["a/b/c.png", "cat", truth]
    folders = [name.strip("\u200e") for name in re.findall(r'class="name folder">([^<]*)', dom)]
    assert folders == ["b"]
    assert cards(dom) == ["c.png", "d.png", "e.png", "f.png"]
    assert " in a/</small>" in dom
    assert '<span class="none why">the whole reason, however long it may be</span>' in dom
    assert "<dt>model </dt><dd>&lt;tiny&gt;</dd>" in dom
    assert "<dt>made </dt><dd>today</dd>" in dom


@needs_browser
def test_a_picture_with_several_labels_stands_under_each_and_counts_once(tmp_path):
    found = {"both": (("cat", 0.9), ("dog", 0.6)), "dog": (("dog", 0.8),), "none": ()}
    rows: list[Row] = []
    for name, labels in found.items():
        some = tuple(Candidate(label, score, 0.1) for label, score in labels)
        best = some[0] if some else Candidate("cat", 0.1, 0.1)
        rows.append(Prediction(name, best.label if some else None, best, some, "sigmoid"))
    page = page_of(rows, tmp_path)

    assert [row[2] for row in rows_in(page)] == [["cat", "dog"], ["dog"], []]
    assert cards(dom_of(page, tmp_path)) == ["both", "dog", "both", "none"]
    assert cards(dom_of(page, tmp_path, "#section=%3Ddog")) == ["dog", "both"]
    assert "3 of 3 images" in dom_of(page, tmp_path, "#order=sure")


@needs_browser
def test_small_sections_stand_side_by_side(tmp_path):
    rows: list[Row] = [answer(f"{i}.png", f"label {i}", 0.5) for i in range(12)]
    dom = dom_of(page_of(rows, tmp_path), tmp_path)

    tops = re.findall(r'<h2 [^>]*style="top: ?(\d+)px', dom)
    assert len(tops) == 12
    assert len(set(tops)) == 2  # of a window 1,200 pixels wide


@needs_browser
def test_a_browser_builds_only_what_is_on_the_screen_of_twenty_thousand(tmp_path):
    page = page_of([], tmp_path)
    lines = [
        [f"{i:05}.png", f"{i}.png", [label], i / 20_000, None, None, None, None, [[label, i / 20_000]], None]
        for i, label in ((i, f"label {i % 9}") for i in range(20_000))
    ]
    full = page.replace("[\n]", json.dumps(lines), 1)
    assert rows_in(full) == lines

    dom = dom_of(full, tmp_path)

    assert "20,000 of 20,000 images" in dom
    assert 10 < len(cards(dom)) < 400


def test_a_contact_sheet_shows_the_first_pictures_in_order(pictures):
    rows: list[Row] = [answer(pictures[1], "cat", 0.5), Skipped("b.png", "missing", ""), answer(pictures[2], None, 0.1)]
    out = io.BytesIO()
    many = [columns(rows * 60) for _ in range(3)]

    passed_on = with_contact_sheet(many, out, threads=2, max_pixels=10**6)
    assert list(map(id, passed_on)) == list(map(id, many))

    with Image.open(io.BytesIO(out.getvalue())) as sheet:
        pixels = np.asarray(sheet)
    across, lines = (pixels.shape[1] - 8) // (WIDTH + 8), (pixels.shape[0] - 8) // (HEIGHT + 40)
    assert MAX_PICTURES <= across * lines < MAX_PICTURES + across
    first = pixels[8 : 8 + HEIGHT, 8 : 8 + WIDTH]
    third = pixels[8 : 8 + HEIGHT, 8 + 2 * (WIDTH + 8) : 8 + 2 * (WIDTH + 8) + WIDTH]
    assert abs(int(first[HEIGHT // 2, WIDTH // 2, 0]) - 80) < 6
    assert abs(int(third[HEIGHT // 2, WIDTH // 2, 0]) - 160) < 6
    assert first[HEIGHT // 2, WIDTH // 2, 1] < 10
    assert pixels[8 + HEIGHT : 8 + HEIGHT + 16, 8 : 8 + WIDTH].min() < 100  # a label is written under it

    empty = io.BytesIO()
    assert list(with_contact_sheet([], empty, threads=2, max_pixels=10**6)) == []
    assert Image.open(io.BytesIO(empty.getvalue())).format == "PNG"


Run = Callable[..., CompletedProcess[bytes]]


def test_classify_writes_pages_and_sheets_beside_its_rows(run: Run, photos: Path, model_dir: str) -> None:
    (photos / "bad.png").write_bytes(b"no")
    common = ("classify", "photos", "--labels", "red,green", "--model", model_dir)

    alone = run(*common, "-o", "all.html")
    streamed = run(*common, "--format", "html")
    beside = run(*common, "--report", "some.html", "--contact-sheet", "sheet.png", "--only", "red")
    resumed = run(*common, "-o", "all.html", "--resume")

    assert (alone.returncode, beside.returncode) == (1, 1), alone.stderr + beside.stderr
    page = rows_in((photos.parent / "all.html").read_text(encoding="utf-8"))
    assert [row[1] for row in page] == [f"photos/{path.name}" for path in sorted(photos.iterdir())]
    rows = [json.loads(line) for line in beside.stdout.splitlines()]
    some = rows_in((photos.parent / "some.html").read_text(encoding="utf-8"))
    assert [row[0] for row in some] == [row["file_name"] for row in rows]
    assert [row[3] for row in some] == [row["score"] for row in rows]
    with Image.open(photos.parent / "sheet.png") as sheet:
        assert sheet.format == "PNG"
    assert [row[1] for row in rows_in(streamed.stdout.decode())] == [row[1] for row in page]
    assert list(photos.parent.glob("*.part*")) == []
    assert resumed.returncode == 2
    assert b"--resume: a page or a sheet needs the whole run" in resumed.stderr


def test_eval_writes_a_page_with_the_truth(run: Run, photos: Path, model_dir: str) -> None:
    for path in list(photos.iterdir()):
        (photos / path.stem).mkdir()
        path.rename(photos / path.stem / "a.png")

    (photos.parent / "r.html.part").write_text("left")
    refused = run("eval", "photos", "--model", model_dir, "--report", "r.html", "-q")
    done = run("eval", "photos", "--model", model_dir, "--report", "r.html", "-q", "--overwrite")

    assert refused.returncode == 2
    assert b"r.html.part: left by an earlier run; add --overwrite to start again\n" in refused.stderr

    assert done.returncode == 0, done.stderr
    found = rows_in((photos.parent / "r.html").read_text(encoding="utf-8"))
    page = (photos.parent / "r.html").read_text(encoding="utf-8")
    settings = json.loads(re.search(r'id="settings">(.*?)</script>', page)[1])  # type: ignore[index]
    assert settings.keys() == {"model", "prompts", "labels", "made"}
    assert (settings["prompts"], settings["labels"]) == ("photo", "blue, green, red")
    assert [row[6] for row in found] == [row[0].split("/")[1] for row in found]
    assert all(row[7] for row in found)


def test_rows_are_not_a_page_and_a_page_is_not_a_spreadsheet(photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--rows", "r.html"], "--rows: 'r.html' is a page; use --report for that"),
        (["--report", "r.csv"], "--report: cannot write 'r.csv'; use a name that ends in .html"),
    ):
        assert main(["eval", str(photos), *arguments, "--model", "nowhere"]) == 2
        assert message in capfd.readouterr().err


@pytest.fixture
def model_dir(tiny_model: Callable[[str], Path]) -> str:
    return f"local-dir:{tiny_model('plain')}"
