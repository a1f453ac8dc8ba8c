"""Tags in XMP: what others wrote stays to the byte, and what is ours can be taken out again."""

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from unicodedata import normalize

import pytest
from sidecars import BARE, COMPACT, DC, DIGIKAM_S, FOREIGN, OF_PROGRAMS, RDF, lists_in, rest_of, some_tags

from zsclip.out.rdf import LARGEST, NotXmp
from zsclip.out.xmp import Tag, tagged

DOG, SNOW = Tag("dog", "animal"), Tag("snow & <ice>")


def made(data: bytes | None, *tags: Tag) -> bytes:
    found = tagged(data, tags)
    assert found is not None
    return found


def test_a_new_sidecar_has_the_three_forms_of_every_tag() -> None:
    assert lists_in(made(None, DOG, SNOW)) == {
        "dc": ["dog", "snow & <ice>"],
        "lr": ["animal|dog", "snow & <ice>"],
        "digiKam": ["animal/dog", "snow & <ice>"],
    }


def test_without_tags_there_is_no_new_sidecar() -> None:
    assert tagged(None, []) is None
    assert tagged(None, [Tag(" ", "animal")]) is None


def test_separators_control_characters_and_repeats_in_labels_are_harmless() -> None:
    found = lists_in(made(None, Tag("a/b|c", "x/y"), Tag("dog", "dog"), Tag("é"), Tag("e\u0301"), Tag("a\0 \n\ud800b")))

    assert found == {
        "dc": ["a/b|c", "dog", "é", "a\ufffd \ufffdb"],
        "lr": ["x/y|a/b/c", "dog", "é", "a\ufffd \ufffdb"],
        "digiKam": ["x\\y/a\\b|c", "dog", "é", "a\ufffd \ufffdb"],
    }


def test_a_group_may_have_several_levels() -> None:
    tags = [
        Tag("dog", "animal|mammal"),
        Tag("cat", " animal || cat|"),
        Tag("animal|mammal", "animal|mammal"),
        Tag("x", "|"),
    ]

    assert lists_in(made(None, *tags)) == {
        "dc": ["dog", "cat", "mammal", "x"],
        "lr": ["animal|mammal|dog", "animal|cat", "animal|mammal", "x"],
        "digiKam": ["animal/mammal/dog", "animal/cat", "animal/mammal", "x"],
    }


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("seed", range(20))
def test_whatever_was_written_before_the_last_tags_leaves_no_trace(name: str, seed: int) -> None:
    chance, data = random.Random(seed), FOREIGN[name]
    first, last = ([Tag(*each) for each in some_tags(chance)] for _ in range(2))

    once = made(data, *last)

    assert made(made(data, *first), *last) == once
    assert tagged(once, last) is once
    assert made(once) == data
    assert is_in_order(data, once)
    assert rest_of(once) == rest_of(data)
    assert_merged(data, once, last)


def is_in_order(data: bytes, longer: bytes) -> bool:
    """Whether all bytes of one are in the other, in their order."""
    rest = iter(longer)
    return all(byte in rest for byte in data)


def assert_merged(data: bytes, once: bytes, tags: Sequence[Tag]) -> None:
    """Every list has what was there, in its order, and then what is new."""
    before, after, fresh = lists_in(data), lists_in(once), lists_in(made(None, *tags, Tag("at least one")))
    for space in ("dc", "lr", "digiKam"):
        there = [normalize("NFC", each) for each in before[space]]
        wanted = [each for each in fresh[space] if each != "at least one" and normalize("NFC", each) not in there]
        assert after[space] == before[space] + wanted


def test_a_hundred_runs_leave_identical_bytes() -> None:
    data = first = made(FOREIGN["lightroom"], DOG, SNOW)
    for number in range(100):
        data = made(data, *[DOG, SNOW][:: 1 if number % 2 else -1])

    assert data == first


def test_a_tag_that_the_user_had_before_is_not_ours() -> None:
    """Where only one of the lists has it, the others get it, and lose it again."""
    data = FOREIGN["exiftool"]

    once = made(data, DOG)

    assert lists_in(once) == {"dc": ["café & bar", "dog"], "lr": ["animal|dog"], "digiKam": ["animal/dog"]}
    assert lists_in(made(once, SNOW))["dc"] == ["café & bar", "dog", "snow & <ice>"]
    assert made(once) == data


def test_a_tag_of_ours_that_the_user_deleted_is_written_again_and_one_added_stays() -> None:
    changed = made(None, DOG, SNOW).replace(b"<rdf:li>dog</rdf:li>", b"<rdf:li>cat</rdf:li>", 1)

    assert lists_in(made(changed, DOG, SNOW))["dc"] == ["cat", "dog", "snow & <ice>"]
    assert lists_in(made(changed))["dc"] == ["cat"]


@pytest.mark.parametrize(
    "empty", ["<rdf:Bag/>", "<rdf:Bag></rdf:Bag>", "<rdf:Bag>\n</rdf:Bag>", "<rdf:Bag  a='/>'  />"]
)
def test_an_empty_list_is_filled(empty: str) -> None:
    data = BARE.replace(
        "</rdf:RDF>",
        f'<rdf:Description xmlns:dc="{DC}" rdf:about="x"><dc:subject>{empty}</dc:subject></rdf:Description></rdf:RDF>',
    )

    once = made(data.encode(), DOG)

    assert lists_in(once)["dc"] == ["dog"]
    assert tagged(once, [DOG]) is once
    assert once.count(b'rdf:about="x"') == 2
    assert lists_in(made(once)) == {"dc": [], "lr": [], "digiKam": []}


