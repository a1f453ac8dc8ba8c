"""The shards of a run, which several processes share: a container each, or some loose files. No container is opened."""

import hashlib
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby

from zsclip.engine.run import network_of
from zsclip.errors import InputError
from zsclip.pictures.about import About
from zsclip.pictures.containers import has_column, is_container
from zsclip.pictures.fetch import server_of
from zsclip.pictures.files import find_images
from zsclip.pictures.listed import with_listed
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.roots import roots_of
from zsclip.pictures.sampling import DEFAULT_SAMPLING, Sampling
from zsclip.pictures.shards import failed
from zsclip.pictures.urls import is_remote

_LONGEST = 80  # characters of a container's name in that of its shard


@dataclass(frozen=True)
class Finding:
    """Which pictures of the inputs belong to the run, as the options say it.

    size: loose files in a shard. sampling: which frames of videos are taken.
    """

    inputs: tuple[str, ...]
    size: int
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    null: bool = False
    all_files: bool = False
    column: str | None = None
    sampling: Sampling = DEFAULT_SAMPLING
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Shard:
    """A piece of a run.

    name: unique, and the same for everyone who shares the run. path: of the container; "" for loose files. packed: the
    names of loose files, compressed, as a run may have many millions. count: of loose files; None if it is not known.
    """

    name: str
    path: str
    packed: bytes = field(default=b"", repr=False)
    count: int | None = None

    def files(self) -> list[str]:
        """Give the names of loose files."""
        return [os.fsdecode(name) for name in zlib.decompress(self.packed).split(b"\0")]

    def asked(self) -> "Future[About] | None":
        """Begin to ask the server of a container what it is; None if the shard is on this machine."""
        return server_of(self.path).about(self.path) if self.path and is_remote(self.path) else None

    def identity(self, asked: "Future[About] | None" = None) -> dict[str, object]:
        """Give what changes when the shard does: the names, sizes and times of loose files, or those of a container.

        Machines that share a folder see other numbers of inodes, so these are left out. Of a list, only the list itself
        counts, as its files would have to be found; nothing is asked about loose URLs. A container whose server does
        not answer has no size, and "changed" is None.

        Args:
            asked: what was asked ahead; None asks now.
        """
        if not self.path:
            names = hashlib.blake2b(zlib.decompress(self.packed), digest_size=16)
            return {"files": self.count, "names": names.hexdigest(), "looks": self._looks()}
        if (asked := asked or self.asked()) is not None:
            return {"path": self.path} | _said(asked)
        with suppress(OSError):
            status = os.stat(self.path)
            return {"path": self.path, "size": status.st_size, "changed": status.st_mtime_ns}
        return {"path": self.path, "size": None}

    def is_as(self, identity: Mapping[str, object], asked: "Future[About] | None" = None) -> bool:
        """Whether the shard is as it was when it had an identity; also if its server does not answer."""
        now = self.identity(asked)
        return now == identity or now.get("changed", "") is None

    def _looks(self) -> str:
        """Digest the sizes and times of loose files."""
        looks = hashlib.blake2b(digest_size=16)
        for name in self.files():
            look = b"-"
            if not is_remote(name):
                with suppress(OSError, ValueError):
                    status = os.stat(name)
                    look = b"%d %d" % (status.st_size, status.st_mtime_ns)
            looks.update(look + b"\0")
        return looks.hexdigest()

    def pictures(self, finding: Finding, passed_over: PassedOver) -> Iterator[Pictures]:
        """Yield the pictures of the shard.

        Args:
            passed_over: where to count what is left out.
        """
        if self.path:
            yield from _inside(self.path, finding, passed_over)
            return
        network = network_of(offline=finding.offline)
        loose = self._loose(finding, passed_over)
        yield from with_listed(loose, finding.column, network, max_pixels=finding.sampling.max_pixels)

    def _loose(self, finding: Finding, passed_over: PassedOver) -> Iterator[Pictures]:
        start, files = 0, self.files()
        for place, name in enumerate(files if finding.sampling.reads_folders else ()):
            if is_container(name, finding.sampling):  # a video in a folder
                yield Pictures(files[start:place])
                yield from _inside(name, finding, passed_over)
                start = place + 1
        yield Pictures(files[start:])


def _said(asked: "Future[About]") -> dict[str, object]:
    """Give what a server says of a container; no tag if it is not there."""
    try:
        about = asked.result()
    except Refused as e:  # its row will say why
        return {"size": None} if e.kind == "missing" else {"size": None, "changed": None}
    return {"size": about.size, "changed": about.tag.hex()}


