import io
import json
import threading
from pathlib import Path

import pytest
from columns import columns
from PIL import Image

from zsclip.errors import InputError
from zsclip.measure.labelled import read_labelled
from zsclip.out.sinks import write_tsv
from zsclip.pixels.skipped import Skipped

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_class_folders_give_their_names(tmp_path):
    for name in ("dog/b.png", "dog/deep/a.png", "cat/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(0))
    (tmp_path / "empty").mkdir()
    notes: list[str] = []

    found = read_labelled(str(tmp_path), note=notes.append)

    assert found.pictures.names == tuple(str(tmp_path / name) for name in ("cat/c.png", "dog/b.png", "dog/deep/a.png"))
    assert found.words == ("cat", "dog", "dog")
    assert found.pictures.read is None
    assert [note.split("'")[-1] for note in notes] == [": skipped: no image in it"]


@pytest.mark.parametrize("form", ["csv", "tsv", "semicolons.csv", "jsonl"])
def test_lists_give_paths_relative_to_themselves(tmp_path, form):
    rows = [("a.png", "dog"), ("deep/b.png", "grey, wolf"), ("", "cat"), ("c.png", " ")]
    if form == "jsonl":
        rows.append(("\ud83d.png", "half of a pair"))
    data = tmp_path / f"list.{form}"
    if form != "jsonl":
        mark = {"csv": ",", "tsv": "\t"}.get(form, ";")
        lines = [("label", "file_name", "note"), *((f'"{label}"', name, "x") for name, label in rows)]
        data.write_text("".join(mark.join(line) + "\n" for line in lines))
    else:
        data.write_text("\n\n".join(json.dumps({"file_name": name, "label": label, "n": 1}) for name, label in rows))
    notes: list[str] = []

    found = read_labelled(str(data), note=notes.append)

    assert found.pictures.names == (str(tmp_path / "a.png"), str(tmp_path / "deep/b.png"))
    assert found.words == ("dog", "grey, wolf")
    count, line = (3, 5) if form == "jsonl" else (2, 4)
    assert notes == [f"{data}: skipped: {count} lines without a label or caption, the first is line {line}"]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("column", ["rank", "score", "cosine"])
def test_answers_are_not_taken_for_true_labels(tmp_path, form, column):
    data = tmp_path / f"list.{form}"

    def write(**cells: str) -> str:
        lines = [",".join(cells), ",".join(cells.values())] if form == "csv" else [json.dumps(cells)]
        data.write_text("\n".join(lines))
        return str(data)

    with pytest.raises(InputError, match=f"labels are answers, as the column {column} shows; put the true labels in "):
        read_labelled(write(file_name="a.png", label="dog", **{column: "1"}))
    assert read_labelled(write(file_name="a.png", label="dog", **{column: "1"}, truth="cat")).words == ("cat",)


def test_a_picture_that_is_listed_twice_counts_once_or_is_refused(tmp_path):
    data = tmp_path / "list.csv"
    data.write_text("file_name,label\na.png,7\nb.png,sea lion\n./a.png,7\nb.png,sea_lion\n")
    notes: list[str] = []

    found = read_labelled(str(data), note=notes.append)

    assert (found.pictures.names, found.words) == ((f"{tmp_path}/a.png", f"{tmp_path}/b.png"), ("7", "sea lion"))
    assert notes == [f"{data}: skipped: 2 rows with an image that is already listed; the first is '{tmp_path}/a.png'"]
    data.write_text("file_name,label\na.png,cat\nb.png,dog\na.png,dog\n")
    with pytest.raises(InputError, match=r"'.*/a\.png' is listed with two labels, 'cat' and 'dog'; remove one of "):
        read_labelled(str(data))


def test_a_name_beside_an_id_is_its_meaning_if_there_is_one_for_each(tmp_path):
    data = tmp_path / "list.csv"

    def meanings(*rows: str) -> dict[str, str]:
        data.write_text("file_name,label,name\n" + "".join(f"{at}.png,{row}\n" for at, row in enumerate(rows)))
        return dict(read_labelled(str(data)).meanings)

    assert meanings("0,goldfish", "1,taxi", "0,goldfish") == {"0": "goldfish", "1": "taxi"}
    assert meanings("n01443537,goldfish", "n02930766,taxi") == {"n01443537": "goldfish", "n02930766": "taxi"}
    assert meanings("0,Ann", "1,Bob", "0,Bob") == {}
    assert meanings("0,Ann", "1,Ann") == {}
    assert meanings("0,goldfish", "1,") == {}
    assert meanings("cat,Ann", "dog,Bob") == {}
    assert meanings("0,7", "1,8") == {}


def test_our_own_rows_in_a_tsv_file_have_backslashes_instead_of_quotes(tmp_path):
    name, label = 'a "quoted"\tname\\n.png', "grey\nwolf"
    data = tmp_path / "rows.tsv"
    with open(data, "w", newline="\n") as out:
        write_tsv([columns([Skipped(name, "missing", "it is gone", label)])], out, truth=True)

    found = read_labelled(str(data))

    assert (found.pictures.names, found.words) == ((name,), (label,))


def write_shard(path: Path, labels: "list[str | None] | pa.Array", names: list[str | None], metadata=None) -> None:
    images = [{"bytes": png(i), "path": name} for i, name in enumerate(names)]
    table = pa.table({"image": images, "label": labels})
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)


