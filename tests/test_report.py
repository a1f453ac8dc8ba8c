import html
import io
import json
import os
import re
import tarfile
from base64 import b64decode
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from types import MappingProxyType
from urllib.parse import unquote

import numpy as np
import pytest
from browser import dom_of_page, given_by, needs_browser
from columns import columns
from PIL import Image

from zsclip.answers.answers import Candidate, Prediction
from zsclip.cli.main import main
from zsclip.measure.labelled import read_labelled
from zsclip.measure.metrics import Judged, balanced_accuracy, macro_f1, top1
from zsclip.out import report as report_module
from zsclip.out.contactsheet import MAX_PICTURES, with_contact_sheet
from zsclip.out.report import with_report
from zsclip.out.thumbnails import HEIGHT, WIDTH, thumbnails
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.skipped import Skipped

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

    assert page.count("</script>") == 4
    assert "alert(1)</script>" not in page
    assert [unquote(row[1], errors="surrogateescape") for row in rows_in(page)] == names


def test_a_page_has_no_more_thumbnails_than_a_browser_can_open(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "MAX_PAGE_BYTES", 1)

    found = rows_in(page_of([answer(path, "cat", 0.5) for path in pictures * 2], tmp_path, batch=2))

    assert [row[7] is None for row in found] == [False, False, True, True, True, True]


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
        ("#from=0.45&to=0.7", ["c2.png", "c1.png", "bad.png"]),
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
    dom = dom_of_page(page_of(rows, tmp_path), tmp_path, state)

    assert cards(dom) == shown
    assert f"{len(shown)} of 6 images" in dom
    assert "6 images, 2 labels, 1 unknown, 1 failed, 2 mistakes" in dom
    assert "<b>picture" not in dom
    table = re.search(r'<table id="matrix">.*</table>', dom, re.DOTALL)
    assert table
    assert re.findall(r"<td[^>]*>(\d*)</td>", table[0]) == ["1", "1", "", "1", "1", "1"]
    head, body = table[0].split("</thead>")
    assert re.findall(r"<th>([^<]*)</th>", head) == ["", "cat", "dog", "unknown"]
    assert re.findall(r"<th[^>]*>([^<]*)</th>", body) == ["cat", "dog"]
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
    dom = dom_of_page(page_of(rows, tmp_path, about={"model": "<tiny>", "made": "today"}), tmp_path, "#order=name")

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
    assert cards(dom_of_page(page, tmp_path)) == ["both", "dog", "both", "none"]
    assert cards(dom_of_page(page, tmp_path, "#section=%3Ddog")) == ["dog", "both"]
    assert "3 of 3 images" in dom_of_page(page, tmp_path, "#order=sure")


@needs_browser
def test_small_sections_stand_side_by_side(tmp_path):
    rows: list[Row] = [answer(f"{i}.png", f"label {i}", 0.5) for i in range(12)]
    dom = dom_of_page(page_of(rows, tmp_path), tmp_path)

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

    dom = dom_of_page(full, tmp_path)

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


CLICK = 'const card = (n) => document.querySelector(`[data-place="${n}"]`);'  # in the order by name, without heads


def three_candidates(names: list[str]) -> list[Row]:
    cat, dog, cow = Candidate("cat", 0.6, 0.2), Candidate("dog", 0.3, 0.1), Candidate('"cow", or', 0.1, 0.1)
    return [Prediction(name, "cat", cat, (cat, dog, cow), "softmax") for name in names]


