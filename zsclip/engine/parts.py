"""A run whose rows go to a folder: one Parquet part for each shard, written by whichever process claims it."""

import json
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

from zsclip.answers.answers import Answers, only_wanted
from zsclip.answers.classifier import Classifier
from zsclip.answers.classify import classify
from zsclip.answers.scores import Rule
from zsclip.engine.footers import Footer, Footers
from zsclip.engine.part_files import Run, claims_of, part_of, parts_in, shard_of
from zsclip.engine.question import rule_of
from zsclip.engine.settings import digested, settings_of
from zsclip.engine.shards import Shard, is_loose
from zsclip.errors import InputError
from zsclip.models.embed import Embedded
from zsclip.models.encoder import Encoder
from zsclip.out.changes import changes
from zsclip.out.output import as_output_error
from zsclip.out.parquet import Layout, write_parquet
from zsclip.pictures.about import About
from zsclip.pictures.sampling import Sampling

_VERSION = 1
_ASKED_AHEAD = 32  # shards; a server may be far away
_ATTEMPTS = 3  # for a container that is replaced while it is read


@dataclass
class Counts:
    """What was found out about the pictures of a shard."""

    images: int = 0
    unknown: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def of(self, batches: Iterable[Answers]) -> Iterator[Answers]:
        """Count batches and pass them on."""
        for batch in batches:
            self.images += len(batch)
            self.errors.update(each.error for each in batch.skipped.values())
            has_answer = batch.answered >= 0
            found = batch.answered[has_answer] if batch.applies is None else batch.applies.nonzero()[1]
            self.labels.update(batch.vocabulary[label] for label in found.tolist())
            self.unknown += len(batch) - len(batch.skipped) - int(has_answer.sum())
            yield batch


@dataclass(frozen=True)
class Done:
    """What has become of a shard.

    how: written now, or complete since before, written by another process during this run, claimed by one, or failed.
    counts: of its pictures, as far as they are known. message: why it has failed.
    """

    shard: Shard
    how: Literal["written", "complete", "beside", "elsewhere", "failed"]
    counts: Counts = field(default_factory=Counts)
    message: str = ""
    notes: tuple[str, ...] = ()


Write = Callable[[Shard, Counts], Iterable[Answers]]