def test_shards_give_the_names_of_their_rows_and_the_bytes_behind_them(tmp_path):
    write_shard(tmp_path / "0.parquet", ["dog", "cat", None, "dog", "cat"], ["a", "b", "c", None, "a"])
    notes: list[str] = []

    found = read_labelled(str(tmp_path), note=notes.append)

    assert found.pictures.names == tuple(f"{tmp_path}/0.parquet#{row}" for row in (0, 1, 3, 4))
    assert found.words == ("dog", "cat", "dog", "cat")
    assert found.pictures.read is not None
    assert [found.pictures.read(place) for place in (3, 2, 1, 0)] == [png(i) for i in (4, 3, 1, 0)]
    assert notes == [f"{tmp_path / '0.parquet'}: skipped: 1 row without a label or caption, the first is row 2"]


def test_no_more_than_two_row_groups_are_kept_in_memory(tmp_path):
    write_shard(tmp_path / "0.parquet", ["dog", "cat"] * 3, [f"{i}" for i in range(6)])
    found = read_labelled(str(tmp_path))
    assert found.pictures.read is not None
    for place in range(6):
        found.pictures.read(place)
    (tmp_path / "0.parquet").write_bytes(b"")

    assert [found.pictures.read(place) for place in (5, 2)] == [png(5), png(2)]
    with pytest.raises(pa.ArrowInvalid):
        found.pictures.read(0)


def test_shards_may_be_read_by_many_threads(tmp_path):
    write_shard(tmp_path / "0.parquet", ["dog", "cat"] * 10, [f"{i}" for i in range(20)])
    found = read_labelled(str(tmp_path))
    wrong: list[str] = []

    def read_all(order: int) -> None:
        assert found.pictures.read is not None
        for place in range(20)[::order]:
            if found.pictures.read(place) != png(place):
                wrong.append(found.pictures.names[place])

    threads = [threading.Thread(target=read_all, args=(order,)) for order in (1, -1, 3, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_numbers_are_the_names_that_the_datasets_library_wrote_beside_them(tmp_path):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    write_shard(tmp_path / "0.parquet", pa.array([1, 0, 2]), ["a", "b", "c"], metadata)

    found = read_labelled(str(tmp_path))

    assert found.words == ("dog", "cat")


def test_data_that_are_not_labelled_are_refused(tmp_path):
    (tmp_path / "bare.jsonl").write_text('{"file_name": "a"}\n')
    (tmp_path / "list.jsonl").write_text('{"file_name": "a", "label": "b"}\n["a"]\n')
    (tmp_path / "torn.jsonl").write_text('{"file_name": "a", "label": "b"}\n\n{"file')
    (tmp_path / "twice.csv").write_text("file_name,label,label\na.png,a,b\n")
    (tmp_path / "more.csv").write_text("file_name,label\na.png,dog\nb.png,goldfish, orange\n")
    (tmp_path / "utf16.csv").write_text("file_name,label\na.png,dog\n", "utf-16")
    (tmp_path / "book.csv").write_bytes(b"PK\3\4\x14\0\x80\xff\n")
    (tmp_path / "captions.csv").write_text("path,caption\na.png,a dog\n")
    notes: list[str] = []
    for name, message in (
        ("gone", "no such file or folder: "),
        ("bare.jsonl", "no labelled images; give class folders, a list with file_name,label, an archive or Parquet"),
        ("list.jsonl", r"list\.jsonl:2: not an object; write one per line, with file_name and label"),
        ("torn.jsonl", r"torn\.jsonl:3: not valid JSON: .*; write one object per line"),
        ("twice.csv", r"twice\.csv:1: has 2 columns named label; rename all but one"),
        ("more.csv", r"more\.csv:3: has more cells than the header; put cells that contain ',' in quotes"),
        ("utf16.csv", r"utf16\.csv: UTF-16; save it as UTF-8"),
        ("book.csv", r"book\.csv: an Excel workbook, or another zip archive; save it as CSV"),
        ("captions.csv", "no labelled images"),
    ):
        with pytest.raises(InputError, match=message):
            read_labelled(str(tmp_path / name), note=notes.append)
    assert notes[-1] == f"{tmp_path / 'captions.csv'}: skipped: 1 with a caption but no label"
