"""Captions in pictures: letters that Pillow's own font lacks, and what happens where no font here has them."""

import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from zsclip.answers.answers import Candidate, Prediction
from zsclip.answers.where import Where
from zsclip.measure.confusion import write_png
from zsclip.out import fonts
from zsclip.out.contactsheet import _sheet
from zsclip.out.fonts import Font, package_for, take_undrawn
from zsclip.out.heatmap import heatmap
from zsclip.pixels.fit import Area
from zsclip.pixels.view import View

Run = Callable[..., subprocess.CompletedProcess[bytes]]
NO_FONTS = "<?xml version='1.0'?><!DOCTYPE fontconfig SYSTEM 'fonts.dtd'><fontconfig><dir>{}</dir></fontconfig>"


@pytest.fixture(autouse=True)
def _no_letter_is_left_from_before() -> None:
    take_undrawn()


def has_font(text: str) -> bool:
    return any(all(map(face.has, text)) for face in fonts._faces())


needs_cyrillic = pytest.mark.skipif(not has_font("кошка"), reason="no font here has Cyrillic letters")
needs_hebrew = pytest.mark.skipif(not has_font("חתול"), reason="no font here has Hebrew letters")


def drawn(text: str, anchor: str = "la", size: float = 15) -> np.ndarray:
    image = Image.new("L", (300, 60))
    Font(size).draw(ImageDraw.Draw(image), (100, 20), text, 255, anchor)
    return np.asarray(image)


@pytest.mark.parametrize("anchor", ["la", "lm", "rm", "mm"])
@pytest.mark.parametrize("size", [9, 12.6, 15])
def test_what_pillows_own_font_has_is_drawn_in_it_to_the_bit(anchor: str, size: float) -> None:
    text, own = "0.987 a cat, don\N{RIGHT SINGLE QUOTATION MARK}t\N{HORIZONTAL ELLIPSIS}", ImageFont.load_default(size)
    image = Image.new("L", (300, 60))
    ImageDraw.Draw(image).text((100, 20), text, 255, own, anchor=anchor)

    assert (drawn(text, anchor, size) == np.asarray(image)).all()
    assert Font(size).length(text) == own.getlength(text)


@pytest.mark.parametrize("letters", ["iWm. -", "iWm. -кé猫"])
def test_a_line_is_cut_as_if_letter_by_letter(letters: str) -> None:
    pick, font = random.Random(0), Font(12)
    for _ in range(100):
        text = "".join(pick.choices(letters, k=pick.randrange(40)))
        width = pick.randrange(150)
        line = text
        while len(line) > 1 and font.length(line) > width:
            line = line[:-2] + "\N{HORIZONTAL ELLIPSIS}"

        got = font.cut_to(width, text)
        if text.isascii():
            assert got == line
        else:  # with letters left out, or in several fonts, a longer text may be narrower
            assert font.length(got) <= max(width, font.length(line))
            assert len(got) >= len(line) - 5


@needs_cyrillic
@pytest.mark.parametrize("anchor", ["la", "lm", "rm"])
def test_other_letters_come_from_an_installed_font(anchor: str) -> None:
    """A whole caption is in one font, so that its letters match; each letter looks different from the others."""
    face = next(face for face in fonts._faces() if face.has("к") and face.has("0"))
    font, own = face.at(15), ImageFont.load_default(15)
    above, below = own.getmetrics()
    x = 100 - (font.getlength("0.987 кот") if anchor == "rm" else 0)
    y = 20 + (above if anchor == "la" else (above - below) / 2)
    image = Image.new("L", (300, 60))
    ImageDraw.Draw(image).text((x, y), "0.987 кот", 255, font, anchor="ls")

    assert (drawn("0.987 кот", anchor) == np.asarray(image)).all()
    assert len({drawn(letter).tobytes() for letter in "кошмарéß€"}) == 9
    assert take_undrawn() == []


