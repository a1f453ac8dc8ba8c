"""Labels come from archives and from lists of URLs as they do from folders: one reader for eval, train and the rest."""

import json
from pathlib import Path

import numpy as np
import pytest
from album import Run, folder_of, picture, write_tar, write_zip
from servers import serving

from zsclip.errors import InputError
from zsclip.measure.labelled import Labelled, read_labelled
from zsclip.training.pairs import read_pairs

WORDS = ("red", "green", "blue")


def make_labelled(count: int = 4) -> dict[str, bytes]:
    """Pictures by name, in a folder for each word."""
    chance = np.random.default_rng(0)
    return {f"{word}/{i}.png": picture(chance) for word in sorted(WORDS) for i in range(count)}


LABELLED = make_labelled()


def content_of(labelled: Labelled) -> list[tuple[str, bytes]]:
    found = []
    for place, word in enumerate(labelled.words):
        with labelled.pictures.open(place) as file:
            found.append((word, file.read()))
    return found


EXPECTED = [(name.partition("/")[0], data) for name, data in LABELLED.items()]


@pytest.mark.parametrize("kind", ["tar", "zip", "tar.gz"])
@pytest.mark.parametrize("root", ["", "data/", "./a/b/"])
def test_folders_in_an_archive_are_labels(kind: str, root: str, tmp_path: Path) -> None:
    album = [(root + name, data) for name, data in LABELLED.items()]
    path = tmp_path / f"a.{kind}"
    write_zip(path, album) if kind == "zip" else write_tar(path, album, mode="w:gz" if kind == "tar.gz" else "w")

    labelled = read_labelled(str(path))

    assert content_of(labelled) == EXPECTED
    assert list(labelled.pictures.names) == [f"{path}#{name}" for name, _ in album]
    assert labelled.files == (str(path),)
    assert [word for word, _ in content_of(labelled.spread(3))] == sorted(WORDS)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("ending", ["cls", "json", "number"])
def test_what_lies_beside_an_image_is_its_label(ending: str, order: int, tmp_path: Path) -> None:
    album: list[tuple[str, bytes]] = []
    for number, (word, data) in enumerate(EXPECTED):
        about = json.dumps({"label": word, "caption": "x"}) if ending == "json" else word
        about = str(sorted(WORDS).index(word)) if ending == "number" else about
        sample = [(f"d.x/{number}.seg.png", data), (f"d.x/{number}.{ending.replace('number', 'cls')}", about.encode())]
        album += [*sample[::order], (f"d.x/{number}.txt", b"a caption")]
    if ending == "number":
        (tmp_path / "classnames.txt").write_text("\n".join(sorted(WORDS)))
    write_tar(tmp_path / "a.tar", album)
    notes: list[str] = []

    labelled = read_labelled(str(tmp_path / "a.tar"), note=notes.append)
    pairs = read_pairs([str(tmp_path / "a.tar")])

    assert content_of(labelled) == EXPECTED
    assert not notes
    assert [(each.label, each.captions) for each in pairs.names if each] == [
        (word, ("a caption",)) for word, _ in EXPECTED
    ]
    assert pairs._encoded(2).content == EXPECTED[2][1]


def test_images_without_words_splits_and_damage_are_named(tmp_path: Path) -> None:
    data = LABELLED["red/0.png"]
    path = tmp_path / "a.tar"
    notes: list[str] = []
    write_tar(path, [("1.png", data), ("1.cls", b"red"), ("2.png", data), ("3.png", data), ("3.txt", b"a car")])
    whole = path.read_bytes()
    labelled = read_labelled(str(path), note=notes.append)
    assert labelled.words == ("red",)
    assert notes == [
        f"{path}: skipped: 1 image without a label or caption, the first is '2.png'",
        f"{path}: skipped: 1 with a caption but no label",
    ]
    notes.clear()
    path.write_bytes(whole[:-12_000])
    assert read_labelled(str(path), note=notes.append).words == ("red",)
    assert any("the archive ends at byte" in note or "is cut off inside" in note for note in notes)

    write_tar(path, [(f"data/{part}/{name}", data) for part in ("train", "test") for name in LABELLED])
    with pytest.raises(InputError, match="holds the splits test and train; make an archive of each"):
        read_labelled(str(path))
    write_tar(path, [("1.png", data)])
    with pytest.raises(InputError, match=r"no labelled images; .*1 \.png \(not in a label's folder\)"):
        read_labelled(str(path))


def test_measures_are_those_of_the_folder(run: Run, tmp_path: Path, model: str) -> None:
    pytest.importorskip("aiohttp")
    folder_of(tmp_path / "album", LABELLED)
    write_tar(tmp_path / "a-0.tar", list(LABELLED.items()))
    write_zip(tmp_path / "a.zip", list(LABELLED.items()))
    with serving(tmp_path) as server:
        rows = "".join(f"{server.url}/album/{name},{name.partition('/')[0]}\n" for name in LABELLED)
        (tmp_path / "urls.csv").write_text(f"file_name,label\n{rows}")
        (tmp_path / "near.csv").write_text(
            "file_name,label\n" + "".join(f"album/{name},{name.partition('/')[0]}\n" for name in LABELLED)
        )
        command = ("eval", "-m", model, "-q", "--no-store", "--batch-size", "1")
        expected = run(*command, "album")
        mixed = [f"{server.url}/album/{name}" if i % 3 else f"a-0.tar#{name}" for i, name in enumerate(LABELLED)]
        mixed[1] = f"album/{[*LABELLED][1]}"
        rows = "".join(f"{path},{name.partition('/')[0]}\n" for path, name in zip(mixed, LABELLED, strict=True))
        (tmp_path / "mixed.csv").write_text(f"path,label\n{rows}")
        inputs = (
            "a-0.tar",
            "a.zip",
            "urls.csv",
            "mixed.csv",
            "a-{0..0}.tar",
            f"{server.url}/a-0.tar",
            f"{server.url}/near.csv",
        )
        for data in inputs:
            done = run(*command, data)
            assert (done.stdout, done.returncode) == (expected.stdout, 0), data
        offline = run(*command, f"{server.url}/a-0.tar", "--offline")
    assert b"top-1" in expected.stdout
    assert (offline.returncode, b"--offline forbids" in offline.stderr) == (2, True)
    assert run("eval", "-m", model, "gone.tar").returncode == 2
