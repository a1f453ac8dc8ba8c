"""Neighbouring frames of a video with the same answer -> a row with start, end, label and score: what people cut by."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TextIO

from zsclip.answers.answers import Answers
from zsclip.out.jsonl import json_line, json_text
from zsclip.out.sinks import csv_field, tsv_field
from zsclip.out.text import UNKNOWN, decoded, escaped, in_utf8, six_digits, without_surrogates
from zsclip.pictures.clips import Clip, Frame
from zsclip.pixels.skipped import Skipped

COLUMNS = ("file_name", "start", "end", "label", "score", "frames", "error", "message")


@dataclass(frozen=True)
class Segment:
    """A stretch of a video: frames one after the other that have the same answer.

    start, end: seconds from the start of the video; a segment ends where the next one starts, the last one with the
    video. None for an image, and for a video that could not be read. label: None if unknown. score: the mean of its
    frames. frames: their number. failed: why it has no answer.
    """

    file_name: str
    start: float | None
    end: float | None
    label: str | None
    score: float | None
    frames: int
    failed: Skipped | None = None


class _Open:
    """A segment that may still grow."""

    def __init__(self, frame: Frame, label: str | None, score: float, failed: Skipped | None) -> None:
        self.first = self.last = frame
        self.label, self.failed = label, failed
        self._sum, self._frames = score, 1

    def add(self, frame: Frame, label: str | None, score: float, failed: Skipped | None) -> bool:
        """Take a frame in, if it belongs to the segment. Failed frames stay apart: nothing is known about them."""
        if frame.clip is not self.first.clip or label != self.label or failed is not None or self.failed is not None:
            return False
        self.last = frame
        self._sum, self._frames = self._sum + score, self._frames + 1
        return True

    def ended(self, next_name: str | None) -> Segment:
        """Give the segment, as it ends where a picture of this name comes; None: where the run ends."""
        clip: Clip = self.first.clip
        if isinstance(next_name, Frame) and next_name.clip is clip:
            end = next_name.seconds
        elif next_name is None and clip.end is None:  # --limit came before the end of the clip
            end = clip.end_of(self.last)
        else:
            end = self.last.seconds if clip.end is None else max(clip.end, self.last.seconds)
        score = None if self.failed is not None else self._sum / self._frames
        return Segment(clip.path, self.first.seconds, end, self.label, score, self._frames, self.failed)


def segments(batches: Iterable[Answers]) -> Iterator[list[Segment]]:
    """Join neighbouring frames, and yield the segments that end within each batch; then the last one.

    Images stay as they are, and so do rows that say why a video is not whole.
    """
    open_one: _Open | None = None
    for answers in batches:
        done: list[Segment] = []
        scores = answers.scores[:, 0].tolist()
        for place, (name, label, score) in enumerate(zip(answers.names, answers.labels, scores, strict=True)):
            failed = answers.skipped.get(place)
            if isinstance(name, Frame) and open_one is not None and open_one.add(name, label, score, failed):
                continue
            if open_one is not None:
                done.append(open_one.ended(name))
            open_one = _Open(name, label, score, failed) if isinstance(name, Frame) else None
            if open_one is None:
                done.append(Segment(name, None, None, label, None if failed else score, int(not failed), failed))
        yield done
    if open_one is not None:
        yield [open_one.ended(None)]


def write_segments(batches: Iterable[Answers], out: TextIO, form: str, wanted: set[str | None]) -> None:
    """Write segments, each as soon as it has ended.

    Args:
        form: jsonl, csv, tsv or table. wanted: the answers to write; None stands for unknown; empty means all.
    """
    head, line_of = _FORMS[form]
    for some in segments(batches):
        out.write(head)  # with the first rows, so that a run that fails before them writes nothing
        head = ""
        out.writelines(line_of(each) for each in some if not wanted or (each.label in wanted and not each.failed))
        out.flush()
    out.write(head)


def _as_json(segment: Segment) -> str:
    error, message = _why(segment)
    cells = {
        "file_name": json_text(in_utf8(segment.file_name)),
        "start": _time(segment.start) or "null",
        "end": _time(segment.end) or "null",
        "label": "null" if segment.label is None else json_text(without_surrogates(segment.label)),
        "score": "null" if segment.score is None else str(six_digits(segment.score)),
        "frames": str(segment.frames),
        "error": json_text(error) if error else "null",
        "message": json_text(message) if message else "null",
    }
    return json_line(cells)


def _as_line(segment: Segment, separator: str, field: Callable[[str], str]) -> str:
    error, message = _why(segment)
    label = "" if segment.label is None else field(without_surrogates(segment.label))
    score = "" if segment.score is None else str(six_digits(segment.score))
    times = (_time(segment.start), _time(segment.end))
    cells = (field(in_utf8(segment.file_name)), *times, label, score, str(segment.frames), error, field(message))
    return separator.join(cells) + "\n"


def _as_text(segment: Segment) -> str:
    error, message = _why(segment)
    what = f"{error}: {escaped(message)}" if error else escaped(without_surrogates(segment.label or UNKNOWN))
    score = "" if segment.score is None else f"{segment.score:.3f}"
    name = escaped(decoded(segment.file_name))
    return f"{name:<30}  {_time(segment.start):>10}  {_time(segment.end):>10}  {score:>5}  {what}\n"


def _why(segment: Segment) -> tuple[str, str]:
    failed = segment.failed
    return ("", "") if failed is None else (failed.error, without_surrogates(failed.message))


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3f}"


# The header and the way to write a line, for each format.
_FORMS: dict[str, tuple[str, Callable[[Segment], str]]] = {
    "jsonl": ("", _as_json),
    "csv": (",".join(COLUMNS) + "\n", partial(_as_line, separator=",", field=csv_field)),
    "tsv": ("\t".join(COLUMNS) + "\n", partial(_as_line, separator="\t", field=tsv_field)),
    "table": ("", _as_text),
}
FORMS = tuple(_FORMS)
