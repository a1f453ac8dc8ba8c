"""What a server says of a file, and what identifies its content by that. Nothing is fetched here."""

import hashlib
from typing import Any, NamedTuple

from zsclip.pictures import identity
from zsclip.pictures.urls import without_user

_TAGS = ("ETag", "etag", "generation", "md5Hash")  # names of what changes with the content, the best first
_TIMES = ("Last-Modified", "LastModified", "updated", "mtime", "created")


class About(NamedTuple):
    """What a server says of a file.

    size: in bytes, None if it does not say. tag: changes with the content; empty if only the content identifies it.
    is_settled: whether the tag will change if the content does, even now.
    """

    size: int | None = None
    tag: bytes = b""
    is_settled: bool = False

    def is_same(self, other: "About") -> bool:
        """Whether nothing shows that the file has changed; a server may leave out a size or a tag."""
        sizes, tags = {self.size, other.size} - {None}, {self.tag, other.tag} - {b""}
        return len(sizes) < 2 and len(tags) < 2


def about_of_reply(reply: Any) -> About:
    """Read the headers of a reply over HTTP."""
    about = {name: reply.headers[name] for name in ("ETag", "Last-Modified", "Date") if name in reply.headers}
    ranged = reply.headers.get("Content-Range", "").rpartition("/")[2]
    size = ranged if reply.status == 206 else reply.headers.get("Content-Length", "")
    is_packed = reply.headers.get("Content-Encoding", "identity") not in ("", "identity")
    return about_of({**about, "size": int(size) if size.isdigit() and not is_packed else None})


def about_of(info: dict[str, Any]) -> About:
    """Take the identity of a file from what a server says of it."""
    tag = next((str(info[name]) for name in _TAGS if info.get(name)), "")
    changed = next((info[name] for name in _TIMES if info.get(name)), None)
    is_weak = tag.startswith("W/") or not tag
    known = [tag, *([str(changed)] if is_weak and changed is not None else [])]
    # Servers such as nginx make a tag of the time in seconds, so it says no more than that.
    is_settled = _seconds_since(changed, info.get("Date")) > identity.GRAIN_NS / 1e9 if "Date" in info else bool(tag)
    has_tag = bool(tag) or changed is not None
    return About(info.get("size"), "\0".join(known).encode() if has_tag else b"", is_settled and has_tag)


def _seconds_since(changed: Any, now: Any) -> float:
    """Give how long ago a file was changed, by the server's own clock; forever if it does not say."""
    from email.utils import parsedate_to_datetime

    try:
        return (parsedate_to_datetime(str(now)) - parsedate_to_datetime(str(changed))).total_seconds()
    except (TypeError, ValueError):
        return 0.0 if changed else float("inf")


def key_of(url: str, about: About) -> bytes | None:
    """Give the key of a file on a server; None if nothing identifies its content, or not yet."""
    if not about.tag or not about.is_settled:
        return None
    return without_user(url).encode(errors="surrogateescape") + b"\0" + look_of_about(about)


def look_of_about(about: About) -> bytes:
    """Give what identifies the content of a file with a tag, in as many bytes as the look of a local one."""
    return hashlib.blake2b(b"%d\0" % (about.size or 0) + about.tag, digest_size=identity.LOOK_BYTES - 1).digest()
