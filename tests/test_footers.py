"""What finished parts say of themselves is read once, and again only where a part has been replaced."""

import os
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_parts import command, data, parts_of, plain, rows_of

from zsclip.engine import footers
from zsclip.engine.footers import Footer, Footers
from zsclip.errors import InputError

__all__ = ["data", "plain"]  # fixtures

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each footer is read."""
    found, read = Counter[str](), footers.read_texts
    monkeypatch.setattr(footers, "read_texts", lambda path: (found.update([os.path.basename(path)]), read(path))[1])
    return found


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--overwrite",)])
def test_each_part_is_read_once(more: tuple[str, ...], run: Run, data: Path, plain: str, reads: Counter[str]) -> None:
    run(*command(plain))
    before = rows_of(data / "out")
    (data / "out" / "files-000001.parquet").unlink()
    cut = data / "out" / "files-000002.parquet"
    cut.write_bytes(cut.read_bytes()[:-1])
    there = parts_of(data / "out")
    reads.clear()

    done = run(*command(plain, *more))

    assert done.returncode in (0, 1), done.stderr
    assert {name: reads[name] for name in there} == dict.fromkeys(there, 1)
    if not more:
        assert rows_of(data / "out") == before
        reads.clear()
        run(*command(plain))
        assert reads == Counter(parts_of(data / "out"))


def write(path: Path, shard: str, images: int) -> None:
    about = {b"zsclip": b'{"version": 1, "settings": {"k": 1}, "shard": {"path": "%s"}}' % shard.encode()}
    table = pa.table({"n": [1]}).replace_schema_metadata(
        {**about, b"zsclip.end": b'{"images": %d, "failed": {}}' % images}
    )
    pq.write_table(table, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def test_a_part_that_was_replaced_or_is_new_is_read_again(tmp_path: Path) -> None:
    part, found = tmp_path / "a.parquet", Footers()
    assert found.of(str(part)) is None
    write(part, "a", 3)
    first = found.of(str(part))
    write(part, "b", 4)
    later = found.of(str(part))
    part.unlink()

    assert (first, later) == (Footer(1, 0, {"path": "a"}, 3, {}), Footer(1, 0, {"path": "b"}, 4, {}))
    assert found.settings == [{"k": 1}]
    assert found.of(str(part)) is None


def test_what_one_process_knows_another_need_not_read(tmp_path: Path, reads: Counter[str]) -> None:
    paths = [str(tmp_path / f"{number:04}.parquet") for number in range(3000)]
    for path in paths[::100]:
        write(Path(path), path, 2)
    mine, counts = Footers(), list[int]()
    mine.read_ahead(paths, counts.append)
    others = Footers(mine.settings)
    reads.clear()

    for path in paths:
        others.learn(path, mine.known(path))

    assert [others.of(path) for path in paths] == [mine.of(path) for path in paths]
    assert sum(others.find(path) is not None for path in paths) == 30
    assert counts == [1024, 2048, 3000]
    assert not reads
    write(Path(paths[0]), "new", 5)
    assert (others.find(paths[0]) or Footer(0, 0, {}, 0, {})).images == 5


@pytest.mark.parametrize("content", [b"", b"mine", b"PAR1 mine"])
def test_a_file_of_others_is_refused_and_a_damaged_part_is_not(content: bytes, tmp_path: Path) -> None:
    part = tmp_path / "a.parquet"
    part.write_bytes(content)
    found = Footers()
    found.read_ahead([str(part)])

    if content.startswith(b"PAR1"):
        assert found.of(str(part)) is None
        return
    with pytest.raises(InputError, match="is not a part of such a run"):
        found.of(str(part))