@needs_browser
def test_keys_correct_pictures_and_the_file_of_corrections_is_read_from_anywhere(tmp_path: Path) -> None:
    """Names are those of real files, which the list names by absolute paths, byte by byte."""
    names = ["a, b.png", 'c"d.png', "new\nline\r.png", "h#?%41.png", os.fsdecode(b"\xff\x80.png"), "日本.png", "z.png"]
    (tmp_path / "pictures").mkdir()
    files = [str(tmp_path / "pictures" / name) for name in names]
    for file in files:
        Image.new("RGB", (8, 8)).save(file)
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(files[0], "in/ä#1.png")
    page = page_of(three_candidates(files), tmp_path)
    member = '"s.tar#in/ä#1.png", "s.tar#in/%C3%A4%231.png"'
    page = page.replace(
        "\n]", f',\n[{member}, ["cat"], 0.5, null, null, null, null, [["cat", 0.5], ["dog", 0.2]], null]\n]', 1
    )

    found = given_by(
        page,
        tmp_path,
        CLICK
        + """
        for (const row of rows) {  // enlarge each by its card: right by its digit, wrong, or with a label of one's own
            const place = placed.findIndex((each) => each.row === row);
            enlarge(place);
            if (row[NUMBER] === 0) { press("3"); press("3"); press("é", "Digit2"); }  // a digit of a French keyboard
            else if (row[NUMBER] === 5) press("x");
            else if (row[NUMBER] === 6) { press("2"); press("0"); }
            else if (row[NUMBER] === 4) {
                by("another").focus();
                press("2");
                by("another").value = " a new, label ";
                press("Enter");
            }
            else press("3");
        }
        press("Escape");
        const file = btoa(String.fromCharCode(...correctionsFile()));
        give([file, by("kept").textContent, Object.values(localStorage).length]);
        """,
    )

    assert found[1:] == ["7 corrections kept in this browser", 7]
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "corrections.csv").write_bytes(b64decode(found[0]))
    notes: list[str] = []
    read = read_labelled(str(tmp_path / "downloads" / "corrections.csv"), note=notes.append)
    right = ["dog", '"cow", or', '"cow", or', '"cow", or', "a new, label", '"cow", or']
    assert dict(zip(read.pictures.names, read.words, strict=True)) == dict(
        zip([*files[:5], str(tmp_path / "s.tar#in/ä#1.png")], right, strict=True)
    )
    assert [len(read.pictures.open(place).read()) > 50 for place in range(6)] == [True] * 6
    assert len(notes) == 1  # of the picture that is only known to be wrong
    assert "1 line without a label" in notes[0]


@needs_browser
def test_corrections_are_kept_by_the_browser_for_this_run_alone(tmp_path: Path) -> None:
    page = page_of(three_candidates(["a.png", "b.png", "c.png"]), tmp_path)
    same = page_of(three_candidates(["a.png", "b.png", "c.png"]), tmp_path, about={"made": "later"})
    other = page_of(three_candidates(["a.png", "b.png", "d.png"]), tmp_path)
    run, again, different = (re.search(r'"id": "(\w{32})"', each)[1] for each in (page, same, other))  # type: ignore[index]
    assert run == again != different

    before = f"""localStorage.setItem("zsclip {run} 1", "dog"); localStorage.setItem("zsclip {different} 2", "cow");"""
    after = """
        const shown = [...document.querySelectorAll(".card .answer")].map((each) => each.innerHTML);
        localStorage.setItem(KEY + "0", "cat");  // another tab
        dispatchEvent(new StorageEvent("storage", { key: KEY + "0", newValue: "cat" }));
        dispatchEvent(new StorageEvent("storage", { key: "of others", newValue: "cat" }));
        give([shown, [...corrected], [...document.querySelectorAll(".card .answer")].map((each) => each.textContent)]);
    """
    shown, kept, now = given_by(page, tmp_path, after, before=before)

    assert shown == ["cat", "<s>cat</s> <b>dog</b>", "cat"]
    assert kept == [[1, "dog"], [0, "cat"]]
    assert now == ["✓ cat", "cat dog", "cat"]


@needs_browser
def test_a_browser_without_storage_still_corrects(tmp_path: Path) -> None:
    page = page_of(three_candidates(["a.png", "b.png"]), tmp_path)

    found = given_by(
        page,
        tmp_path,
        CLICK + 'card(1).focus(); press("2"); give([[...corrected], by("kept").textContent, by("export").hidden]);',
        before='Object.defineProperty(window, "localStorage", { get() { throw new DOMException("no"); } });',
    )

    assert found == [[[0, "dog"]], "1 correction will be lost when you close this page, unless you save them", False]


