"""A run on Ray: actors that load the model once take shards, and write the parts themselves."""

import os
import pickle
import re
import signal
import socket
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from zsclip.answers.answers import Answers
from zsclip.answers.classifier import Classifier, notes
from zsclip.engine.footers import Footers
from zsclip.engine.part_files import Run, claims_of, part_of
from zsclip.engine.parts import Counts, Done, Parts, answers_of, do_shard
from zsclip.engine.question import classifier_of
from zsclip.engine.run import embedding, opened_store
from zsclip.engine.shards import Plan, Shard
from zsclip.errors import InputError, ZsclipError, first_line
from zsclip.models.encoder import Encoder
from zsclip.pictures.passed_over import PassedOver
from zsclip.pixels.processors import available_cpus

_PATIENCE_SECONDS = 20.0
DEADLY = 3  # actors that a shard may kill before it is skipped
_CPUS = 4  # of an actor without a GPU, or with one
_MOST_TASKS = 10_000  # which each take as many shards; a task costs Ray some milliseconds
_PASSED_ON = ("ZSCLIP_", "HF_", "XDG_CACHE_")  # variables that actors need, too


@dataclass(frozen=True)
class Pool:
    """The actors of a run: their number, and the processors and GPUs of each."""

    actors: int
    cpus: int
    gpus: int


def check_ray() -> None:
    """Raise an InputError if Ray is missing."""
    try:
        import ray.data
    except ImportError as e:
        raise InputError("--engine ray: needs Ray: pip install 'zsclip[ray]'") from e
    assert ray.data


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what Ray prints of its own processes, as when one has died, to stderr: stdout is for results."""
    sys.stdout.flush()
    shown = sys.stdout
    with _redirected(1, 2):
        sys.stdout = sys.stderr  # which may be a notebook's, without a number
        try:
            yield
        finally:
            sys.stdout = shown


@contextmanager
def started_ray() -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS, or start Ray on this machine; stop at the end what was started.

    Raises:
        InputError: there is no such cluster, it does not let us in, or Ray does not start.
    """
    # What is not written in Python has loggers of its own, which warn of how Ray Data makes its actors.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    is_first = not ray.is_initialized()
    if is_first:
        address = os.environ.get("RAY_ADDRESS", "")
        cpus = None if address else available_cpus()
        try:
            _check_address(address)
            with _silent_stderr():  # to which it reports that it has no more to say
                ray.init(num_cpus=cpus, log_to_driver=False, include_dashboard=False, configure_logging=False)
        except Exception as e:  # Ray raises even this, if starting takes it too long
            what = f"RAY_ADDRESS {address}" if address else "--engine ray: Ray does not start"
            why = ((isinstance(e, OSError) and e.strerror) or first_line(e)).lower().rstrip(".")
            cure = "check the cluster, and RAY_AUTH_MODE if it needs a token"
            if not address:
                cure = "try again when the machine is less busy, or use --engine local"
            raise InputError(f"{what}: {why}; {cure}") from e
        with suppress(ValueError):  # outside the main thread, signals are not ours
            signal.signal(signal.SIGTERM, handler)  # which Ray has replaced
    with _stdout_to_stderr():
        try:
            yield
        finally:
            if is_first:
                ray.shutdown()


