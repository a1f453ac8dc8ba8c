"""Tags in XMP, in the forms that photo managers read. Bytes in, bytes out: no files.

What was there is not written anew: our tags are put between its bytes, so all else stays as it is. Properties of our
own list the tags that are ours, and what they list is taken out again before others are put in. Hence the same tags
give the same bytes, whatever the tags were before.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from unicodedata import normalize
from xml.parsers import expat

LARGEST = 1 << 23  # bytes; expat's events make far more of them
_DEEPEST = 200  # elements within each other
_WHITE = b" \t\r\n"
_UTF_8 = ("utf-8", "utf8")
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_SPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "zsclip": "urn:zsclip:xmp/1.0/",  # XMP wants a slash at the end
}
# What no XML may contain: control characters and halves of surrogate pairs.
_NO_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = re.compile(rb"""<[^<>"']*(?:(?:"[^"]*"|'[^']*')[^<>"']*)*>""")
# exiftool writes only what begins like this into pictures.
_EMPTY = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{_RDF}">
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
""".encode()


class NotXmp(Exception):
    """Raised for bytes that tags cannot be put into, with the reason."""


class Tag(NamedTuple):
    """A label that applies, and the group that it is in; "" if it is in none."""

    label: str
    group: str = ""


class _Property(NamedTuple):
    """A list of tags.

    space, name: of the property. kind: of the list, where we make it. added: the name of our own list of what we added;
    not the same, as exiftool finds properties by their names alone.
    """

    space: str
    name: str
    kind: str
    added: str

    def expanded(self, *, ours: bool = False) -> str:
        """Give the name as expat reports it."""
        return f"{_SPACES['zsclip']} {self.added}" if ours else f"{_SPACES[self.space]} {self.name}"


_PROPERTIES = (
    _Property("dc", "subject", "Bag", "addedSubject"),
    _Property("lr", "hierarchicalSubject", "Bag", "addedHierarchicalSubject"),
    _Property("digiKam", "TagsList", "Seq", "addedTagsList"),
)
_LISTS = {f"{_RDF} {kind}" for kind in ("Bag", "Seq", "Alt")}
_KEPT = {
    f"{_RDF} RDF", f"{_RDF} Description", f"{_RDF} li", *_LISTS,
    *(each.expanded(ours=ours) for each in _PROPERTIES for ours in (False, True)),
}  # fmt: skip


