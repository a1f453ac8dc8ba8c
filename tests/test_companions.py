"""Which files belong to a picture."""

from pathlib import Path

import pytest

from zsclip.out.companions import Companions


@pytest.mark.parametrize(
    ("picture", "with_it"),
    [
        ("IMG_1.JPG", ["IMG_1.AAE", "IMG_1.JPG.json", "IMG_1.JPG.xmp", "IMG_1.NEF", "IMG_1.NEF.xmp", "IMG_1.mov"]),
        ("IMG_1.png", ["IMG_1.AAE", "IMG_1.NEF", "IMG_1.NEF.xmp"]),
        ("b.heic", ["b.heic.supplemental-metadata.json", "b.heic.supplemental-me.json", "b.mov", "b.xmp"]),
        ("gone.jpg", ["gone.cr2"]),
        ("img_1.jpg", []),
        ("c", ["c.xmp"]),
    ],
)
def test_companions_share_the_name_of_the_picture(picture: str, with_it: list[str], tmp_path: Path) -> None:
    others = ["IMG_1.txt", "IMG_10.xmp", "b.json", "b.heic.other.json", "b.heic.su.txt", "b.mp4", "c.mov", "c.nef"]
    names = ["IMG_1.JPG", "IMG_1.png", "b.heic", "c", "IMG_1.AAE", "IMG_1.JPG.json", "IMG_1.JPG.xmp", "IMG_1.NEF"]
    names += ["IMG_1.NEF.xmp", "IMG_1.mov", "b.heic.supplemental-metadata.json", "b.heic.supplemental-me.json", "b.mov"]
    for name in [*names, "b.xmp", "gone.cr2", "c.xmp", *others]:
        (tmp_path / name).touch()
    (tmp_path / "IMG_1.xmp").mkdir()  # a folder belongs to nothing

    found = Companions().of(str(tmp_path / picture))

    assert sorted(found) == [str(tmp_path / name) for name in sorted(with_it)]
    assert len(found) == len({*found})
