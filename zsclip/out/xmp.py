"""Tags in XMP, in the forms that photo managers read. Bytes in, bytes out: no files.

What was there is not written anew: our tags are put between its bytes, so all else stays as it is. Properties of our
own list the tags that are ours, and what they list is taken out again before others are put in. Hence the same tags
give the same bytes, whatever the tags were before.
"""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple
from unicodedata import normalize

from zsclip.out.rdf import RDF, Element, NotXmp, rdf_of

_WHITE = b" \t\r\n"
_SPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "zsclip": "urn:zsclip:xmp/1.0/",  # XMP wants a slash at the end
}
# What no XML may contain: control characters and halves of surrogate pairs.
_NO_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# exiftool writes only what begins like this into pictures.
_EMPTY = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{RDF}">
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
""".encode()


class Tag(NamedTuple):
    """A label that applies, and the group that it is in, with `|` between its levels; "" if it is in none."""

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
_LISTS = {f"{RDF} {kind}" for kind in ("Bag", "Seq", "Alt")}
_KEPT = {
    f"{RDF} RDF", f"{RDF} Description", f"{RDF} li", *_LISTS,
    *(each.expanded(ours=ours) for each in _PROPERTIES for ours in (False, True)),
}  # fmt: skip


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

    A label that is its own group stands for the innermost level of that. A character that separates levels is replaced
    in names: digiKam shows `\\` for `/`, too.
    """
    levels = [level for part in tag.group.split("|") if (level := _clean(part))]
    is_group = levels and _key(tag.label) == _key(tag.group)
    label = levels[-1] if is_group else _clean(tag.label)
    if space == "dc" or not label:
        return label
    separator, other = ("|", "/") if space == "lr" else ("/", "\\")
    if levels[-1:] != [label]:
        levels.append(label)
    return separator.join(level.replace(separator, other) for level in levels)


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
        self.root = rdf_of(data, _KEPT)
        self.parts = [each for each in self.root.children if each.name == f"{RDF} Description"]

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
        return set() if found is None else {_key(item.text) for item in found.children} - {""}

    def list_of(self, each: _Property, *, ours: bool = False) -> Element | None:
        """Find the list of a property."""
        whole = self.find(each, ours=ours)
        return None if whole is None else whole.children[0]

    def find(self, each: _Property, *, ours: bool = False) -> Element | None:
        """Find a property.

        Raises:
            NotXmp: it is there twice, or has something else than one list.
        """
        name = each.expanded(ours=ours)
        found = [child for part in self.parts for child in part.children if child.name == name]
        shown = f"zsclip:{each.added}" if ours else f"{each.space}:{each.name}"
        if len(found) > 1:  # programs read only one of them
            raise NotXmp(f"it has {shown} more than once")
        if any(name in part.attributes for part in self.parts) or any(
            [child.name in _LISTS for child in whole.children] != [True] for whole in found
        ):
            raise NotXmp(f"its {shown} is not a list")
        return found[0] if found else None

    def without_ours(self) -> bytes:
        """Give the bytes without our tags, without what lists them, and without what is empty then."""
        gone: set[Element] = set()
        for each in _PROPERTIES:
            keys = self.keys(each, ours=True)
            if (ours := self.find(each, ours=True)) is not None:
                gone.add(ours)
            if (theirs := self.find(each)) is not None:
                found = theirs.children[0]
                gone.update(item for item in found.children if _key(item.text) in keys)
                for whole in (found, theirs):
                    if not gone.isdisjoint(whole.children) and self._is_hollow(whole, gone):
                        gone.add(whole)
        for part in self.parts:
            is_bare = not {*part.attributes} - {f"{RDF} about"}
            if is_bare and not gone.isdisjoint(part.children) and self._is_hollow(part, gone):
                gone.add(part)
        return _cut(self.data, gone)

    def _is_hollow(self, element: Element, gone: Collection[Element]) -> bool:
        """Whether an element has nothing in it but white space and what is gone."""
        at = element.open
        for child in element.children:
            if child not in gone or self.data[at : child.start].strip(_WHITE):
                return False
            at = child.end
        return not self.data[at : element.shut].strip(_WHITE)


def _cut(data: bytes, gone: Collection[Element]) -> bytes:
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


def _appended(data: bytes, found: Element, texts: Sequence[str]) -> tuple[int, int, bytes]:
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
    about = packet.parts[0].attributes.get(f"{RDF} about", "") if packet.parts else ""
    known = {space: _SPACES[space] for space in spaces}
    if not _raw_name(data, root).startswith(b"rdf:"):
        known = {"rdf": RDF} | known
    names = "".join(f'\n    xmlns:{space}="{uri}"' for space, uri in known.items())
    quoted = _escaped(about).replace('"', "&quot;")
    text = f'\n  <rdf:Description rdf:about="{quoted}"{names}>{properties}\n  </rdf:Description>'
    end = root.open if root.shut == root.end else len(data[: root.shut].rstrip(_WHITE))
    return _inserted(data, root, end, text.encode())


def _inserted(data: bytes, element: Element, at: int, text: bytes) -> tuple[int, int, bytes]:
    """Put a text into an element; one that is empty, `<a/>`, gets an end first."""
    if element.shut != element.end:
        return at, at, text
    tag = data[element.start : element.open - 2].rstrip(_WHITE)
    return element.start, element.end, tag + b">" + text + b"</%b>" % _raw_name(data, element)


def _raw_name(data: bytes, element: Element) -> bytes:
    """Give the name of an element as it is written."""
    return re.split(rb"[\s/>]", data[element.start + 1 : element.open], maxsplit=1)[0]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
