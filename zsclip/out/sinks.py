"""Answers -> table, JSONL, CSV, TSV or paths.

A sink writes batches of rows to a text stream and flushes after each batch, so that an answer is out as soon as it is
known, without a flush for each row. A run that is interrupted leaves whole rows; one that is killed, or finds the disk
full, may leave half of its last row.
"""

import io
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from typing import TYPE_CHECKING, TextIO

from zsclip.answers.answers import Answers, Row
from zsclip.out.jsonl import write_jsonl
from zsclip.out.text import decoded, escaped, in_utf8, six_digits, unknown_of, without_surrogates
from zsclip.pixels.skipped import Skipped

if TYPE_CHECKING:
    from rich.text import Text

# label: the answer, empty where there is none; candidate: the label of this rank.
COLUMNS = ("file_name", "rank", "label", "candidate", "score", "cosine", "score_kind", "error", "message")
FIRST = ("first_label", "first_score")  # of the first pass, if there was a second
BAR_WIDTH = 10


def write_csv(
    batches: Iterable[Answers], out: TextIO, *, header: bool = True, truth: bool = False, first: bool = False
) -> None:
    """Write comma-separated values, one line per image and rank, with a header.

    Args:
        truth: whether there is a column for it. first: whether there are columns for the first of two passes.
    """
    columns = COLUMNS + FIRST * first + ("truth",) * truth
    _write_lines(batches, out, ",", csv_field, columns, header)


def write_tsv(
    batches: Iterable[Answers], out: TextIO, *, header: bool = True, truth: bool = False, first: bool = False
) -> None:
    r"""Write tab-separated values: the columns of the CSV, and `\t`, `\n`, `\r`, `\\` for what would break a line."""
    columns = COLUMNS + FIRST * first + ("truth",) * truth
    _write_lines(batches, out, "\t", tsv_field, columns, header)


def write_paths(batches: Iterable[Answers], out: TextIO, *, print0: bool = False, unknown: bool = False) -> None:
    """Write only the paths of pictures that have an answer; with `unknown`, of all pictures that could be read.

    One path per line; with `print0`, each ends in NUL.
    """
    end = "\0" if print0 else "\n"
    for answers in batches:
        wanted = answers.was_read() if unknown else answers.answered >= 0
        out.writelines(in_utf8(path) + end for path in compress(answers.names, wanted.tolist()))
        out.flush()


def write_table(batches: Iterable[Answers], out: TextIO) -> None:
    """Write a table for people: path, score, bar, label; further candidates on lines of their own.

    Its width is $COLUMNS, the terminal's, or 100. The path column has a fixed width, so that rows can stream.
    """
    from rich.cells import set_cell_size
    from rich.console import Console
    from rich.text import Text

    width = max(40, shutil.get_terminal_size((100, 24)).columns)
    # From 91 columns on, the answer has room for `unknown (microscope picture won)`.
    path_width = max(12, min(60, width - 51), min(40, width - 40))
    # Writes to memory only, as rich itself would raise SystemExit at a closed pipe.
    console = Console(file=io.StringIO(), force_terminal=out.isatty() or None, width=width, highlight=False)
    for answers in batches:
        page = Text(end="")
        for row in answers.rows():
            name = _shortened(escaped(decoded(row.file_name)), path_width)
            for answer in _answer_texts(row):
                for line in answer.wrap(console, width - path_width - 2):
                    page.append(set_cell_size(name, path_width) + "  ").append_text(line).append("\n")
                    name = ""
        with console.capture() as rendered:
            console.print(page, soft_wrap=True, end="")
        out.write(rendered.get())
        out.flush()


SINKS: dict[str, Callable[[Iterable[Answers], TextIO], None]] = {
    "table": write_table,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "tsv": write_tsv,
    "paths": write_paths,
}


def _write_lines(
    batches: Iterable[Answers],
    out: TextIO,
    separator: str,
    field: Callable[[str], str],
    columns: Sequence[str],
    has_header: bool,
) -> None:
    head = separator.join(columns) + "\n" if has_header else ""
    for answers in batches:
        out.write(head)  # with the first rows, so that a run that fails before them writes nothing
        head = ""
        out.writelines(_lines(answers, separator, field, columns[len(COLUMNS) :]))
        out.flush()
    out.write(head)