def _check_address(address: str) -> None:
    """Raise an OSError if nobody answers there; Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/\]]+)\]?:(\d+)", address)
    if found is not None:  # else it is a name that Ray resolves, such as auto
        socket.create_connection((found[1], int(found[2])), timeout=_PATIENCE_SECONDS).close()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, _redirected(2, nowhere.fileno()):
        yield


@contextmanager
def _redirected(descriptor: int, target: int) -> Iterator[None]:
    kept = os.dup(descriptor)
    os.dup2(target, descriptor)
    try:
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def pool_for(shards: int, threads: int | None, gpus: int | None) -> Pool:
    """Choose the actors for a number of shards: one for each GPU, or one for every few processors.

    Args:
        threads: processors of an actor. gpus: the most to use; None uses all.

    Raises:
        InputError: there are not that many GPUs.
    """
    import ray

    there = ray.cluster_resources()
    found, cpus = int(there.get("GPU", 0)), max(1, int(there.get("CPU", 1)))
    if gpus is not None and gpus > found:
        raise InputError(f"--gpus {gpus}: Ray has {found}; use fewer, or leave it out")
    if gpus or found:
        count = min(gpus or found, shards)
        return Pool(count, min(threads or _CPUS, max(1, cpus // count)), 1)
    each = min(threads or _CPUS, cpus)
    return Pool(max(1, min(cpus // each, shards)), each, 0)


def do_shards_on_ray(run: Run, plan: Plan, footers: Footers, pool: Pool) -> Iterator[Done]:
    """Let actors write the parts of all shards that no other process works on, and say what has become of each.

    Args:
        footers: what is known of parts that are there already.

    An actor that dies is started again and does its shard once more; a shard that has killed several is skipped.
    """
    import ray.data

    run = replace(run, name=uuid.uuid4().hex, computing=replace(run.computing, threads=pool.cpus))
    claims = claims_of(run)
    of_name = {shard.name: shard for shard in plan.shards}
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    tasks = min(len(of_name), _MOST_TASKS)
    rows = ((shard, footers.known(part_of(run, shard))) for shard in plan.shards)
    items = ray.data.from_items([{"shard": pickle.dumps(row)} for row in rows], override_num_blocks=tasks)
    variables = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    results = items.map_batches(
        _Actor,
        fn_constructor_args=(run, plan.loose, footers.settings, os.getcwd(), variables),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=1),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    said: set[str] = set()  # every actor notes what is odd about the labels
    for row in results.iter_rows():
        name, outcome = pickle.loads(row["done"])
        if isinstance(outcome, ZsclipError):
            raise outcome
        if outcome.how == "failed":
            claims.clean(name)
        yield replace(outcome, shard=of_name[name], notes=tuple(note for note in outcome.notes if note not in said))
        said.update(outcome.notes)
    claims.close()


class _Actor:
    """Loads the model at the first shard, and writes one part after another."""

    def __init__(
        self, run: Run, loose: Sequence[str], settings: Sequence[Any], folder: str, variables: Mapping[str, str]
    ) -> None:
        os.chdir(folder)  # paths may be relative
        os.environ.update(variables)
        self._run = run
        self._loose = loose
        self._settings = settings
        self._notes: list[str] = []

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the part of a shard."""
        shard, footer = pickle.loads(batch["shard"][0])
        try:
            self._parts.footers.learn(part_of(self._run, shard), footer)
            done: Done | ZsclipError = replace(self._do(shard), notes=tuple(self._notes))
        except ZsclipError as e:
            done = e
        self._notes.clear()
        return {"done": [pickle.dumps((shard.name, done))]}

    def _do(self, shard: Shard) -> Done:
        if self._parts.claims.given_up(shard.name) >= DEADLY:
            where = shard.path or f"{shard.name}: {shard.count:,} files from {shard.files()[0]!r}"
            return Done(_nothing(shard), "failed", message=f"{where}: {DEADLY} actors have died of it; it is skipped")
        return replace(do_shard(shard, self._parts, self._answer), shard=_nothing(shard))

    def _answer(self, shard: Shard, counts: Counts) -> Iterator[Answers]:
        run, encoder = self._run, self._encoder
        pictures = shard.pictures(run.finding, PassedOver())
        with (
            opened_store(encoder, run.computing, is_wanted=run.is_stored) as store,
            embedding(pictures, encoder, store, run.computing) as embedded,
        ):
            yield from counts.of(answers_of(embedded, self._matrix, run, self._parts.rule))

    @cached_property
    def _encoder(self) -> Encoder:
        return self._run.computing.encoder(self._run.model, self._run.offline)

    @cached_property
    def _parts(self) -> Parts:
        parts = Parts(self._run, self._loose, self._encoder, self._notes.append, Footers(self._settings))
        parts.check()
        return parts

    @cached_property
    def _matrix(self) -> Classifier:
        question = self._run.question
        matrix = classifier_of(question, self._encoder)
        self._notes += () if question.head else notes(question.words, matrix.cut, self._encoder)
        return matrix


def _nothing(shard: Shard) -> Shard:
    """Leave the names of files behind, which the other side knows."""
    return replace(shard, packed=b"")