@needs_browser
def test_a_browser_without_room_still_has_what_it_kept(tmp_path: Path) -> None:
    page = page_of(three_candidates(["a.png", "b.png"]), tmp_path)
    run = re.search(r'"id": "(\w{32})"', page)[1]  # type: ignore[index]
    fill = """
        let number = 0;
        for (let size = 1 << 20; size >= 1; size >>= 1) {
            try { for (;;) localStorage.setItem("f" + number++, "x".repeat(size)); } catch {}
        }
    """

    found = given_by(
        page,
        tmp_path,
        CLICK
        + """
        const before = [[...corrected], by("kept").textContent];
        card(1).focus(); press("2");
        give([before, [...corrected], by("kept").textContent]);
        """,
        before=f'localStorage.setItem("zsclip {run} 1", "cat"); {fill}',
    )

    assert found == [
        [[[1, "cat"]], "1 correction kept in this browser"],
        [[1, "cat"], [0, "dog"]],
        "2 corrections will be lost when you close this page, unless you save them",
    ]


@needs_browser
def test_a_correction_is_of_the_picture_that_is_seen(tmp_path: Path) -> None:
    """Cards may be arranged anew while a picture is enlarged, as when a phone is turned."""
    found = given_by(
        page_of(three_candidates(["a.png", "b.png", "c.png", "d.png"]), tmp_path),
        tmp_path,
        """
        const turn = () => {
            Object.defineProperty(window, "innerWidth", { value: innerWidth + 1, configurable: true });
            dispatchEvent(new Event("resize"));
        };
        const open = (row) => enlarge(placed.findIndex((each) => each.row === row));
        for (const row of rows.slice(0, 3)) correct(row, "dog");
        by("section").value = "*corrected";
        arrange();
        open(rows[0]);
        press("0"); turn(); press("3");  // it is no longer among them
        const closed = !by("enlarged").open;
        open(rows[2]);
        correct(rows[1], null); turn(); press("3");  // it has another place
        give([closed, by("where").textContent, [...corrected]]);
        """,
    )

    assert found == [True, "c.png", [[2, '"cow", or']]]


@needs_browser
def test_negative_cosines_are_only_hidden_by_a_minimum(tmp_path: Path) -> None:
    after = """
        const all = by("shown").textContent;
        by("from").value = 0.01;
        arrange();
        give([all, by("shown").textContent]);
    """

    found = given_by(page_of([answer("a.png", "cat", -0.05), answer("b.png", "cat", 0.5)], tmp_path), tmp_path, after)

    assert found == ["2 of 2 images", "1 of 2 images"]


@needs_browser
def test_a_key_that_is_held_down_counts_once(tmp_path: Path) -> None:
    found = given_by(
        page_of(three_candidates(["a.png", "b.png"]), tmp_path),
        tmp_path,
        CLICK
        + """
        const hold = (key) => [false, true, true, true].forEach((repeat) => {
            const event = new KeyboardEvent("keydown", { key, repeat, bubbles: true, cancelable: true });
            document.activeElement.dispatchEvent(event);
        });
        card(1).focus(); hold("2");
        card(2).focus(); hold("x");
        give([...corrected]);
        """,
    )

    assert found == [[0, "dog"], [1, ""]]


@needs_browser
def test_a_picture_is_enlarged_and_arrows_lead_to_the_others(pictures: list[str], tmp_path: Path) -> None:
    rows: list[Row] = [*three_candidates(pictures), Skipped("z.png", "unreadable", "why")]

    found = given_by(
        page_of(rows, tmp_path),
        tmp_path,
        CLICK
        + """
        const name = () => by("where").textContent.split("/").pop();
        const seen = () => [name(), by("enlarged").open, by("choices").children.length];
        const loaded = () => new Promise((done) => setTimeout(done, 500));
        card(1).click();
        const first = seen();
        await loaded();
        const size = [by("large").naturalWidth, by("large").naturalHeight];
        press("ArrowRight"); press("ArrowRight");
        const third = seen();
        press("ArrowRight");
        const failed = [seen(), by("details").textContent];
        press("2"); press("ArrowRight"); press("ArrowLeft");
        press("Escape");
        await loaded();
        const focused = document.activeElement.dataset.place;
        press("Enter");
        give([first, size, third, failed, focused, seen(), corrected.size]);
        """,
    )

    assert found[0] == ["0.png", True, 4]  # "no label" is a label, too
    assert found[1] == [400, 100]  # of the file, not of its thumbnail
    assert found[2] == ["2.png", True, 4]
    assert found[3] == [["z.png", True, 0], "why"]
    assert found[4:] == ["3", ["2.png", True, 4], 0]


