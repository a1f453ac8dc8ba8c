"""Sources in memory: no more of them than was said, and each read once while it is there."""

from collections.abc import Callable

import pytest

from zsclip.pictures.source import Source, SourceCache

pa = pytest.importorskip("pyarrow")


@pytest.fixture
def read() -> list[str]:
    """The names of the sources that were read, in order."""
    return []


@pytest.fixture
def source(read: list[str]) -> Callable[..., Source]:
    """Give a function: name and size in bytes -> a source of two pictures that notes when it is read."""

    def make(name: str, size: int = 10, *, are_files: bool = False) -> Source:
        def read_it() -> object:
            read.append(name)
            return [f"{name}/0", f"{name}/1"] if are_files else pa.array([f"{name}0".encode(), None])

        return Source(name, size, [], read_it, are_files, [name])

    return make


def test_a_picture_is_its_bytes_or_the_path_of_its_file(source: Callable[..., Source]) -> None:
    cache = SourceCache(max_bytes=100)
    shard, folder = source("a"), source("b", are_files=True)

    assert [cache.read(shard, row) for row in (0, 1, 2)] == [b"a0", b"", None]
    assert [cache.read(folder, row) for row in (0, 1, 2)] == ["b/0", "b/1", None]


@pytest.mark.parametrize(
    ("limits", "reads"),
    [
        ({"max_bytes": 30}, "abc"),
        ({"max_bytes": 29}, "abcb"),
        ({"max_bytes": 20}, "abcb"),
        ({"max_bytes": 0}, "abacab"),
        ({"max_bytes": 0, "min_sources": 2}, "abcb"),
        ({"max_bytes": 0, "min_sources": 3}, "abc"),
    ],
)
def test_the_source_that_nobody_used_for_longest_goes_first(
    source: Callable[..., Source], read: list[str], limits: dict[str, int], reads: str
) -> None:
    cache, sources = SourceCache(**limits), {name: source(name) for name in "abc"}

    for name in "aabacaab":
        assert cache.read(sources[name], 0) == f"{name}0".encode()

    assert "".join(read) == reads


def test_a_source_that_cannot_be_read_is_tried_again(source: Callable[..., Source]) -> None:
    cache, ready = SourceCache(), []

    def read_it() -> list[str]:
        if not ready:
            raise OSError("not yet")
        return ["a.png"]

    late = Source("late", 1, [], read_it, True, [])

    with pytest.raises(OSError, match="not yet"):
        cache.read(late, 0)
    ready.append(True)
    assert cache.read(late, 0) == "a.png"
