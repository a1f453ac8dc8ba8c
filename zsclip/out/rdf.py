"""The RDF of XMP, and where its elements are in the bytes. Bytes in, nothing out: no files, no changes."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
LARGEST = 1 << 23  # bytes; expat's events make far more of them
_DEEPEST = 200  # elements within each other
_UTF_8 = ("utf-8", "utf8")
_TAG = re.compile(rb"""<[^<>"']*(?:(?:"[^"]*"|'[^']*')[^<>"']*)*>""")


class NotXmp(Exception):
    """Raised for bytes that tags cannot be put into, with the reason."""


@dataclass(eq=False, slots=True)
class Element:
    """An element, and where its bytes are: `<start ... open> ... <shut ... end>`."""

    name: str
    attributes: Mapping[str, str]
    start: int
    open: int
    shut: int = -1
    end: int = -1
    has_elements: bool = False
    children: "list[Element]" = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its text; "" if there are elements in it."""
        return "" if self.has_elements else "".join(self.texts)


def rdf_of(data: bytes, kept: Collection[str]) -> Element:
    """Read XML, and find the RDF in it.

    Args:
        kept: the names of elements that are given, as expat reports them; others are passed over.

    Raises:
        NotXmp: there is none, or what is there is too large, declares entities, or is not XML in UTF-8.
    """
    if len(data) > LARGEST:
        raise NotXmp(f"larger than {LARGEST >> 20} MB")
    if not data.removeprefix(b"\xef\xbb\xbf").strip():
        raise NotXmp("empty")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]:
        raise NotXmp("not in UTF-8")
    reader = _Reader(data, kept)
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as e:
        raise NotXmp(f"not XML: {expat.ErrorString(e.code)} in line {e.lineno}") from e
    if reader.root is None:
        raise NotXmp("not XMP: it has no rdf:RDF")
    return reader.root


class _Reader:
    """Finds the elements that concern us; others, which may be millions, leave nothing behind."""

    def __init__(self, data: bytes, kept: Collection[str]) -> None:
        self.data, self.kept = data, kept
        self.root: Element | None = None
        self._open: list[Element | None] = []
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.XmlDeclHandler = _check_encoding
        self.parser.StartDoctypeDeclHandler = _refuse_declarations  # entities are declared there, and nowhere else
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) == _DEEPEST:
            raise NotXmp(f"elements are nested more than {_DEEPEST} deep")
        parent = self._open[-1] if self._open else None
        is_root = self.root is None and name == f"{RDF} RDF"
        made = None
        if parent is not None:
            parent.has_elements = True
        if is_root or (parent is not None and name in self.kept):
            start = self.parser.CurrentByteIndex
            tag = _TAG.match(self.data, start)
            assert tag is not None
            made = Element(name, attributes, start, tag.end())
            if parent is not None:
                parent.children.append(made)
            if is_root:
                self.root = made
        self._open.append(made)

    def _end(self, name: str) -> None:
        element = self._open.pop()
        if element is None:
            return
        if self.data[element.open - 2 : element.open] == b"/>":
            element.shut = element.end = element.open
        else:
            element.shut = self.parser.CurrentByteIndex
            element.end = self.data.index(b">", element.shut) + 1

    def _text(self, text: str) -> None:
        if self._open and (element := self._open[-1]) is not None:
            element.texts.append(text)


def _check_encoding(version: str, encoding: str | None, standalone: int) -> None:
    if encoding is not None and encoding.lower() not in _UTF_8:
        raise NotXmp(f"in {encoding}, not in UTF-8")


def _refuse_declarations(*about: object) -> None:
    raise NotXmp("has a document type, which could declare entities")