@needs_browser
@pytest.mark.parametrize("labels", [5, 90])
def test_measures_are_those_of_eval_for_any_number_of_labels(labels: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, labels - 2, 397), random.integers(0, labels, 397)
    predicted[:200] = truth[:200]
    rows: list[Row] = [
        answer(f"{i}.png", f"label {predicted[i]:02}", 0.5, f"label {truth[i]:02}") for i in range(len(truth))
    ]

    after = """
        by("measures").open = true;
        await new Promise((done) => setTimeout(done, 200));
        const table = (id) => [...by(id).rows].map((row) => [...row.cells].map((cell) => cell.textContent));
        give([by("overall").textContent, table("per-label"), table("mistakes"), by("matrix").rows.length]);
    """
    overall, per_label, mistakes, matrix = given_by(page_of(rows, tmp_path), tmp_path, after)

    judged = Judged(truth, predicted, truth == predicted, np.zeros(len(truth)))
    right, balanced, f1 = (f"{100 * figure(judged):.1f}%" for figure in (top1, balanced_accuracy, macro_f1))
    assert overall == f"397 images with a true label: {right} right, balanced accuracy {balanced}, macro-F1 {f1}"
    assert [row[0] for row in per_label[1:]] == [f"label {each:02}" for each in range(labels - 2)]
    of_first = truth == 0
    assert per_label[1][1] == str(of_first.sum())
    assert per_label[1][2] == f"{100 * (predicted[of_first] == 0).mean():.1f}%"
    assert per_label[1][3] == f"{100 * (truth[predicted == 0] == 0).mean():.1f}%"
    counts: dict[tuple[str, str], int] = {}
    for one, other in zip(truth.tolist(), predicted.tolist(), strict=True):
        if one != other:
            counts[f"label {one:02}", f"label {other:02}"] = counts.get((f"label {one:02}", f"label {other:02}"), 0) + 1
    assert {(row[0], row[1]): int(row[2]) for row in mistakes[1:]} == counts
    assert matrix == (labels + 1 if labels < 60 else 0)  # a head, and a line for each label


def test_pages_have_runner_ups_and_rows_do_not(run: Run, photos: Path, model_dir: str) -> None:
    common = ("classify", "photos", "--labels", "red,green,blue", "--model", model_dir, "-q")

    plain = run(*common, "-f", "jsonl")
    beside = run(*common, "-f", "jsonl", "--report", "some.html")

    assert beside.stdout == plain.stdout
    page = rows_in((photos.parent / "some.html").read_text(encoding="utf-8"))
    assert [len(row[8]) for row in page] == [3, 3, 3]
    assert [row[8][0] for row in page] == [[row[2][0], row[3]] for row in page]


def test_members_lead_to_their_containers(run: Run, photos: Path, model_dir: str) -> None:
    with tarfile.open(photos / "some files.tar", "w") as tar:
        tar.add(photos / "red.png", "in/a#b.png")
    (photos / "list.csv").write_text("file_name\nred.png\nsome files.tar#in/a#b.png\n")

    run("classify", "photos/some files.tar", "photos/list.csv", "-l", "red,green", "--model", model_dir, "-o", "r.html")

    found = rows_in((photos.parent / "r.html").read_text(encoding="utf-8"))
    assert [(row[0], row[1]) for row in found] == [
        ("photos/some files.tar#in/a#b.png", "photos/some%20files.tar#in/a%23b.png"),
        ("photos/red.png", "photos/red.png"),
        ("photos/some files.tar#in/a#b.png", "photos/some%20files.tar#in/a%23b.png"),
    ]


@pytest.fixture
def model_dir(tiny_model: Callable[[str], Path]) -> str:
    return f"local-dir:{tiny_model('plain')}"
