"""Pictures, and files that hold many, by their URLs: read in parts and ahead, and never all in memory."""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import Any, BinaryIO, TextIO

from zsclip.errors import InputError
from zsclip.pictures.about import About, key_of, look_of_about
from zsclip.pictures.far_file import FarFile
from zsclip.pictures.far_pictures import FarPictures
from zsclip.pictures.fetch import server_of
from zsclip.pictures.identity import LOOK_BYTES, Kept
from zsclip.pictures.pictures import Pictures, read_regular, with_members
from zsclip.pictures.refused import Refused
from zsclip.pictures.shards import TOGETHER, Shard, Stream, failed, open_shard
from zsclip.pictures.urls import can_be_listed, check_url, is_remote, name_in, without_file, without_password

_LINES_BYTES = 1 << 16  # of a list that are read together
_MOST_ASKED = 256  # URLs on the command line that are looked for before a run


@dataclass
class Network:
    """What a search for pictures may fetch, and what it has learnt of files on servers.

    offline: whether it may fetch nothing. members: where is kept what archives hold.
    """

    offline: bool = False
    members: Kept | None = None
    _abouts: dict[str, About] = field(default_factory=dict)
    _shards: dict[str, Shard] = field(default_factory=dict)

    def check(self, urls: Sequence[str]) -> None:
        """Check that URLs may be fetched, and that files are there as far as their servers say so.

        Raises:
            InputError: one is not. A server that is down is no reason; the row will say it.
        """
        for url in urls:
            check_url(url, offline=self.offline)
        wanted = list(islice((url for url in urls if url[-1:] != "/" and url not in self._abouts), _MOST_ASKED))
        for url, about in [(url, server_of(url).about(url, tries=2)) for url in wanted]:
            try:
                self._abouts[url] = about.result()
            except Refused as e:
                if e.kind == "not-a-file" and can_be_listed(url):
                    continue
                if e.kind in ("missing", "permission", "not-a-file"):
                    is_glob = e.kind == "missing" and "*" in name_in(url)
                    cure = "; only s3:// and gs:// have globs; use a range such as {000..127}" if is_glob else ""
                    raise InputError(f"cannot read {without_password(url)!r}: {e.message}{cure}") from e

    def learn(self, abouts: Mapping[str, About]) -> None:
        """Take what a listing says of files, which then need not be asked for."""
        self._abouts |= abouts

    def is_there(self, url: str) -> bool:
        """Whether there is a file or folder of exactly this name."""
        return self.is_folder(url) or url in self._abouts

    def is_folder(self, url: str) -> bool:
        """Whether a URL that was checked is one of many files."""
        if url.endswith("/") and can_be_listed(url):
            return True
        try:
            self._about(url)
        except Refused as e:
            return e.kind == "not-a-file"
        return False

    def open(self, path: str) -> Shard:
        """Open a file that holds many pictures, by its path or URL; one on a server only once."""
        if not is_remote(path):
            return open_shard(path)
        if path not in self._shards:
            while len(self._shards) > 1:
                del self._shards[next(iter(self._shards))]
            self._shards[path] = self.opened(path)
        return self._shards[path]

    def open_text(self, path: str, **options: Any) -> TextIO:
        """Open a text file by its path or URL, as `open` does."""
        if not is_remote(path):
            return open(path, **options)
        shard = self.open(path)
        file: Any = io.BufferedReader(Stream(shard.read, shard.size), _LINES_BYTES)
        return io.TextIOWrapper(file, **options)

    def opened(self, url: str) -> Shard:
        """Open a file on a server. Nothing of it is read yet, unless its server does not say how long it is."""
        self.refuse(url)
        about = self._about(url)
        look = look_of_about(about) if about.tag else os.urandom(LOOK_BYTES)
        file = FarFile(url, about, look)
        if about.size is None:
            file.copy()
        return Shard(url, file.size, look, key_of(url, about), file.read)

    def walk(self, url: str, wants: Callable[[str, bool], bool], is_alone: Callable[[str], bool]) -> Iterator[Pictures]:
        """Yield the files below a URL in the order of a local folder.

        Args:
            wants: whether a file of this path below the URL is a picture of the run, or a folder is to be entered.
            is_alone: whether the file of a URL is given in a group of its own.
        """
        root = url.rstrip("/")
        some: dict[str, About] = {}
        for path, about in self._below(root, "", wants):
            is_last = isinstance(about, Refused) or is_alone(path)
            if some and (is_last or len(some) == TOGETHER):
                yield self.pictures(list(some), list(some.values()))
                some = {}
            if isinstance(about, Refused):  # the pictures of a folder are lost; an error row makes that visible
                yield failed(path, about)
            elif is_last:
                yield self.pictures([path], [about])
            else:
                some[path] = about
        if some:
            yield self.pictures(list(some), list(some.values()))

    def with_urls(self, found: Iterable[Pictures]) -> Iterator[Pictures]:
        """Let the files among some pictures be fetched that are named by URLs."""
        for some in found:
            together = "\0".join(some.names)  # looking at each takes ten times as long
            if some.read is not None or not (":/" in together or "::" in together):
                yield some
                continue
            for is_far, alike in groupby(map(without_file, some.names), is_remote):
                names = list(alike)
                yield replace(self.pictures(names) if is_far else Pictures(names), holder=some.holder)

    def pictures(self, urls: Sequence[str], abouts: Sequence[About] | None = None) -> Pictures:
        """Give the pictures of some URLs, fetched a little ahead if they are read in order.

        Args:
            abouts: what is known of each; None if each is yet to be asked for.
        """
        far = FarPictures(urls, self, abouts)
        return with_members(Pictures(urls, far.read, far.key))

    def read(self, path: str) -> bytes | BinaryIO:
        """Read one picture by its path or URL."""
        path = without_file(path)
        if not is_remote(path):
            return read_regular(path)
        return FarPictures([path], self, None).read(0)

    def refuse(self, url: str) -> None:
        """Refuse a URL in a row that may not be fetched.

        Raises:
            Refused: it may not.
        """
        try:
            check_url(url, offline=self.offline)
        except InputError as e:
            raise Refused("unsupported", str(e).removeprefix(f"{without_password(url)!r}: ")) from e

    def known(self, url: str) -> About | None:
        """Give what a server said of a file when it was looked for."""
        return self._abouts.get(url)

    def _about(self, url: str) -> About:
        if url not in self._abouts:
            self._abouts[url] = server_of(url).about(url).result()
        return self._abouts[url]

    def _below(
        self, root: str, folder: str, wants: Callable[[str, bool], bool]
    ) -> Iterator[tuple[str, About | Refused]]:
        """Yield the files below a folder with what is known of each, and folders that cannot be listed."""
        url = f"{root}/{folder}".rstrip("/")
        try:
            entries = server_of(url).listed(url).result()
        except Refused as e:
            yield url, e
            return
        for name, is_folder, about in sorted(entries, key=lambda each: os.fsencode(each[0] + "/" * each[1])):
            if not wants(folder + name, is_folder):
                continue
            if is_folder:
                yield from self._below(root, f"{folder}{name}/", wants)
            else:
                yield f"{root}/{folder}{name}", about
