"""Which files a run covers: real folders, real pipes."""

import itertools
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import pytest

from zsclip.errors import InputError
from zsclip.pictures.files import find_images


def make(root: Path, *names: str) -> None:
    """Make empty files; a name that ends in a slash is an empty folder."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()


def below(root: Path, paths: Iterable[str]) -> list[str]:
    return [os.path.relpath(path, root) for path in paths]


def run_python(code: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run code in a Python of its own, in a folder."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_a_folder_is_walked_in_byte_order_with_folders_as_name_slash(tmp_path):
    # "a-b.jpg" < "a.jpg" < "a/x.jpg" < "a0.jpg": '-' is 2d, '.' is 2e, '/' is 2f, '0' is 30.
    make(tmp_path, "a/x.jpg", "a/Z.jpg", "a.jpg", "a-b.jpg", "a0.jpg", "é.jpg", "B.jpg", "z.jpg")

    found = below(tmp_path, find_images([str(tmp_path)]))

    assert found == ["B.jpg", "a-b.jpg", "a.jpg", "a/Z.jpg", "a/x.jpg", "a0.jpg", "z.jpg", "é.jpg"]


ENDINGS = [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"]
ENDINGS += [".jp2", ".ppm", ".pgm", ".pbm", ".pnm"]


def test_in_a_folder_the_ending_decides_in_any_case(tmp_path):
    make(tmp_path, *(f"x{ending}" for ending in ENDINGS), "Y.JPG")
    make(tmp_path, "notes.txt", "jpg", "x.jpg.part", "x.cr2", "x.mp4")

    found = below(tmp_path, find_images([str(tmp_path)]))

    assert sorted(found) == sorted([*(f"x{ending}" for ending in ENDINGS), "Y.JPG"])


def test_hidden_and_generated_entries_are_skipped(tmp_path):
    make(tmp_path, ".h.jpg", "._a.jpg", ".git/a.jpg", "@eaDir/a.jpg", "node_modules/p/a.jpg", "ok/a.jpg")

    assert below(tmp_path, find_images([str(tmp_path)])) == ["ok/a.jpg"]


def test_a_hidden_folder_that_is_named_is_walked(tmp_path):
    make(tmp_path, ".photos/a.jpg")

    assert below(tmp_path, find_images([str(tmp_path / ".photos")])) == [".photos/a.jpg"]


def test_a_named_file_is_taken_whatever_its_ending(tmp_path):
    make(tmp_path, "scan.dat")

    assert list(find_images([str(tmp_path / "scan.dat")])) == [str(tmp_path / "scan.dat")]


def test_inputs_come_in_the_order_given_and_as_often_as_given(tmp_path):
    make(tmp_path, "b/1.jpg", "a/1.jpg")
    inputs = [str(tmp_path / name) for name in ("b", "a/1.jpg", "b")]

    assert below(tmp_path, find_images(inputs)) == ["b/1.jpg", "a/1.jpg", "b/1.jpg"]


def test_a_missing_input_is_refused_before_anything_is_yielded(tmp_path):
    make(tmp_path, "a.jpg")

    with pytest.raises(InputError, match=r"^no such file or folder: '.*nope'$"):
        find_images([str(tmp_path), str(tmp_path / "nope")])
    with pytest.raises(InputError, match="no such file or folder"):
        find_images([str(tmp_path / "a.jpg" / "b.jpg")])
    with pytest.raises(InputError, match="no such file or folder: ''"):
        find_images([""])


def test_a_quoted_glob_is_expanded_in_byte_order_and_its_folders_walked(tmp_path):
    make(tmp_path, "c.jpg", "a.jpg", "b/x.jpg", "b/notes.txt", "readme.txt")

    assert below(tmp_path, find_images([str(tmp_path / "*.jpg")])) == ["a.jpg", "c.jpg"]
    assert below(tmp_path, find_images([str(tmp_path / "[ab]*")])) == ["a.jpg", "b/x.jpg"]


def test_a_file_named_like_a_glob_comes_first(tmp_path):
    make(tmp_path, "[ab].jpg", "a.jpg")

    assert below(tmp_path, find_images([str(tmp_path / "[ab].jpg")])) == ["[ab].jpg"]


def test_a_glob_without_a_match_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no file or folder matches '.*\*\.jpg'"):
        find_images([str(tmp_path / "*.jpg")])


def test_a_recursive_glob_gives_each_image_once_and_skips_what_a_walk_skips(tmp_path):
    make(tmp_path, "a.jpg", "b/x.jpg", "b/c/y.jpg", "b/@eaDir/t.jpg", "b/notes.txt")

    for pattern in ("**", "**/*.jpg", "**/", "**/**"):
        assert sorted(below(tmp_path, find_images([f"{tmp_path}/{pattern}"]))) == ["a.jpg", "b/c/y.jpg", "b/x.jpg"]


def test_what_a_glob_names_itself_is_not_skipped(tmp_path):
    make(tmp_path, "@eaDir/t.jpg")

    assert below(tmp_path, find_images([str(tmp_path / "@eaDir" / "*.jpg")])) == ["@eaDir/t.jpg"]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*_thumb.jpg", ["a.jpg", "raw/b.jpg", "raw/deep/raw/c.jpg"]),
        ("raw", ["a.jpg", "a_thumb.jpg"]),
        ("raw/", ["a.jpg", "a_thumb.jpg"]),
        ("raw/deep", ["a.jpg", "a_thumb.jpg", "raw/b.jpg"]),
        ("raw/*.jpg", ["a.jpg", "a_thumb.jpg"]),
        ("./raw/b.jpg", ["a.jpg", "a_thumb.jpg", "raw/deep/raw/c.jpg"]),
        ("**/b.jpg", ["a.jpg", "a_thumb.jpg", "raw/deep/raw/c.jpg"]),
        ("**/raw/*", ["a.jpg", "a_thumb.jpg"]),
        ("deep/raw", ["a.jpg", "a_thumb.jpg", "raw/b.jpg", "raw/deep/raw/c.jpg"]),
        ("*.JPG", ["a.jpg", "a_thumb.jpg", "raw/b.jpg", "raw/deep/raw/c.jpg"]),
    ],
)
def test_exclude_leaves_out_names_at_any_depth_and_paths_with_a_slash(tmp_path, pattern, left):
    make(tmp_path, "a.jpg", "a_thumb.jpg", "raw/b.jpg", "raw/deep/raw/c.jpg")

    for root in (str(tmp_path), f"{tmp_path}/"):
        assert below(tmp_path, find_images([root], exclude=[pattern])) == left


@pytest.mark.parametrize(("on_disk", "typed"), [("piña", "pin\u0303a"), ("pin\u0303a", "piña")])
def test_patterns_fit_names_in_the_other_unicode_form_and_names_stay_as_they_are(tmp_path, on_disk, typed):
    (tmp_path / on_disk / "b").mkdir(parents=True)
    path = tmp_path / on_disk / "b" / f"{on_disk}.png"
    for each in (path, tmp_path / "taxi.png"):
        each.touch()

    for pattern in (f"{typed}*/*/{typed}.p*", f"**/{typed}.png", f"{typed[:-1]}?/b", f"*/b/{on_disk}.pn[g]"):
        assert list(find_images([str(tmp_path / pattern)])) == [str(path)], pattern
    for pattern in (typed, f"{typed}/b", f"*{typed}*", f"{typed[:-1]}*"):
        assert list(find_images([str(tmp_path)], exclude=[pattern])) == [str(tmp_path / "taxi.png")], pattern
    assert list(find_images([str(path)], exclude=[f"{typed}.png"])) == []


def test_exclude_holds_for_named_files_and_stdin(tmp_path, pipe):
    make(tmp_path, "a.jpg", "a_thumb.jpg")
    read_fd, writer = pipe
    writer.write(b"./x/b.jpg\nb_thumb.jpg\nc.jpg\n")
    writer.close()
    inputs = [str(tmp_path / "a_thumb.jpg"), str(tmp_path / "a.jpg"), "-"]

    found = list(find_images(inputs, exclude=["*_thumb*", "x/*"], stdin_fd=read_fd))

    assert found == [str(tmp_path / "a.jpg"), "c.jpg"]


def test_the_limit_counts_after_exclusion(tmp_path):
    make(tmp_path, *(f"{i}.jpg" for i in range(6)))

    assert below(tmp_path, find_images([str(tmp_path)], exclude=["[0-2].jpg"], limit=2)) == ["3.jpg", "4.jpg"]
    assert list(find_images([str(tmp_path)], limit=0)) == []


def test_a_limit_reached_asks_stdin_for_no_more(pipe):
    read_fd, writer = pipe
    writer.write(b"a.jpg\nb.jpg\n")  # and stays open: asking for a third would wait for ever

    assert list(find_images(["-"], limit=2, stdin_fd=read_fd)) == ["a.jpg", "b.jpg"]


def test_a_linked_folder_is_followed_once_and_loops_end(tmp_path):
    make(tmp_path, "in/a/1.jpg", "out/2.jpg")
    (tmp_path / "in/a/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/b").symlink_to(tmp_path / "out")
    (tmp_path / "in/c").symlink_to(tmp_path / "out")
    (tmp_path / "in/self.jpg").symlink_to("self.jpg")

    found = below(tmp_path, find_images([str(tmp_path / "in")]))

    assert found == ["in/a/1.jpg", "in/b/2.jpg", "in/self.jpg"]  # the last is for decode.py to report


def test_a_link_to_a_folder_sorts_as_a_folder(tmp_path):
    make(tmp_path, "in/a.jpg", "out/1.jpg")
    (tmp_path / "in/a").symlink_to(tmp_path / "out")

    assert below(tmp_path, find_images([str(tmp_path / "in")])) == ["in/a.jpg", "in/a/1.jpg"]


def test_a_very_deep_folder_is_walked(tmp_path, monkeypatch):
    depth = sys.getrecursionlimit() + 10
    monkeypatch.chdir(tmp_path)
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    Path("x.jpg").touch()
    os.chdir(tmp_path)

    found = list(find_images(["d"]))
    os.remove("d/" * depth + "x.jpg")
    os.removedirs("d/" * depth)  # too deep for pytest to clear up

    assert found == ["d/" * depth + "x.jpg"]


def test_a_vanished_folder_becomes_a_row(tmp_path):
    make(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")

    found = find_images([str(tmp_path)])
    first = next(found)
    os.rename(tmp_path / "b", tmp_path.parent / f"{tmp_path.name}-gone")

    assert below(tmp_path, [first, *found]) == ["a/1.jpg", "b", "c/3.jpg"]


def test_a_folder_that_may_not_be_read_becomes_a_row(tmp_path):
    make(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")
    (tmp_path / "b").chmod(0)
    tmp_path.chmod(0o755)
    code = """
        import os
        from zsclip.pixels.decode import decode_image
        from zsclip.pixels.fit import Preprocess
        from zsclip.pictures.files import find_images
        look = lambda: decode_image("./b", Preprocess((8, 8), (0,) * 3, (1,) * 3))
        look()  # imports what another user may not be able to
        if os.geteuid() == 0:
            os.setuid(65534)  # to root nothing is unreadable
        print(*find_images(["."]))
        print(look())
    """

    run = run_python(code, tmp_path)

    (tmp_path / "b").chmod(0o755)
    paths, row = run.stdout.splitlines()
    assert paths == "./a/1.jpg ./b ./c/3.jpg"
    assert (
        row == "Skipped(file_name='./b', error='permission', message='no permission to read this folder', truth=None)"
    )


def test_a_recursive_glob_survives_loops_of_links(tmp_path, monkeypatch):
    make(tmp_path, "a/1.jpg", "a/.hidden/2.jpg")
    for name in ("x", "y"):
        (tmp_path / "a" / name).symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)

    assert list(find_images(["**/*.jpg"])) == ["a/1.jpg"]
    assert list(find_images(["a/**/1.jpg"])) == ["a/1.jpg"]
    assert list(find_images([f"{tmp_path}/**/*.jpg"])) == [f"{tmp_path}/a/1.jpg"]
    assert list(find_images(["**/.hidden/*.jpg"])) == ["a/.hidden/2.jpg"]


def test_paths_that_never_end_are_refused(tmp_path):
    (tmp_path / "names").write_bytes(b"a.jpg\0" * 300_000)

    with open(tmp_path / "names", "rb") as file, pytest.raises(InputError, match="--null"):
        list(find_images(["-"], stdin_fd=file.fileno()))


def test_heic_is_found_where_it_can_be_read(tmp_path):
    pytest.importorskip("pillow_heif")
    make(tmp_path, "a.heic", "b.HEIF")

    assert below(tmp_path, find_images([str(tmp_path)])) == ["a.heic", "b.HEIF"]


def test_heic_is_passed_over_where_it_cannot_be_read(tmp_path):
    make(tmp_path, "a.heic", "b.HEIC", "c.jpg")
    code = """
        import sys
        sys.modules["pillow_heif"] = None  # as if it were not installed
        from zsclip.pictures.files import find_images
        from zsclip.pixels.search_summary import passed_over_line
        found = find_images(["."])
        print(*found)
        print(passed_over_line(found.passed_over))
    """

    run = run_python(code, tmp_path)

    line = "passed over: 2 .heic (needs pip install 'zsclip[heic]')"
    assert run.stdout.splitlines() == ["./c.jpg", line], run.stderr


def test_names_that_are_not_utf8_survive(tmp_path):
    name = b"caf\xe9\n.jpg"
    with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
        pass

    (found,) = find_images([str(tmp_path)])

    assert os.path.basename(os.fsencode(found)) == name


def test_the_walk_looks_at_a_folder_only_when_its_turn_comes(tmp_path):
    make(tmp_path, "a/1.jpg", "b/")

    found = find_images([str(tmp_path)])
    next(found)
    make(tmp_path, "b/late.jpg")

    assert below(tmp_path, found) == ["b/late.jpg"]


def test_a_path_on_stdin_comes_out_before_the_next_is_written(pipe):
    read_fd, writer = pipe
    paths = find_images(["-"], stdin_fd=read_fd)

    writer.write(b"a.jpg\nb")
    assert next(paths) == "a.jpg"
    writer.write(b".jpg\n")
    assert next(paths) == "b.jpg"
    writer.close()
    assert list(paths) == []


@pytest.mark.parametrize("null", [False, True])
def test_paths_on_stdin_are_bytes_and_the_last_needs_no_end(pipe, null):
    read_fd, writer = pipe
    end, other = (b"\0", b"\n") if null else (b"\n", b"\r")
    names = [b"a" + other + b"b.jpg", b" c.jpg ", b"caf\xe9.jpg", b"", b"last.jpg"]
    writer.write(end.join(names))
    writer.close()

    found = [os.fsencode(path) for path in find_images(["-"], stdin_fd=read_fd, null=null)]

    assert found == [name for name in names if name]


def test_a_path_longer_than_one_read_arrives_whole(pipe):
    read_fd, writer = pipe
    long = b"x" * 30_000
    writer.write(long)
    paths = find_images(["-"], stdin_fd=read_fd)
    writer.write(long + b"\nb")
    writer.close()

    assert [len(path) for path in paths] == [60_000, 1]


def test_a_folder_on_stdin_is_skipped_with_a_note(tmp_path, pipe):
    make(tmp_path, "x.jpg/", "a.jpg")
    read_fd, writer = pipe
    writer.write(os.fsencode(f"{tmp_path}/x.jpg\n{tmp_path}/a.jpg\nnope.jpg\n"))
    writer.close()
    notes: list[str] = []

    found = list(find_images(["-"], stdin_fd=read_fd, note=notes.append))

    assert found == [f"{tmp_path}/a.jpg", "nope.jpg"]
    assert len(notes) == 1
    assert f"'{tmp_path}/x.jpg' is a folder and was skipped" in notes[0]


def test_stdin_that_does_not_block_is_waited_for(pipe):
    read_fd, writer = pipe
    os.set_blocking(read_fd, False)
    producer = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(0.3); print('a.jpg')"], stdout=writer.fileno()
    )
    writer.close()

    assert list(find_images(["-"], stdin_fd=read_fd)) == ["a.jpg"]
    assert producer.wait() == 0


def test_a_closed_stdin_is_an_input_error_at_once():
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)

    with pytest.raises(InputError, match="stdin: cannot be read: bad file descriptor"):
        find_images(["-"], stdin_fd=fd)


def test_a_folder_as_stdin_is_an_input_error(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(InputError, match="stdin: cannot be read: is a directory"):
            list(find_images(["-"], stdin_fd=fd))
    finally:
        os.close(fd)


def test_stdin_given_twice_is_refused():
    with pytest.raises(InputError, match="'-' was given twice"):
        find_images(["-", "-"])


def test_finding_images_loads_nothing_heavy(tmp_path):
    code = """
        import sys
        from zsclip.pictures.files import find_images
        print(list(find_images(["."])), {"torch", "PIL", "numpy", "pillow_heif"} & set(sys.modules))
    """

    assert run_python(code, tmp_path).stdout == "[] set()\n"


def test_remaining_paths_come_in_groups(tmp_path):
    names = [f"{i:04}.jpg" for i in range(1200)]
    make(tmp_path, *names, "z/a.jpg", "z/b.jpg")
    expected = [*names, "z/a.jpg", "z/b.jpg"]
    for taken in (0, 1, 511, 512, 513, 1201, 1202):
        paths = find_images([str(tmp_path), str(tmp_path / "0000.jpg"), str(tmp_path / "0001.jpg")])

        first = below(tmp_path, itertools.islice(paths, taken))
        rest = [below(tmp_path, some.names) for some in paths.rest()]

        assert first + [name for some in rest for name in some] == [*expected, "0000.jpg", "0001.jpg"]
        assert rest[-1] == ["0000.jpg", "0001.jpg"]
        assert all(rest)
        assert max(map(len, rest)) <= 512
    assert list(paths) == []