@needs_cyrillic
def test_letters_in_two_fonts_stand_beside_each_other_on_one_line() -> None:
    text = "cat \U0010fffe кот"  # the letter in the middle is in no font, so none has all

    parts = fonts._parts_of(text)

    assert [part for _, part in parts] == ["cat \N{HORIZONTAL ELLIPSIS} ", "кот"]
    rows = [np.flatnonzero(drawn(each).any(axis=1)).max() for each in ("cat", "кот", text)]
    assert len(set(rows)) == 1  # they stand on the same line
    columns = np.flatnonzero(drawn(text).any(axis=0))
    assert columns.max() - columns.min() > 0.9 * Font(15).length(text)
    assert take_undrawn() == ["\U0010fffe"]
    assert take_undrawn() == []


@pytest.mark.parametrize("has_raqm", [True, False])
def test_marks_blanks_and_invisible_letters_are_no_boxes(has_raqm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_raqm:
        monkeypatch.setattr(fonts, "_face", lambda path, index: Basic(path, index))
    assert (drawn("e\N{COMBINING ACUTE ACCENT}") == drawn("é")).all()
    assert (drawn("a\u200d\ufeffb\x07") == drawn("ab")).all()
    assert (drawn("a\tb\N{IDEOGRAPHIC SPACE}c\N{NO-BREAK SPACE}d") == drawn("a b c d")).all()
    assert drawn("a b\N{SOFT HYPHEN}").sum() == drawn("a b").sum()
    assert take_undrawn() == []


@needs_hebrew
def test_without_raqm_hebrew_still_reads_from_right_to_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_face", lambda path, index: Basic(path, index))
    ((face, _),) = fonts._parts_of("abc חתול def")
    image = Image.new("L", (300, 60))
    place = (100, 20 + ImageFont.load_default(15).getmetrics()[0])
    ImageDraw.Draw(image).text(place, "abc לותח def", 255, face.at(15), anchor="ls")

    assert (drawn("abc חתול def") == np.asarray(image)).all()


@needs_hebrew
@pytest.mark.skipif(not features.check("raqm"), reason="Pillow has no raqm here")
def test_with_raqm_captions_begin_on_the_left_whatever_their_letters() -> None:
    ((face, _),) = fonts._parts_of("0.9 חתול")
    image = Image.new("L", (300, 60))
    place = (100, 20 + ImageFont.load_default(15).getmetrics()[0])
    on, font = ImageDraw.Draw(image), face.at(15)
    on.text(place, "0.9 ", 255, font, anchor="ls")
    on.text((place[0] + font.getlength("0.9 "), place[1]), "חתול", 255, font, anchor="ls")

    assert np.abs(drawn("0.9 חתול").astype(int) - np.asarray(image)).mean() < 0.1 * np.asarray(image).mean()


class Basic(fonts._Face):
    """A font as Pillow draws it without raqm."""

    def _opened(self, size: float, layout: Any) -> ImageFont.FreeTypeFont:
        return super()._opened(size, ImageFont.Layout.BASIC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abאבגcd", "abגבאcd"), ("0.5 אב גד", "0.5 דג בא"), ("אב 12 גד", "בא 12 דג"), ("ab", "ab"),
        ("א\u05b8ב", "בא\u05b8"),
    ],
)  # fmt: skip
def test_without_raqm_stretches_from_right_to_left_are_turned_round(text: str, expected: str) -> None:
    assert fonts._for(ImageFont.load_default(12), text) == expected


@needs_cyrillic
def test_confusion_matrices_name_labels_in_every_script(tmp_path: Path) -> None:
    """If letters were boxes, labels of the same length would look the same."""
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, labels in zip(files, (["кот", "пёс"], ["мир", "дом"], ["кот", "пёс"]), strict=True):
        with open(file, "wb") as out:
            write_png(np.eye(2, dtype=np.int64), labels, out)

    first, second, again = (file.read_bytes() for file in files)
    assert first == again
    assert first != second


