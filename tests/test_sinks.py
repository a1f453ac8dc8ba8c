import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from columns import columns, write_jsonl_slowly

from zsclip.answers.answers import Answers, Candidate, Prediction, Row
from zsclip.out.jsonl import _numbers
from zsclip.out.output import open_output
from zsclip.out.sinks import SINKS, write_csv, write_paths, write_table, write_tsv
from zsclip.out.text import six_digits
from zsclip.pixels.skipped import Skipped
from zsclip.words.labels import read_distractors

CAT = Candidate("cat", 0.9312441234, 0.2871129)
DOG = Candidate("dog", 0.0687, 0.21)
SURE = Prediction("a/cat.jpg", "cat", CAT, (CAT, DOG), "softmax")
UNKNOWN = Prediction("a/what.jpg", None, Candidate("cat", 0.4, 0.2), (Candidate("cat", 0.4, 0.2), DOG), "softmax")
NOTHING_APPLIES = Prediction("a/none.jpg", None, Candidate("cat", 1e-9, -0.1), (), "softmax")
BAD = Skipped("a/bad.jpg", "unreadable", "truncated JPEG: 4096 of 88211 bytes")
ALL: list[Row] = [SURE, UNKNOWN, NOTHING_APPLIES, BAD]

KEYS = (
    "file_name", "label", "score", "cosine", "score_kind", "predictions", "beaten_by", "error", "message",
)  # fmt: skip
ODD_NAMES = [
    b"two\nlines.jpg",
    b"carriage\rreturn.jpg",
    b"comma, space.jpg",
    b'"quoted".jpg',
    b"tab\tand back\\slash.jpg",
    b"\xff\xfe not utf-8.jpg",
    "katze-猫.jpg".encode(),
]


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(sink: Callable[..., None], *batches: Sequence[Row], **options: bool) -> str:
    out = io.StringIO()
    sink(map(columns, batches), out, **options)
    return out.getvalue()


def answer(path: bytes | str, label: str = "cat", score: float = 0.9) -> Prediction:
    best = Candidate(label, score, 0.25)
    return Prediction(os.fsdecode(path), label, best, (best,), "softmax")


def written_bytes(tmp_path: Path, sink: Callable[..., None], rows: list[Row], **options: bool) -> bytes:
    with open_output(str(tmp_path / "rows"), overwrite=True) as out:
        sink([columns(rows)], out, **options)
    return (tmp_path / "rows").read_bytes()


# JSONL


def test_a_jsonl_row_is_the_row_of_the_contract() -> None:
    lines = written(SINKS["jsonl"], [SURE, BAD]).splitlines()

    assert lines == [
        '{"file_name": "a/cat.jpg", "label": "cat", "score": 0.931244, "cosine": 0.287113, "score_kind": "softmax", '
        '"predictions": [{"label": "cat", "score": 0.931244, "cosine": 0.287113}, '
        '{"label": "dog", "score": 0.0687, "cosine": 0.21}], "beaten_by": null, "error": null, "message": null}',
        '{"file_name": "a/bad.jpg", "label": null, "score": null, "cosine": null, "score_kind": null, '
        '"predictions": [], "beaten_by": null, "error": "unreadable", '
        '"message": "truncated JPEG: 4096 of 88211 bytes"}',
    ]


def test_jsonl_rows_do_not_depend_on_their_batch() -> None:
    rows = [*ALL, answer(b'}, {"file_name": "x'), answer("plain.jpg", '}, {"file_name": '), answer("\x9b.jpg"), *ALL]
    out = io.StringIO()

    SINKS["jsonl"](map(columns, [rows, [], *([row] for row in rows)]), out)

    lines = out.getvalue().splitlines()
    assert lines[: len(rows)] == lines[len(rows) :]
    assert [json.loads(line)["file_name"] for line in lines[: len(rows)]] == [row.file_name for row in rows]


def test_every_jsonl_row_has_the_same_keys_in_the_same_order() -> None:
    rows = [json.loads(line) for line in written(SINKS["jsonl"], ALL).splitlines()]

    assert len({tuple(row) for row in rows}) == 1


