"""The file of corrections: what is written is read by all, whoever else writes it, and whenever a process is killed."""

import os
import random
import resource
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from zsclip.errors import InputError, OutputError
from zsclip.measure.labelled import read_labelled
from zsclip.out.corrections import Corrections
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.sources import find_sources

NAMES = ["a.jpg", 'b, "c".jpg', "new\nline\r.jpg", os.fsdecode(b"\xff\x80.jpg"), "日本.jpg", " a b /c.jpg", "x#y.jpg"]


def test_lists_are_read_from_any_folder_whatever_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "here")
    Path(NAMES[3]).touch()  # a list with names that are not UTF-8 may also have another encoding
    labels = {name: f'label "{place}", or so' for place, name in enumerate([*NAMES, "/abs/d.jpg"])}
    for folder in ("", "../link/", f"{tmp_path}/there/"):
        corrections = Corrections(f"{folder}right.csv")
        for name, label in labels.items():
            corrections.set(name, label)

    for list_ in ("right.csv", "../link/right.csv", str(tmp_path / "there" / "right.csv")):
        read = read_labelled(list_)
        names = [
            os.path.normpath(os.path.join(tmp_path / "here", os.path.realpath(name))) for name in read.pictures.names
        ]
        assert dict(zip(names, read.words, strict=True)) == {
            os.path.normpath(tmp_path / "here" / name): label for name, label in labels.items()
        }
        (source,) = find_sources(list_, print, PassedOver())  # as train reads it
        assert [about.label for _, about in source.pictures if about] == [*labels.values()]
    assert read_labelled("right.csv").pictures.names[0] == "a.jpg"
    monkeypatch.chdir(tmp_path)
    assert Corrections("there/right.csv").labels()[str(tmp_path / "here" / "a.jpg")] == labels["a.jpg"]


def test_a_file_is_continued_and_what_others_wrote_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.csv").write_bytes(b'\xef\xbb\xbffile_name,label\r\n./a.jpg,cat\r\nof/others.jpg,"x, y"\r\n\r\n')
    os.chmod("c.csv", 0o640)
    first, second = Corrections("c.csv"), Corrections("c.csv")

    first.set("a.jpg", "dog")
    second.set("b.jpg", "cow")
    first.set("c.jpg", "")
    second.set("c.jpg", "cat")
    second.set("b.jpg", None)
    first.set("never.jpg", None)

    assert Path("c.csv").read_text() == 'file_name,label\n./a.jpg,dog\nof/others.jpg,"x, y"\nc.jpg,cat\n'
    assert os.stat("c.csv").st_mode & 0o777 == 0o640
    assert (
        first.labels()
        == second.labels()
        == {
            str(tmp_path / name): label
            for name, label in (("a.jpg", "dog"), ("of/others.jpg", "x, y"), ("c.jpg", "cat"))
        }
    )
    assert sorted(os.listdir()) == ["c.csv"]


@pytest.mark.parametrize(
    "content", [b"file_name,label,score\na,b,1\n", b"PAR1\0\0", b'file_name,label\n"a', b"a.jpg\n", b"\xff\xfef\0i\0"]
)
def test_another_file_is_refused_and_stays_as_it_is(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(content)

    with pytest.raises(InputError, match=r"c\.csv: not a file of corrections, whose header is file_name,label"):
        Corrections(str(tmp_path / "c.csv"))
    assert (tmp_path / "c.csv").read_bytes() == content


def test_threads_and_processes_do_not_lose_each_others_corrections(tmp_path: Path) -> None:
    code = "import sys; from zsclip.out.corrections import Corrections; c = Corrections(sys.argv[1])\n"
    code += "for i in range(30): c.set(f'{sys.argv[2]}/{i}.jpg', 'cat')"
    file = str(tmp_path / "c.csv")
    others = [subprocess.Popen([sys.executable, "-c", code, file, name], cwd=tmp_path) for name in ("p", "q")]
    corrections = Corrections(file)
    threads = [
        threading.Thread(target=lambda name=name: [corrections.set(f"/{name}/{i}.jpg", "dog") for i in range(30)])
        for name in "tu"
    ]
    for thread in threads:
        thread.start()
    for each in (*threads,):
        each.join()
    assert [each.wait() for each in others] == [0, 0]

    assert len(read_labelled(file).words) == 120


def test_a_kill_at_any_moment_loses_no_correction(tmp_path: Path) -> None:
    """Each line that the process has printed is a correction that was made; the file is whole every time."""
    code = "import itertools; from zsclip.out.corrections import Corrections; c = Corrections('c.csv')\n"
    code += "for i in itertools.count(len(c)): c.set(f'{i}.jpg', str(i)); print(i, flush=True)"
    chance, said = random.Random(0), -1
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 40)):
                said = int(process.stdout.readline())
            process.kill()
            said = max([said, *map(int, process.stdout.read().split())])

        kept = Corrections(str(tmp_path / "c.csv")).labels()
        assert [kept[str(tmp_path / f"{i}.jpg")] for i in range(said + 1)] == [str(i) for i in range(said + 1)]
        assert len(kept) <= said + 2  # one may have been written and not yet printed


def test_a_full_disk_keeps_the_file_before(tmp_path: Path) -> None:
    corrections = Corrections(str(tmp_path / "c.csv"))
    corrections.set("/a.jpg", "cat")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
    try:
        with pytest.raises(OutputError, match=r"c\.csv: file too large; free some space"):
            corrections.set("/b.jpg", "a label that is far too long for it")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert (tmp_path / "c.csv").read_text() == "file_name,label\n/a.jpg,cat\n"
    assert corrections.labels() == {"/a.jpg": "cat"}
    corrections.set("/b.jpg", "dog")
    assert os.listdir(tmp_path) == ["c.csv"]


def test_a_link_that_somebody_has_put_there_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "c.csv.part").symlink_to(tmp_path / "mine")

    Corrections(str(tmp_path / "c.csv")).set("/a.jpg", "cat")

    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "c.csv").read_text() == "file_name,label\n/a.jpg,cat\n"
    (tmp_path / "c.csv.part").mkdir()
    with pytest.raises(OutputError, match=r"c\.csv: is a directory; check its folder, and try again"):
        Corrections(str(tmp_path / "c.csv")).set("/a.jpg", "dog")


def test_members_may_have_any_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with tarfile.open("s.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(os.fsdecode(b"\xff.jpg")))

    for name, is_read in (("s.tar", True), ("t.tar", False)):
        (tmp_path / "c.csv").write_bytes(b"file_name,label\n%s#\xff.jpg,cat\n" % name.encode())
        if is_read:
            assert list(read_labelled("c.csv").pictures.names) == [os.fsdecode(b"s.tar#\xff.jpg")]
        else:
            with pytest.raises(InputError, match="not UTF-8; save the file as UTF-8"):
                read_labelled("c.csv")


def test_a_list_in_another_encoding_is_refused_and_names_of_files_may_be_any_bytes(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.jpg")).touch()
    (tmp_path / "ä.jpg").touch()
    for row, is_read in ((b"\xff.jpg,cat", True), (b"\xe4.jpg,cat", False), (b"\xff.jpg,k\xe4se", False)):
        (tmp_path / "c.csv").write_bytes(b"file_name,label\na.jpg,dog\n" + row + b"\n")
        if is_read:
            assert read_labelled(str(tmp_path / "c.csv")).pictures.names[1] == str(tmp_path / os.fsdecode(b"\xff.jpg"))
        else:
            with pytest.raises(InputError, match="not UTF-8; save the file as UTF-8"):
                read_labelled(str(tmp_path / "c.csv"))