@needs_cyrillic
def test_overlays_and_sheets_name_labels_in_every_script() -> None:
    area, nothing = Area((40, 30), (0, 0, 40, 30)), np.zeros((1, 2, 2), np.float32)
    view = View(np.zeros((3, 8, 8), np.uint8), Image.new("RGB", (40, 30)), area)
    overlays, sheets = set(), set()
    for label in ("кот", "мир"):
        best = Candidate(label, 0.5, 0.2)
        sheets.add(_sheet([(Prediction("a.png", label, best, (best,), "softmax", labels=(label,)), None)]).tobytes())
        where = Where("a.png", area, (label,), (0.5,), (0.2,), "softmax", True, nothing, nothing)
        overlays.add(heatmap(view, where).tobytes())

    assert (len(overlays), len(sheets)) == (2, 2)
    assert take_undrawn() == []


@pytest.mark.parametrize(
    ("command", "has_fontconfig"),
    [
        (("classify", "--where", "seen", "-k", "3"), True),
        (("classify", "--contact-sheet", "seen.png"), False),
        (("eval", "--confusion", "seen.png", "--no-store"), True),
    ],
)
def test_letters_that_no_font_has_are_left_out_and_named(
    command: tuple[str, ...], has_fontconfig: bool, run_alone: Run, model: str, tmp_path: Path
) -> None:
    for label in ("red", "café", "猫 кот"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / label / f"{label}.png")
    (tmp_path / "fonts.conf").write_text(NO_FONTS.format(tmp_path / "none"))
    nothing = {"XDG_DATA_DIRS": "/nonexistent", "XDG_DATA_HOME": "/nonexistent"}
    nothing |= {"FONTCONFIG_FILE": str(tmp_path / "fonts.conf")} if has_fontconfig else {"PATH": "/nonexistent"}
    words = (*command, "photos", "-l", "red,café,猫 кот", "-m", model)

    done, quiet = run_alone(*words, **nothing), run_alone(*words, "-q", "--overwrite", **nothing)

    assert (done.returncode, quiet.returncode, quiet.stderr) == (0, 0, b"")
    (line,) = [line for line in done.stderr.decode().splitlines() if "captions" in line]
    assert line.startswith("zsclip: captions: no font here has ")
    assert ", so they were left out; install one, such as Debian's fonts-noto-" in line
    assert all(f"'{letter}'" in line for letter in "é猫кот")
    assert all(package in line for package in ("fonts-noto-core", "fonts-noto-cjk"))
    assert list(tmp_path.glob("seen*"))


def test_where_no_font_has_a_letter_its_plain_form_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: ())

    assert (drawn("café") == drawn("cafe")).all()
    assert (drawn("0.5 猫кот b") == drawn("0.5 \N{HORIZONTAL ELLIPSIS} b")).all()
    assert "".join(take_undrawn()) == "é猫кот"


def test_a_file_that_is_no_font_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.ttf").write_bytes(b"bad")
    monkeypatch.setattr(fonts, "_installed", lambda: ((str(tmp_path / "bad.ttf"), 0), (str(tmp_path / "gone.ttf"), 0)))

    assert (drawn("é") == drawn("e")).all()


@pytest.mark.parametrize(
    ("letter", "package"),
    [("猫", "fonts-noto-cjk"), ("한", "fonts-noto-cjk"), ("ネ", "fonts-noto-cjk"), ("ไ", "fonts-noto-core"),
     ("\N{CAT FACE}", "fonts-symbola"), ("ж", "fonts-noto-core"), ("बि", "fonts-noto-core"),
     ("\N{MAN}\N{ZERO WIDTH JOINER}", "fonts-symbola"), ("か\u3099", "fonts-noto-cjk")],
)  # fmt: skip
def test_the_package_that_helps(letter: str, package: str) -> None:
    assert package_for(letter) == package