def test_an_unknown_keeps_the_score_and_cosine_of_its_best_candidate_in_jsonl() -> None:
    unknown, nothing = (json.loads(line) for line in written(SINKS["jsonl"], [UNKNOWN, NOTHING_APPLIES]).splitlines())

    assert (unknown["label"], unknown["score"], unknown["cosine"]) == (None, 0.4, 0.2)
    assert [candidate["label"] for candidate in unknown["predictions"]] == ["cat", "dog"]
    assert (nothing["label"], nothing["score"], nothing["predictions"]) == (None, 1e-9, [])


def test_a_jsonl_row_names_the_distractor_that_won() -> None:
    rows = [replace(UNKNOWN, beaten_by="a shoe\ud800"), UNKNOWN]

    beaten_by = [json.loads(line)["beaten_by"] for line in written(SINKS["jsonl"], rows).splitlines()]

    assert beaten_by == ["a shoe\ufffd", None]


def test_names_come_back_from_jsonl_byte_for_byte(tmp_path: Path) -> None:
    text = written_bytes(tmp_path, SINKS["jsonl"], [answer(name) for name in ODD_NAMES]).decode()

    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["file_name"].encode(errors="surrogateescape") for row in rows] == ODD_NAMES
    assert {tuple(row) for row in rows} == {KEYS}


def test_a_name_that_is_not_utf8_is_escaped_as_python_spells_it() -> None:
    line = written(SINKS["jsonl"], [answer(b"\xff.jpg")])

    assert line.startswith('{"file_name": "\\udcff.jpg", "label": ')


def test_every_row_has_the_same_keys() -> None:
    rows = [json.loads(line) for line in written(SINKS["jsonl"], ALL, [answer(b"\xff.jpg")]).splitlines()]

    assert {tuple(row) for row in rows} == {KEYS}


def test_a_control_character_that_json_allows_is_escaped() -> None:
    line = written(SINKS["jsonl"], [answer("x\x9b2J\x7f.jpg", "caf\xe9")])

    assert "x\\u009b2J\\u007f.jpg" in line
    assert "caf\xe9" in line
    assert json.loads(line)["file_name"] == "x\x9b2J\x7f.jpg"


def test_jsonl_spells_other_scripts_as_themselves() -> None:
    assert '"label": "猫"' in written(SINKS["jsonl"], [answer("a.jpg", "猫")])


@pytest.mark.parametrize("name", ["jsonl", "csv", "tsv", "table"])
def test_a_lone_surrogate_in_a_label_or_message_is_written_as_a_replacement_character(name: str) -> None:
    rows: list[Row] = [answer("a.jpg", "c\udce9t\ud800"), Skipped("b.jpg", "unreadable", "no \udce9 here")]

    text = written(SINKS[name], rows)

    assert "c\ufffdt\ufffd" in text
    assert "no \ufffd here" in text
    assert text.encode()


ODD_LABELS = ["cat", "猫", 'a "b" \\', "tab\tand\x7f\x9b", "c\udce9t\ud800", "}, {", "%s {} %.6g", "crane, bird"]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-5, 9.9999995e-5, 1e-4, 1.2345678e-10, 0.5, 0.99999994, 0.1234565, 1e-45]


