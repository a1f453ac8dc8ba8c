"""URLs as names of pictures: which are allowed, and what each needs to be read. Nothing is fetched here."""

import os
import re
from importlib.util import find_spec
from urllib.parse import quote, unquote, urlsplit

from zsclip.errors import InputError

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CHAINED = re.compile(
    r"[a-z][a-z0-9+.-]*::.*://|.*://.*::", re.IGNORECASE | re.DOTALL
)  # fsspec would open one file inside another
# The protocols that are read, with the module and the extra that each needs. All others of fsspec are refused, as some
# run programs or read any file that a list names.
_NEEDS = {
    "http": ("aiohttp", "http"), "https": ("aiohttp", "http"), "s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs"), "memory": ("fsspec", "http"),
}  # fmt: skip
_LISTABLE = ("s3", "s3a", "gs", "gcs", "memory")


def is_url(text: str) -> bool:
    """Return whether a text starts like a URL."""
    return _URL.match(text) is not None or _CHAINED.match(text) is not None


def is_remote(text: str) -> bool:
    """Return whether a name is that of something to fetch, not of a local file that is called so."""
    return ":" in text and is_url(text) and not os.path.lexists(text)


def protocol_of(url: str) -> str:
    """Give the protocol of a URL, in lower case."""
    return url.partition(":")[0].lower()


def can_be_listed(url: str) -> bool:
    """Return whether the files below a URL can be found."""
    return protocol_of(url) in _LISTABLE


def name_in(url: str) -> str:
    """Give what the ending of a URL is to be read from: its path, without a query; "" if it is not valid."""
    if protocol_of(url) not in ("http", "https"):
        return url
    return urlsplit(url).path if _is_valid(url) else ""


def quoted(path: str, url: str) -> str:
    """Give a path as it stands in URLs like this one: those of the web have no `#` or space in it."""
    return quote(os.fsencode(path)) if protocol_of(url) in ("http", "https") else path


def without_file(url: str) -> str:
    """Give the path of a `file://` URL, and anything else as it is."""
    return unquote(urlsplit(url).path) if url[:7].lower() == "file://" and _is_valid(url) else url


def without_password(url: str) -> str:
    """Give a URL as a message may show it."""
    return re.sub(r"(?<=://)[^/@]*@", "***@", url)


def without_user(url: str) -> str:
    """Give a URL without a name and password, which do not identify a file."""
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def host_of(url: str) -> str:
    """Give the server or bucket of a URL."""
    return urlsplit(url).netloc.rpartition("@")[2]


def check_url(url: str, *, offline: bool) -> None:
    """Check that a URL may be fetched, and that what reads it is installed.

    Raises:
        InputError: it may not, or it is not.
    """
    shown, protocol = without_password(url), protocol_of(url)
    if not _is_valid(url):
        raise InputError(f"{shown!r}: not a valid URL; check the name of its server")
    is_broken = "\0" in url or (protocol in ("http", "https") and ("\n" in url or "\r" in url))
    if protocol not in _NEEDS or _CHAINED.match(url) or is_broken:
        raise InputError(f"{shown!r}: this kind of URL is not read; use one of {', '.join(_NEEDS)}, or file")
    if offline:
        raise InputError(f"{shown!r}: a URL, which --offline forbids; download the file first")
    module, extra = _NEEDS[protocol]
    if find_spec(module) is None:
        raise InputError(f"{shown!r}: reading {protocol}:// needs {module}: pip install 'zsclip[{extra}]'")


def _is_valid(url: str) -> bool:
    try:
        urlsplit(url)
    except ValueError:  # brackets without an IPv6 address, or letters that no server has
        return False
    return True