def test_rdf_that_is_empty_is_filled() -> None:
    for text in (f'<rdf:RDF xmlns:rdf="{RDF}"/>', f'<RDF xmlns="{RDF}" />'):
        assert lists_in(made(text.encode(), DOG))["lr"] == ["animal|dog"]


TWO = "<dc:subject><rdf:Bag><rdf:li>a</rdf:li></rdf:Bag></dc:subject>" * 2
BOMB = f"""<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">{
    "".join(f'<!ENTITY {name} "{f"&{of};" * 10}">' for of, name in zip("abcdefgh", "bcdefghi", strict=True))
}]>"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("\ufeff\n", "empty"),
        ("x", "not XML: syntax error in line 1"),
        (DIGIKAM_S[:-1], "not XML: unclosed token in line 4"),
        (BARE.replace("<rdf:RDF", "&i;<rdf:RDF"), "not XML: undefined entity in line 1"),
        (BOMB + BARE.replace("<rdf:RDF", "&i;<rdf:RDF"), "has a document type, which could declare entities"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">' + BARE, "has a document type, which could declare entities"),
        ("<a/>", "not XMP: it has no rdf:RDF"),
        ("<a>" * 201, "elements are nested more than 200 deep"),
        (BARE + " " * LARGEST, "larger than 8 MB"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?>' + BARE, "in ISO-8859-1, not in UTF-8"),
        (COMPACT.replace("/>", f' xmlns:dc="{DC}" dc:subject="x"/>'), "its dc:subject is not a list"),
        (COMPACT.replace("/>", f' xmlns:dc="{DC}"><dc:subject>x</dc:subject></rdf:Description>'), "its dc:subject is"),
        (COMPACT.replace("/>", f" xmlns:dc='{DC}'>{TWO}</rdf:Description>"), "it has dc:subject more than once"),
        (COMPACT.replace("/>", ' xmlns:z="urn:zsclip:xmp/1.0/" z:addedTagsList=""/>'), "its zsclip:added"),
    ],
)  # fmt: skip
def test_what_is_not_safe_to_change_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(NotXmp) as refused:
        tagged(text.encode(), [DOG])
    assert str(refused.value).startswith(why)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(NotXmp, match="not in UTF-8"):
        tagged(BARE.encode(encoding), [DOG])


def test_millions_of_foreign_elements_take_no_memory() -> None:
    import tracemalloc

    data = BARE.replace("</rdf:RDF>", "<a/>" * 100_000 + "</rdf:RDF>").encode()
    tracemalloc.start()
    once = made(data, DOG)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert made(once) == data
    assert peak < 10 * len(data)


def program(name: str, package: str) -> str:
    """Find a program of others; without it, skip."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt install {package}")
    return found


def read_by_exiftool(path: Path) -> list[list[str]]:
    """Read tags by their names without groups, as Immich does."""
    command = [program("exiftool", "libimage-exiftool-perl"), "-s3", "-sep", "##"]
    said = subprocess.check_output([*command, "-Subject", "-HierarchicalSubject", "-TagsList", path], text=True)
    return [line.split("##") for line in said.splitlines()]


def read_by_exiv2(path: Path) -> list[list[str]]:
    keys = ("Xmp.dc.subject", "Xmp.lr.hierarchicalSubject", "Xmp.digiKam.TagsList")
    command = [program("exiv2", "exiv2"), "-q", "-Pv"]
    said = [subprocess.run([*command, "-K", key, path], capture_output=True, text=True).stdout for key in keys]
    return [each.strip().split(", ") if each.strip() else [] for each in said]


@pytest.mark.parametrize("read", [read_by_exiftool, read_by_exiv2])
@pytest.mark.parametrize("name", [None, *OF_PROGRAMS])
def test_other_programs_read_the_tags(
    read: Callable[[Path], list[list[str]]], name: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg.xmp"
    path.write_bytes(made(FOREIGN.get(name or ""), DOG, Tag("日本", "x y|z/a")))

    assert read(path) == [[normalize("NFC", each) for each in texts] for texts in lists_in(path.read_bytes()).values()]


@pytest.mark.parametrize("name", [None, *OF_PROGRAMS])
@pytest.mark.parametrize("by", ["exiftool", "exiv2"])
def test_what_other_programs_wrote_anew_is_still_known_as_ours(name: str | None, by: str, tmp_path: Path) -> None:
    path, data = tmp_path / "a.jpg.xmp", FOREIGN.get(name or "")
    path.write_bytes(made(data, DOG, SNOW))
    if by == "exiftool":
        command = [program("exiftool", "libimage-exiftool-perl"), "-q", "-overwrite_original", "-XMP-xmp:Rating=4"]
    else:
        command = [program("exiv2", "exiv2"), "-Mset Xmp.xmp.Rating 4"]
    subprocess.run([*command, os.fspath(path)], check=True)

    written = path.read_bytes()

    assert b"Rating" in written
    assert tagged(written, [SNOW, DOG]) is written
    assert lists_in(made(written)) == lists_in(data or BARE.encode())
    assert lists_in(made(written, Tag("cat"))) == lists_in(made(data, Tag("cat")))