def any_answers(random: np.random.Generator, count: int, k: int, kind: str, odd: bool, failing: float) -> Answers:
    """Columns of every kind of row: answered, unknown, beaten, without candidates, skipped."""
    labels = tuple(ODD_LABELS if odd else ["cat", "dog", "owl"])
    names = [os.fsdecode(ODD_NAMES[i % len(ODD_NAMES)]) if odd and i % 2 else f"a/{i}.jpg" for i in range(count)]
    scores, cosines = (random.random((count, k)).astype(np.float32) for _ in range(2))
    for column in (scores, cosines):
        special = random.random((count, k)) < 0.4
        column[special] = random.choice(SPECIAL, special.sum())
    failed = np.flatnonzero(random.random(count) < failing).tolist()
    answered = random.integers(-1, len(labels), count).astype(np.int32)
    answered[failed] = -1
    classes = random.integers(0, len(labels), (count, k)).astype(np.int32)
    applies = np.zeros((count, len(labels)), bool)
    for place, some in enumerate(random.integers(0, k + 1, count)):
        applies[place, classes[place, :some]] = True
    return Answers(
        names=names,
        vocabulary=labels,
        classes=classes,
        scores=scores,
        cosines=cosines,
        answered=answered,
        score_kind=kind,  # type: ignore[arg-type]
        applies=applies if kind == "sigmoid" else None,
        skipped={i: Skipped(names[i], "unreadable", "no \udce9 \x9b here") for i in failed},
        distractors=("a shoe\ud800", "fog") if odd else (),
        beaten_by=random.integers(-1, 2, count).astype(np.int32) if odd else None,
        truth=random.integers(0, len(labels), count).astype(np.int32) if kind == "calibrated" else None,
        first_answered=random.integers(-1, len(labels), count).astype(np.int32) if kind == "transductive" else None,
        first_scores=random.random(count).astype(np.float32) if kind == "transductive" else None,
    )


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("failing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "calibrated", "transductive"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_jsonl_is_byte_for_byte_what_an_encoder_makes_of_each_row(odd, failing, kind, k) -> None:
    random = np.random.default_rng(0)
    batches = [any_answers(random, count, k, kind, odd, failing) for count in (0, 1, 17, 100)]
    fast, slow = io.StringIO(), io.StringIO()

    SINKS["jsonl"](batches, fast)
    write_jsonl_slowly(batches, slow)

    assert fast.getvalue().encode() == slow.getvalue().encode()


def test_numbers_are_those_of_an_encoder() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.random(5000), 10 ** random.uniform(-12, 0, 5000), SPECIAL, [np.nan]])
    values = np.concatenate([values, -values]).astype(np.float32)

    assert _numbers(values) == [json.dumps(six_digits(value)) for value in values.tolist()]


@pytest.mark.parametrize("sink", [SINKS["csv"], SINKS["tsv"], SINKS["paths"]])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "transductive"])
def test_columns_that_were_taken_are_written_as_their_rows(sink, kind) -> None:
    """Of some rows of a batch, against each row by itself."""
    answers = any_answers(np.random.default_rng(0), 60, 3, kind, True, 0.3)
    places = np.random.default_rng(1).permutation(60)[:40]
    together, alone = io.StringIO(), io.StringIO()

    sink([answers.take(places)], together)
    sink([columns([row], ODD_LABELS) for row in map(list(answers.rows()).__getitem__, places)], alone)

    assert together.getvalue().encode("utf-8", "surrogateescape") == alone.getvalue().encode("utf-8", "surrogateescape")


# CSV and TSV


@pytest.mark.parametrize("write", [write_csv, write_tsv])
def test_the_first_of_two_passes_has_columns_of_its_own(write) -> None:
    twice = [
        replace(SURE, truth="dog", first_label="dog", first_score=0.25),
        replace(SURE, truth="dog", first_score=0.5),
        Skipped("a.jpg", "missing", "gone", "dog"),
    ]
    out, plain = io.StringIO(), io.StringIO()

    write([columns(twice)], out, first=True, truth=True)
    write([columns(twice)], plain)

    mark = "," if write is write_csv else "\t"
    ends = ["first_label,first_score,truth", *["dog,0.25,dog"] * 2, *[",0.5,dog"] * 2, ",,dog"]
    wanted = [mark.join([line, *end.split(",")]) for line, end in zip(plain.getvalue().splitlines(), ends, strict=True)]
    assert out.getvalue().splitlines() == wanted


def test_csv_has_one_line_for_each_image_and_rank() -> None:
    assert written(SINKS["csv"], ALL) == (
        "file_name,rank,label,candidate,score,cosine,score_kind,error,message\n"
        "a/cat.jpg,1,cat,cat,0.931244,0.287113,softmax,,\n"
        "a/cat.jpg,2,cat,dog,0.0687,0.21,softmax,,\n"
        "a/what.jpg,1,,cat,0.4,0.2,softmax,,\n"
        "a/what.jpg,2,,dog,0.0687,0.21,softmax,,\n"
        "a/none.jpg,1,,cat,1e-09,-0.1,softmax,,\n"
        "a/bad.jpg,,,,,,,unreadable,truncated JPEG: 4096 of 88211 bytes\n"
    )


