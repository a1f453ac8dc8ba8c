"""Sidecars as other programs write them, and another way to read them: with ElementTree."""

import random
from xml.etree import ElementTree

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
LR = "http://ns.adobe.com/lightroom/1.0/"
DIGIKAM = "http://www.digikam.org/ns/1.0/"
LISTS = {"dc": f"{{{DC}}}subject", "lr": f"{{{LR}}}hierarchicalSubject", "digiKam": f"{{{DIGIKAM}}}TagsList"}

EXIFTOOL = f"""<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>
<x:xmpmeta xmlns:x='adobe:ns:meta/' x:xmptk='Image::ExifTool 12.57'>
<rdf:RDF xmlns:rdf='{RDF}'>

 <rdf:Description rdf:about=''
  xmlns:dc='{DC}'>
  <dc:subject>
   <rdf:Bag>
    <rdf:li>café &amp; bar</rdf:li>
    <rdf:li>dog</rdf:li><!-- mine -->
   </rdf:Bag>
  </dc:subject>
  <dc:title><rdf:Alt><rdf:li xml:lang='x-default'>"A > B"</rdf:li></rdf:Alt></dc:title>
 </rdf:Description>

 <rdf:Description rdf:about=''
  xmlns:xmp='http://ns.adobe.com/xap/1.0/'>
  <xmp:Rating>3</xmp:Rating>
 </rdf:Description>
</rdf:RDF>
</x:xmpmeta>{" " * 100}
<?xpacket end='w'?>"""

LIGHTROOM = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about="uuid:1&quot;2"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" xmlns:lr="{LR}"
   xmp:Rating="5"
   crs:Exposure2012="&gt;0.50 > '0'">
   <lr:hierarchicalSubject>
    <rdf:Bag>
     <rdf:li>places|Rome</rdf:li>
    </rdf:Bag>
   </lr:hierarchicalSubject>
   <crs:ToneCurve><rdf:Seq><rdf:li>0, 0</rdf:li></rdf:Seq></crs:ToneCurve>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""

DIGIKAM_S = f"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about=""
xmlns:digiKam="{DIGIKAM}" xmlns:dc="{DC}"><digiKam:TagsList><rdf:Seq><rdf:li>Tiere/Hund</rdf:li></rdf:Seq>
</digiKam:TagsList><dc:subject><rdf:Bag><rdf:li>Hund</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"""

# The usual prefixes mean something else, and RDF has none.
PREFIXES = f"""<?xml version='1.0'?>
<?keep this?><!-- and <rdf:RDF> this -->
<RDF xmlns="{RDF}" xmlns:a="{RDF}" xmlns:rdf="urn:other" xmlns:dc="urn:another">
 <Description a:about="" xmlns:d="{DC}" dc:subject="not ours"><d:subject><Bag><li>m&#x69;ne</li></Bag></d:subject>
 <dc:subject>not <rdf:li/> ours</dc:subject><!-- <d:subject/> --></Description>
</RDF>
<!-- end -->"""

COMPACT = f"""<rdf:RDF xmlns:rdf="{RDF}">
\t<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Label='Rot "x"'/>
</rdf:RDF>"""

BARE = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"></rdf:RDF></x:xmpmeta>'

OF_PROGRAMS = ("exiftool", "lightroom", "digikam", "windows")  # what programs write; they do not read all of the rest
FOREIGN = {
    "exiftool": EXIFTOOL.encode(), "lightroom": LIGHTROOM.encode(), "digikam": DIGIKAM_S.encode(),
    "prefixes": PREFIXES.encode(), "compact": COMPACT.encode(), "bare": BARE.encode(),
    "byte order mark": b"\xef\xbb\xbf" + EXIFTOOL.encode(), "windows": LIGHTROOM.replace("\n", "\r\n").encode(),
}  # fmt: skip


def lists_in(data: bytes) -> dict[str, list[str]]:
    """Give the tags in each list."""
    root = ElementTree.fromstring(data)
    return {
        space: [item.text or "" for item in root.findall(f".//{name}/*/{{{RDF}}}li")] for space, name in LISTS.items()
    }


def rest_of(data: bytes) -> str:
    """Give all but the lists of tags and what is ours, comments and instructions too, in XML's canonical form."""
    builder = ElementTree.TreeBuilder(insert_comments=True, insert_pis=True)
    root = ElementTree.fromstring(data, ElementTree.XMLParser(target=builder))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in LISTS.values() or (isinstance(child.tag, str) and "urn:zsclip:" in child.tag):
                parent.remove(child)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{{{RDF}}}Description" and not len(child) and len(child.attrib) < 2:
                parent.remove(child)
    return ElementTree.canonicalize(ElementTree.tostring(root, "unicode"), strip_text=True, with_comments=True)


def some_tags(chance: random.Random) -> list[tuple[str, str]]:
    """Give a few labels, each with its group or ""."""
    known = [
        ("dog", "animal"),
        ("Hund", "Tiere"),
        ("Rome", "places"),
        ("mine", ""),
        ("a/b|c", "x|y/z"),
        ("cafe\u0301 & bar", ""),
    ]
    return chance.sample(
        [*known, ("<&>\"'", ""), ("\ud800\0 \n ", ""), ("", "animal"), ("日本", "日本")], chance.randrange(6)
    )