@dataclass(eq=False, slots=True)
class _Element:
    """An element, and where its bytes are: `<start ... open> ... <shut ... end>`."""

    name: str
    attributes: Mapping[str, str]
    start: int
    open: int
    shut: int = -1
    end: int = -1
    has_elements: bool = False
    children: "list[_Element]" = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The text by which tags are compared; "" for what is more than a text."""
        return "" if self.has_elements else _key("".join(self.texts))


def tagged(data: bytes | None, tags: Sequence[Tag]) -> bytes | None:
    """Put tags into XMP, and take out those that we put in before.

    Args:
        data: None if there is none yet.

    Returns:
        The same bytes if these tags are in them already; None if there was nothing, and there are no tags.

    Raises:
        NotXmp: it is not XMP, or not safe to read, or its tags are not lists.
    """
    wanted = [_texts_of(each, tags) for each in _PROPERTIES]
    if data is None:
        return _with(_EMPTY, wanted) if any(wanted) else None
    packet = _Packet(data)
    return data if packet.has(wanted) else _with(packet.without_ours(), wanted)


def spelt(space: str, tag: Tag) -> str:
    """Give a tag as a property has it: `dog` in dc, `animal|dog` in lr, `animal/dog` in digiKam; "" if it is empty.

    A character that separates levels is replaced in names: digiKam shows `\\` for `/`, too.
    """
    label, group = _clean(tag.label), _clean(tag.group)
    if space == "dc" or not label:
        return label
    separator, other = ("|", "/") if space == "lr" else ("/", "\\")
    parts = [group, label] if group not in ("", label) else [label]
    return separator.join(part.replace(separator, other) for part in parts)


def _texts_of(each: _Property, tags: Sequence[Tag]) -> list[str]:
    """Give the texts of different tags, in their order."""
    texts: dict[str, str] = {}
    for text in (spelt(each.space, tag) for tag in tags):
        if text:
            texts.setdefault(_key(text), text)
    return list(texts.values())


def _clean(text: str) -> str:
    return " ".join(_NO_TEXT.sub("\ufffd", text).split())


def _key(text: str) -> str:
    return normalize("NFC", " ".join(text.split()))


class _Packet:
    """XMP that was read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.root = _rdf_of(data)
        self.parts = [each for each in self.root.children if each.name == f"{_RDF} Description"]

    def has(self, wanted: Sequence[Sequence[str]]) -> bool:
        """Whether these tags are in it, and of ours no others."""
        for each, texts in zip(_PROPERTIES, wanted, strict=True):
            there, ours = self.keys(each), self.keys(each, ours=True)
            if not ours <= there or ours != {*map(_key, texts)} - (there - ours):
                return False
        return True

    def keys(self, each: _Property, *, ours: bool = False) -> set[str]:
        """Give the keys of the tags in a list."""
        found = self.list_of(each, ours=ours)
        return set() if found is None else {item.key for item in found.children if item.key}

    def list_of(self, each: _Property, *, ours: bool = False) -> _Element | None:
        """Find the list of a property."""
        whole = self.find(each, ours=ours)
        return None if whole is None else whole.children[0]

    def find(self, each: _Property, *, ours: bool = False) -> _Element | None:
        """Find a property.

        Raises:
            NotXmp: it has something else than one list.
        """
        name = each.expanded(ours=ours)
        found = next((child for part in self.parts for child in part.children if child.name == name), None)
        if any(name in part.attributes for part in self.parts) or (
            found is not None and [child.name in _LISTS for child in found.children] != [True]
        ):
            raise NotXmp(f"its {f'zsclip:{each.added}' if ours else f'{each.space}:{each.name}'} is not a list")
        return found

    def without_ours(self) -> bytes:
        """Give the bytes without our tags, without what lists them, and without what is empty then."""
        gone: set[_Element] = set()
        for each in _PROPERTIES:
            keys = self.keys(each, ours=True)
            if (ours := self.find(each, ours=True)) is not None:
                gone.add(ours)
            if (theirs := self.find(each)) is not None:
                found = theirs.children[0]
                gone.update(item for item in found.children if item.key in keys)
                for whole in (found, theirs):
                    if not gone.isdisjoint(whole.children) and self._is_hollow(whole, gone):
                        gone.add(whole)
        for part in self.parts:
            is_bare = not {*part.attributes} - {f"{_RDF} about"}
            if is_bare and not gone.isdisjoint(part.children) and self._is_hollow(part, gone):
                gone.add(part)
        return _cut(self.data, gone)

    def _is_hollow(self, element: _Element, gone: Collection[_Element]) -> bool:
        """Whether an element has nothing in it but white space and what is gone."""
        at = element.open
        for child in element.children:
            if child not in gone or self.data[at : child.start].strip(_WHITE):
                return False
            at = child.end
        return not self.data[at : element.shut].strip(_WHITE)


def _cut(data: bytes, gone: Collection[_Element]) -> bytes:
    """Remove elements with the white space before them."""
    kept, at = [], 0
    for element in sorted(gone, key=lambda each: (each.start, -each.end)):
        if element.start >= at:
            kept.append(data[at : element.start].rstrip(_WHITE))
            at = element.end
    return b"".join([*kept, data[at:]])


def _with(data: bytes, wanted: Sequence[Sequence[str]]) -> bytes:
    """Put tags into XMP that has none of ours."""
    packet = _Packet(data)
    new: list[str] = []
    record: list[str] = []
    spaces: list[str] = []
    places: list[tuple[int, int, bytes]] = []  # first byte that is replaced, the byte after the last, by what
    for each, texts in zip(_PROPERTIES, wanted, strict=True):
        there = packet.keys(each)
        fresh = [text for text in texts if _key(text) not in there]
        if not fresh:
            continue
        record.append(_listed("zsclip", each.added, "Bag", fresh))
        if (found := packet.list_of(each)) is None:
            spaces.append(each.space)
            new.append(_listed(each.space, each.name, each.kind, fresh))
        else:
            places.append(_appended(data, found, fresh))
    if record:
        places.append(_described(packet, [*spaces, "zsclip"], "".join([*new, *record])))
    for start, end, text in sorted(places, reverse=True):
        data = data[:start] + text + data[end:]
    return data