def test_tsv_has_the_lines_of_the_csv_between_tabs() -> None:
    assert written(SINKS["tsv"], ALL) == written(SINKS["csv"], ALL).replace(",", "\t")


def test_csv_and_tsv_of_no_rows_are_a_header() -> None:
    header = "file_name,rank,label,candidate,score,cosine,score_kind,error,message"
    assert written(SINKS["csv"]).splitlines() == [header]
    assert written(SINKS["tsv"], []).splitlines() == [header.replace(",", "\t")]


def test_names_and_labels_come_back_from_csv_byte_for_byte(tmp_path: Path) -> None:
    content = written_bytes(tmp_path, SINKS["csv"], [answer(name, "=crane, bird") for name in ODD_NAMES])

    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))
    assert [os.fsencode(row["file_name"]) for row in rows] == ODD_NAMES
    assert {(row["label"], row["candidate"]) for row in rows} == {("=crane, bird", "=crane, bird")}


def test_names_and_labels_come_back_from_tsv_byte_for_byte(tmp_path: Path) -> None:
    content = written_bytes(tmp_path, SINKS["tsv"], [answer(name, "a\\tb\tc") for name in ODD_NAMES])

    plain = {b"\\t": b"\t", b"\\n": b"\n", b"\\r": b"\r", b"\\\\": b"\\"}
    rows = [
        [re.sub(rb"\\.", lambda escape: plain[escape[0]], cell) for cell in line.split(b"\t")]
        for line in content.split(b"\n")[1:-1]
    ]
    assert [row[0] for row in rows] == ODD_NAMES
    assert {(row[2], row[3]) for row in rows} == {(b"a\\tb\tc", b"a\\tb\tc")}
    assert {len(row) for row in rows} == {9}
    assert b"\r" not in content


def test_an_answer_without_candidates_over_the_threshold_still_has_its_line() -> None:
    assert written(SINKS["csv"], [Prediction("a.jpg", "cat", CAT, (), "sigmoid")]).splitlines()[1:] == [
        "a.jpg,1,cat,cat,0.931244,0.287113,sigmoid,,"
    ]


# Paths


def test_paths_are_only_those_whose_answer_is_a_label() -> None:
    assert written(SINKS["paths"], ALL, [answer("b.jpg")]) == "a/cat.jpg\nb.jpg\n"


@pytest.mark.parametrize("name", ["paths", "csv", "tsv"])
def test_names_keep_their_bytes_in_a_locale_without_utf8(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsencode", lambda path: path.encode("latin-1"))

    assert "\u00e9.jpg" in written(SINKS[name], [answer("\u00c3\u00a9.jpg")])  # two bytes, read as two characters


def test_print0_paths_come_back_byte_for_byte(tmp_path: Path) -> None:
    content = written_bytes(tmp_path, write_paths, [answer(name) for name in ODD_NAMES], print0=True)

    assert content == b"".join(name + b"\0" for name in ODD_NAMES)


# Table


def test_a_table_shows_answers_further_candidates_unknowns_and_errors_in_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    assert written(write_table, ALL).splitlines() == [
        "a/cat.jpg             0.931 █████████▎ cat",
        "                      0.069 ▋          dog",
        "a/what.jpg            0.400 ████       unknown (cat?)",
        "a/none.jpg            0.000            unknown (cat?)",
        "a/bad.jpg             unreadable: truncated JPEG: 4096 of ",
        "                      88211 bytes",
    ]


def test_a_table_names_the_distractor_that_is_better_than_every_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    (line,) = written(write_table, [replace(UNKNOWN, beaten_by="\x1bfog")]).splitlines()

    assert line == r"a/what.jpg            0.400 ████       unknown (\x1bfog won)"


def test_a_table_that_is_not_on_a_terminal_is_100_columns_wide_and_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "__stdout__", None)  # the terminal that the tests may run on

    first = written(write_table, [SURE]).splitlines()[0]

    assert first.index("0.931") == 51
    assert "\x1b" not in first