def _inside(container: str, finding: Finding, passed_over: PassedOver) -> Iterator[Pictures]:
    """Yield the pictures that a container holds or lists."""
    try:
        found = find_images(
            [container], exclude=finding.exclude, all_files=finding.all_files, passed_over=passed_over,
            column=finding.column if has_column(container) else None, sampling=finding.sampling,
            network=network_of(offline=finding.offline),
        )  # fmt: skip
    except InputError as e:  # it was there when the run was planned, and had the column
        yield failed(container, FileNotFoundError(str(e)) if not os.path.exists(container) else e)
        return
    try:
        yield from found.rest()
    finally:
        found.close()


@dataclass(frozen=True)
class Plan:
    """The shards of a run, and which of its inputs loose files come from."""

    shards: Sequence[Shard]
    loose: tuple[str, ...]


def is_loose(name: str) -> bool:
    """Whether a name is that of a shard of loose files."""
    return re.fullmatch(r"files-\d+", name) is not None


def plan(
    finding: Finding,
    passed_over: PassedOver,
    *,
    note: Callable[[str], None] = lambda message: None,
    progress: Callable[[int], None] = lambda files: None,
) -> Plan:
    """Cut a run into shards: containers are taken as they are, loose files are listed in order and counted off.

    Args:
        passed_over: where to count what is left out. progress: called with the number of loose files found so far.

    Raises:
        InputError: as `find_images`; or a picture comes through stdin, or --limit would have to open containers.
    """
    network = network_of(offline=finding.offline)
    of_inputs = [(text, roots_of([text], network=network)) for text in finding.inputs]
    roots = [root for _, some in of_inputs for root in some]
    containers = {
        root for root in set(roots) if root != "-" and not os.path.isdir(root) and is_container(root, finding.sampling)
    }
    from_loose = tuple(text for text, some in of_inputs if not containers.issuperset(some))
    if finding.limit is not None and containers:
        raise InputError("--limit: cannot be used with -o FOLDER/ for archives and lists; use -o FILE")
    if finding.exclude:
        left_out = {root for root in containers if not _is_left(root, finding)}
        roots = [root for root in roots if root not in left_out]
    shards, loose = list[Shard](), list[str]()
    taken: Counter[str] = Counter()
    for of_containers, some in groupby(roots, containers.__contains__):
        if not of_containers:
            loose += some
            continue
        for path in some:
            name = _name_of(path)
            taken[name] += 1
            shards.append(Shard(name if taken[name] == 1 else f"{name}-{taken[name]}", path))
    if loose:
        shards += _loose_shards(loose, finding, network, passed_over, note, progress)
    return Plan(shards, from_loose)


def _is_left(container: str, finding: Finding) -> bool:
    """Whether --exclude leaves a container in the run."""
    return any(
        True
        for _ in find_images(
            [container], exclude=finding.exclude, column=finding.column, sampling=finding.sampling, enter=False
        )
    )


def _loose_shards(
    roots: Sequence[str],
    finding: Finding,
    network: Network,
    passed_over: PassedOver,
    note: Callable[[str], None],
    progress: Callable[[int], None],
) -> Iterator[Shard]:
    found = find_images(
        roots, exclude=finding.exclude, limit=finding.limit, null=finding.null, all_files=finding.all_files, note=note,
        passed_over=passed_over, sampling=finding.sampling, enter=not finding.sampling.reads_folders,
        network=network,
    )  # fmt: skip
    names: list[str] = []
    number = count = 0
    for some in found.rest():
        if some.read is not None and not all(map(is_remote, some.names)):
            raise InputError(
                "-o FOLDER/: images from stdin, single members of archives and frames cannot be shared; use -o FILE"
            )
        names += some.names
        count += len(some)
        progress(count)
        while len(names) >= finding.size:
            yield _loose_shard(number, names[: finding.size])
            del names[: finding.size]
            number += 1
    if names:
        yield _loose_shard(number, names)


def _loose_shard(number: int, names: Sequence[str]) -> Shard:
    return Shard(f"files-{number:06}", "", zlib.compress(os.fsencode("\0".join(names)), 1), len(names))


def _name_of(container: str) -> str:
    """Make a name from that of a container, and a digest of its path, as another folder may have one of this name."""
    path = os.path.normpath(container)
    shown = re.sub(r"[^A-Za-z0-9.-]+", "_", os.path.basename(path))[:_LONGEST].strip("._-")
    return f"{shown}-{hashlib.blake2b(os.fsencode(path), digest_size=6).hexdigest()}"