def _listed(space: str, name: str, kind: str, texts: Sequence[str]) -> str:
    items = "".join(f"\n     <rdf:li>{_escaped(text)}</rdf:li>" for text in texts)
    return f"\n   <{space}:{name}>\n    <rdf:{kind}>{items}\n    </rdf:{kind}>\n   </{space}:{name}>"


def _appended(data: bytes, found: _Element, texts: Sequence[str]) -> tuple[int, int, bytes]:
    """Put items at the end of a list, with the white space that its last item has before it."""
    raw = _raw_name(data, found)
    item = raw[: raw.find(b":") + 1] + b"li"
    white, at = b"", found.open
    if found.children:
        last = found.children[-1]
        before, at = data[: last.start], last.end
        white = before[len(before.rstrip(_WHITE)) :]
    items = b"".join(white + b"<%b>%b</%b>" % (item, _escaped(text).encode(), item) for text in texts)
    return _inserted(data, found, at, items)


def _described(packet: _Packet, spaces: Sequence[str], properties: str) -> tuple[int, int, bytes]:
    """Put properties into a description of their own at the end."""
    data, root = packet.data, packet.root
    about = packet.parts[0].attributes.get(f"{_RDF} about", "") if packet.parts else ""
    known = {space: _SPACES[space] for space in spaces}
    if not _raw_name(data, root).startswith(b"rdf:"):
        known = {"rdf": _RDF} | known
    names = "".join(f'\n    xmlns:{space}="{uri}"' for space, uri in known.items())
    quoted = _escaped(about).replace('"', "&quot;")
    text = f'\n  <rdf:Description rdf:about="{quoted}"{names}>{properties}\n  </rdf:Description>'
    end = root.open if root.shut == root.end else len(data[: root.shut].rstrip(_WHITE))
    return _inserted(data, root, end, text.encode())


def _inserted(data: bytes, element: _Element, at: int, text: bytes) -> tuple[int, int, bytes]:
    """Put a text into an element; one that is empty, `<a/>`, gets an end first."""
    if element.shut != element.end:
        return at, at, text
    tag = data[element.start : element.open - 2].rstrip(_WHITE)
    return element.start, element.end, tag + b">" + text + b"</%b>" % _raw_name(data, element)


def _raw_name(data: bytes, element: _Element) -> bytes:
    """Give the name of an element as it is written."""
    return re.split(rb"[\s/>]", data[element.start + 1 : element.open], maxsplit=1)[0]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _rdf_of(data: bytes) -> _Element:
    """Read XML, and find the RDF in it.

    Raises:
        NotXmp: there is none, or what is there is too large, declares entities, or is not XML in UTF-8.
    """
    if len(data) > LARGEST:
        raise NotXmp(f"larger than {LARGEST >> 20} MB")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]:
        raise NotXmp("not in UTF-8")
    reader = _Reader(data)
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as e:
        raise NotXmp(f"not XML: {expat.ErrorString(e.code)} in line {e.lineno}") from e
    if reader.root is None:
        raise NotXmp("not XMP: it has no rdf:RDF")
    return reader.root


class _Reader:
    """Finds the elements that concern us; others, which may be millions, leave nothing behind."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.root: _Element | None = None
        self._open: list[_Element | None] = []
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.XmlDeclHandler = _check_encoding
        self.parser.StartDoctypeDeclHandler = _refuse_declarations  # entities are declared there, and nowhere else
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) == _DEEPEST:
            raise NotXmp(f"more than {_DEEPEST} elements within each other")
        parent = self._open[-1] if self._open else None
        is_root = self.root is None and name == f"{_RDF} RDF"
        made = None
        if parent is not None:
            parent.has_elements = True
        if is_root or (parent is not None and name in _KEPT):
            start = self.parser.CurrentByteIndex
            tag = _TAG.match(self.data, start)
            assert tag is not None
            made = _Element(name, attributes, start, tag.end())
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