@pytest.mark.parametrize("columns", [91, 100, 120])
def test_the_longest_distractor_fits_on_one_line(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    longest = max((label.name for label in read_distractors([])), key=len)

    (line,) = written(write_table, [replace(UNKNOWN, beaten_by=longest)]).splitlines()

    assert line.endswith(f"unknown ({longest} won)")


def test_columns_keep_their_place_from_batch_to_batch() -> None:
    lines = written(write_table, [answer("a.jpg")], [], [answer("much/longer/name.jpg")]).splitlines()

    assert len(lines) == 2
    assert len({line.index("0.900") for line in lines}) == 1


def test_a_long_path_is_shortened_from_the_left_and_wide_characters_count_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    lines = written(write_table, [answer("photos/猫猫猫猫猫猫猫猫.jpg"), answer("photos/猫猫猫.jpg")]).splitlines()

    assert [line.split(" ")[0] for line in lines] == ["…猫猫猫猫猫猫猫.jpg", "photos/猫猫猫.jpg"]
    assert [line.index("0.900") for line in lines] == [22 - 7, 22 - 3]


def test_a_very_narrow_terminal_still_gets_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "5")

    assert written(write_table, [answer("photos/cats/1.jpg")]) == "…/cats/1.jpg  0.900 █████████  cat\n"


def test_a_table_on_a_terminal_is_coloured_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = FakeTerminal(), FakeTerminal()

    write_table([columns(ALL)], coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    write_table([columns(ALL)], plain)

    assert "\x1b[32m█████████▎" in coloured.getvalue()
    assert "\x1b[2m████      \x1b[0m \x1b[2munknown" in coloured.getvalue()
    assert "\x1b[31munreadable" in coloured.getvalue()
    assert not re.search(r"\x1b\[3\dm", plain.getvalue())


def test_nothing_in_a_name_a_label_or_a_message_can_move_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    evil = "x\x1b[2J\x1b]0;t\x07\r\n\t\x08\x9b1A\u202egpj\x00\x7f\u2028"
    terminal = FakeTerminal()

    write_table([columns([answer(evil), answer("a.jpg", evil), Skipped("b.jpg", "unreadable", evil)])], terminal)

    without_colours = re.sub(r"\x1b\[\d+m", "", terminal.getvalue())
    assert without_colours.count("\n") == 3
    assert without_colours.replace("\n", "").isprintable()
    assert without_colours.count(r"x\x1b[2J\x1b]0;t\x07\r\n\t\x08\x9b1A\u202egpj\x00\x7f\u2028") == 3


def test_markup_in_names_and_labels_is_shown_as_it_stands() -> None:
    text = written(write_table, [answer("[red]a[/red].jpg", "[bold]:cat:")])

    assert text.startswith("[red]a[/red].jpg ")
    assert text.endswith(" [bold]:cat:\n")


# Streaming


@pytest.mark.parametrize("name", SINKS)
def test_a_batch_is_out_before_the_next_one_is_asked_for(name: str, tmp_path: Path) -> None:
    part = tmp_path / "rows.part"
    sizes = []

    def batches() -> Iterator[Answers]:
        for _ in range(3):
            yield columns([SURE])
            sizes.append(part.stat().st_size)

    with open_output(str(tmp_path / "rows")) as out:
        SINKS[name](batches(), out)

    assert 0 < sizes[0] < sizes[1] < sizes[2] == (tmp_path / "rows").stat().st_size


@pytest.mark.parametrize("name", SINKS)
def test_a_large_batch_is_flushed_once(name: str) -> None:
    class Counting(io.StringIO):
        flushes = 0

        def flush(self) -> None:
            self.flushes += 1

    out = Counting()

    SINKS[name]([columns([SURE] * 1000), columns([SURE])], out)

    assert out.flushes == 2