class Parts:
    """The parts of a run, and what each must say to count as complete.

    Args:
        loose: the inputs that loose files come from. note: called with one line about what is done again. footers: what
            is known of parts that are there already.
    """

    def __init__(
        self, run: Run, loose: Sequence[str], encoder: Encoder, note: Callable[[str], None], footers: Footers
    ) -> None:
        self.rule: Rule = rule_of(run.question, encoder)
        self.claims = claims_of(run)
        self.footers = footers
        self._run = run
        self._note = note
        self._width = encoder.embed_dim
        self._asked: dict[str, Future[About] | None] = {}  # by shard
        self._has_loose = bool(loose)
        self._began = self._kept_since = math.inf  # nanoseconds, once it has begun
        finding = run.finding
        self._settings = settings_of(run.question, encoder, run.model, run.computing) | {
            "embeddings": run.embeddings, "exclude": list(finding.exclude), "all-files": finding.all_files,
            "column": finding.column, "every": _interval_of(finding.sampling), "frames": finding.sampling.animations,
        }  # fmt: skip
        self._of_loose = {
            "images": digested(list(loose), loose), "limit": finding.limit, "shard-size": finding.size,
        }  # fmt: skip

    def settings(self, shard: Shard) -> dict[str, object]:
        """Give what the rows of a shard depend on, besides its pictures."""
        return self._settings | (self._of_loose if is_loose(shard.name) else {})

    def check(self, *, is_dry: bool = False) -> None:
        """Check that nobody fills the folder with other settings, and begin.

        It must hold no parts of another run; with `overwrite`, those are removed, unless it is dry.

        Only the first part of each kind is read: the first process sees that they are all of one run, and so on.

        Raises:
            InputError: it does.
        """
        if not is_dry:
            self._begin()
        if self._run.overwrite:
            self._kept_since = self.claims.overwriting_since(is_begun=not is_dry) or math.inf
        try:
            self._check_parts(is_dry=is_dry)
        except InputError:
            self.claims.close(is_done=False)
            raise

    def _begin(self) -> None:
        own = {"all": self._settings, "loose": self._of_loose if self._has_loose else {}}
        try:
            theirs = self.claims.join(json.loads(json.dumps(own)))
            self._began = self.claims.began()
        except OSError as e:
            raise self.claims.unwritable(e) from e
        if theirs is None:
            return
        before, now = dict(theirs["all"]), self._settings
        if theirs["loose"] and own["loose"]:
            before, now = before | theirs["loose"], now | self._of_loose
        if differences := "; ".join(changes(before, now)):
            raise InputError(
                f"{self._run.folder}: another process is filling it with other settings: {differences}; "
                "wait until it has ended, or write to another folder"
            )

    def _check_parts(self, *, is_dry: bool) -> None:
        names = parts_in(self._run.folder)
        for kind in (False, True):
            of_kind = [name for name in names if is_loose(shard_of(name)) == kind]
            for name in of_kind if self._run.overwrite else of_kind[:1]:
                path = os.path.join(self._run.folder, name)
                footer = self.footers.find(path)
                differences = self._differences(footer, kind) if footer else ""
                if differences and not self._run.overwrite:
                    raise _of_another_run(path, differences)
                if differences and not is_dry:
                    with suppress(FileNotFoundError):  # another process does the same
                        os.unlink(path)

    def complete(self, shard: Shard, *, quietly: bool = False) -> Counts | None:
        """Give what is known of a shard that is complete; None if it is not, and say so if it has changed.

        Raises:
            InputError: the part is of another run.
        """
        path = part_of(self._run, shard)
        footer = self.footers.of(path)
        if footer is None or (self._run.overwrite and _changed(path) < self._kept_since):
            return None
        differences = self._differences(footer, is_loose(shard.name))
        if differences:
            if self._run.overwrite:
                return None
            raise _of_another_run(path, differences)
        if not shard.is_as(footer.shard, self._asked.pop(shard.name, None)):
            if not quietly:
                self._note(f"{path}: {shard.path or 'one of its images'} has changed, so it is written again")
            return None
        counts = Counts(footer.images, errors=Counter(footer.failed))
        return None if self._run.retry_errors and counts.errors else counts

    def asked_ahead(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """Pass shards on, while servers are asked about containers to come whose parts are there."""
        ahead: deque[Shard] = deque()
        for shard in shards:
            if self.footers.known(part_of(self._run, shard)) is not None:
                self._asked[shard.name] = shard.asked()
            ahead.append(shard)
            if len(ahead) > _ASKED_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def is_of_others(self, shard: Shard) -> bool:
        """Whether a complete part, which is not of this process, was written since this run began."""
        return _changed(part_of(self._run, shard)) >= self._began

    def write(self, shard: Shard, temporary: str, answer: Write) -> Counts:
        """Write a part, under another name until it is complete.

        Args:
            answer: gives the answers for the pictures of a shard, counted.
        """
        for _ in range(_ATTEMPTS):
            identity, counts = shard.identity(), Counts()
            about = {"version": _VERSION, "settings": self.settings(shard), "shard": identity}
            layout = Layout(self._run.embeddings, self._width, about=about)
            with as_output_error(self._run.folder, temporary), open(temporary, "w") as out:
                self._write(answer(shard, counts), out, layout, counts)
                os.fsync(out.fileno())
                # A loose file that changes meanwhile is seen by the next run.
                if not shard.path or shard.is_as(identity):
                    os.replace(temporary, part_of(self._run, shard))
                    return counts
            self._note(f"{shard.path}: was replaced while it was read, so it is read again")
        raise InputError(f"{shard.path}: is replaced again and again; wait until it is complete")

    def _write(self, batches: Iterable[Answers], out: TextIO, layout: Layout, counts: Counts) -> None:
        def end() -> Mapping[str, Any]:
            return {"images": counts.images, "failed": counts.errors}

        write_parquet(only_wanted(batches, set(self._run.wanted)), out, layout=layout, end=end)

    def _differences(self, footer: Footer, of_loose: bool) -> str:
        if footer.version != _VERSION:
            return f"format of parts: {footer.version} -> {_VERSION}"
        return "; ".join(
            changes(self.footers.settings[footer.settings], self._settings | (self._of_loose if of_loose else {}))
        )


def do_shards(shards: Iterable[Shard], parts: Parts, answer: Write) -> Iterator[Done]:
    """Write the parts of all shards that no other process works on, and say what has become of each.

    A shard that another process has claimed comes last, as that may have ended by then; it is not waited for.
    """
    elsewhere: list[Shard] = []
    is_done = False
    try:
        for shard in parts.asked_ahead(shards):
            done = do_shard(shard, parts, answer)
            if done.how == "elsewhere":
                elsewhere.append(shard)
            else:
                yield done
        for shard in elsewhere:
            yield do_shard(shard, parts, answer)
        is_done = True
    finally:
        parts.claims.close(is_done=is_done)


def do_shard(shard: Shard, parts: Parts, answer: Write) -> Done:
    """Write the part of a shard, unless it is complete or another process works on it."""
    if (counts := parts.complete(shard)) is not None:
        parts.claims.clean(shard.name)
        return Done(shard, "beside" if parts.is_of_others(shard) else "complete", counts)
    with parts.claims.take(shard.name) as temporary:
        if temporary is None:
            return Done(shard, "elsewhere")
        if (counts := parts.complete(shard, quietly=True)) is not None:  # by another process, a moment ago
            return Done(shard, "beside", counts)
        try:
            counts = parts.write(shard, temporary, answer)
        except InputError as e:
            return Done(shard, "failed", message=str(e))
        parts.claims.clean(shard.name)
        return Done(shard, "written", counts)


def answers_of(embedded: Iterable[Embedded], matrix: Classifier, run: Run, rule: Rule) -> Iterator[Answers]:
    """Answer for pictures as a run asks for it."""
    return classify(embedded, matrix, rule, with_vectors=run.embeddings is not None)


def _interval_of(sampling: Sampling) -> str:
    """Give which frames of videos are taken, as the options say it."""
    if sampling.keyframes:
        return "key frames"
    return str(sampling.every) if isinstance(sampling.every, int) else f"{sampling.every}s"


def _changed(path: str) -> float:
    """Give when a file was written, in nanoseconds; -1 if it is not there."""
    with suppress(OSError):
        return os.stat(path).st_mtime_ns
    return -1


def _of_another_run(path: str, differences: str) -> InputError:
    return InputError(
        f"{path}: made with other settings: {differences}; write to another folder, or add --overwrite to replace it"
    )