def _lines(answers: Answers, separator: str, field: Callable[[str], str], further: Sequence[str]) -> Iterator[str]:
    """Write a line for each picture and rank; the best candidate has one even where it is not over the threshold.

    Args:
        further: the columns after COLUMNS.
    """
    labels = [field(without_surrogates(label)) for label in answers.vocabulary] + [""]  # -1 is none of them
    ends = _ends(answers, separator, labels, further)
    shown = answers.is_candidate()
    shown[:, 0] |= ~shown.any(axis=1)
    columns = (answers.answered, answers.classes, answers.scores, answers.cosines, shown)
    for place, (name, end, answer, classes, scores, cosines, is_shown) in enumerate(
        zip(answers.names, ends, *(column.tolist() for column in columns), strict=True)
    ):
        name = field(in_utf8(name))
        if (skipped := answers.skipped.get(place)) is not None:
            failure = (name, *[""] * 6, skipped.error, field(without_surrogates(skipped.message)))
            yield separator.join(failure) + end + "\n"
            continue
        some = compress(zip(classes, scores, cosines, strict=True), is_shown)
        for rank, (class_, score, cosine) in enumerate(some, 1):
            numbers = f"{six_digits(score)}{separator}{six_digits(cosine)}{separator}{answers.score_kind}"
            cells = (name, str(rank), labels[answer], labels[class_], numbers, "", "")
            yield separator.join(cells) + end + "\n"


def _ends(answers: Answers, separator: str, labels: Sequence[str], further: Sequence[str]) -> list[str]:
    """Write the further columns of each picture.

    Args:
        labels: as fields; the last is for no label.
    """
    nothing = [-1] * len(answers)
    truth = nothing if answers.truth is None else answers.truth.tolist()
    first = nothing if answers.first_answered is None else answers.first_answered.tolist()
    scores = [""] * len(answers)
    if answers.first_scores is not None:
        was_read = answers.was_read().tolist()
        pairs = zip(answers.first_scores.tolist(), was_read, strict=True)
        scores = [str(six_digits(score)) if is_good else "" for score, is_good in pairs]
    fields = {
        "first_label": [labels[place] for place in first], "first_score": scores,
        "truth": [labels[place] for place in truth],
    }  # fmt: skip
    return ["".join(separator + fields[name][place] for name in further) for place in range(len(answers))]


def csv_field(text: str) -> str:
    """Quote a text where CSV needs it."""
    # Python 3.11's csv module leaves a lone carriage return unquoted, and cannot read it back.
    return '"' + text.replace('"', '""') + '"' if re.search(r'[,"\r\n]', text) else text


def tsv_field(text: str) -> str:
    """Escape what would break a line of TSV."""
    return text.translate({ord("\\"): r"\\", ord("\t"): r"\t", ord("\n"): r"\n", ord("\r"): r"\r"})


def _answer_texts(row: Row) -> "Iterator[Text]":
    from rich.text import Text

    if isinstance(row, Skipped):
        yield Text.assemble((row.error, "red"), ": ", (escaped(without_surrogates(row.message)), "dim"))
        return
    is_known = row.label is not None
    for rank, answer in enumerate((row.predictions if is_known else ()) or (row.best,)):
        is_answer = rank == 0 and is_known
        label = escaped(without_surrogates(answer.label if is_known else unknown_of(row)))
        bar = (_bar(answer.score), "green" if is_answer else "dim")
        yield Text.assemble(f"{answer.score:.3f} ", bar, " ", (label, "bold" if is_answer else "dim"))


def _bar(score: float) -> str:
    full, eighths = divmod(round(score * BAR_WIDTH * 8), 8)
    return ("█" * full + " ▏▎▍▌▋▊▉"[eighths])[:BAR_WIDTH].ljust(BAR_WIDTH)


def _shortened(name: str, width: int) -> str:
    """Shorten a name that is wider than `width` terminal cells to an ellipsis and its end."""
    from rich.cells import cell_len

    if cell_len(name) <= width:
        return name
    tail = name[1 - width :]
    while cell_len(tail) > width - 1:
        tail = tail[1:]
    return "…" + tail
