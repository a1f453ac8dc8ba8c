"""Pairs: found, checked, shuffled and drawn anew each epoch, and the same again from any step."""

import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsclip.errors import InputError
from zsclip.pixels.fit import Preprocess
from zsclip.training.pairs import Batch, Pairs, read_pairs
from zsclip.training.sampling import Sampling
from zsclip.words.prompts import read_templates

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PREPROCESS = Preprocess(size=(8, 8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
AS_IT_IS = Sampling(
    read_templates(["a photo of a {}."]), PREPROCESS, batch_size=4, crop_scale=1.0, flip=False, colour=0.0
)


def encoded(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(file, "PNG")
    return file.getvalue()


def row(number: int, label: str = "dog", **more: Any) -> dict[str, Any]:
    """A row whose picture is one grey, the row's own number."""
    words = {"label": label, "synonyms": [], "kinds": [], "captions": [], "source": None}
    return {"image": {"bytes": encoded(number), "path": f"x/{number}"}, **words, **more}


def write_shard(path: Path, rows: list[dict[str, Any]], row_group_size: int = 10) -> str:
    strings = pa.list_(pa.string())
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = {"label": pa.string(), "synonyms": strings, "kinds": strings, "captions": strings, "source": pa.string()}
    schema = pa.schema([("image", image), *texts.items()])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=row_group_size)
    return str(path)


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Two shards of 40 rows in four row groups each, labels dog and cat."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in (0, 1):
        rows = [row(40 * shard + i, "dog" if i % 2 else "cat") for i in range(40)]
        write_shard(folder / f"{shard}.parquet", rows)
    return str(folder)


def numbers_in(batches: Sequence[Batch]) -> list[int]:
    return [int(pixels[0, 0, 0]) for batch in batches for pixels in batch.pictures]


def epoch_of(
    pairs: Pairs, epoch: int = 0, step: int = 0, sampling: Sampling = AS_IT_IS, threads: int = 2
) -> list[Batch]:
    return list(pairs.batches(sampling, epoch=epoch, step=step, threads=threads))


def assert_same(one: Sequence[Batch], other: Sequence[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.captions == b.captions
        np.testing.assert_array_equal(a.pictures, b.pictures)
        np.testing.assert_array_equal(a.positives, b.positives)


def test_every_pair_comes_once_an_epoch_in_another_order_each_time(shards: str) -> None:
    pairs = read_pairs([shards])
    first, second = numbers_in(epoch_of(pairs, 0)), numbers_in(epoch_of(pairs, 1))

    assert sorted(first) == sorted(second) == list(range(80))
    assert first != second
    assert first != sorted(first)


def test_a_picture_keeps_its_own_caption(shards: str) -> None:
    for batch in epoch_of(read_pairs([shards])):
        for number, caption in zip(numbers_in([batch]), batch.captions, strict=True):
            assert caption == ("a photo of a dog." if number % 2 else "a photo of a cat.")


@pytest.mark.parametrize("step", [0, 1, 7, 19, 20])
def test_the_stream_starts_again_at_any_step(shards: str, step: int) -> None:
    sampling = replace(AS_IT_IS, crop_scale=0.3, flip=True, colour=0.3)
    whole = epoch_of(read_pairs([shards]), 3, sampling=sampling)

    assert_same(epoch_of(read_pairs([shards]), 3, step, sampling, threads=1), whole[step:])


def test_the_seed_decides_the_order(shards: str) -> None:
    pairs = read_pairs([shards])

    assert numbers_in(epoch_of(pairs)) != numbers_in(epoch_of(pairs, sampling=replace(AS_IT_IS, seed=1)))


def test_a_data_set_larger_than_memory_is_shuffled_in_windows(shards: str) -> None:
    small = read_pairs([shards], memory_limit=4_000)
    order = numbers_in(epoch_of(small))

    assert sorted(order) == list(range(80))
    assert order != sorted(order)
    kept = small._cache._kept
    assert 0 < sum(source.size for source in kept) <= 4_000
    assert len(kept) < len(small._sources)
    assert_same(epoch_of(small, 0, 11), epoch_of(read_pairs([shards], memory_limit=4_000))[11:])


def test_pairs_that_fill_no_batch_wait_for_another_epoch(shards: str) -> None:
    pairs = read_pairs([shards])

    assert pairs.steps(30) == 2
    assert pairs.steps(300) == 1
    assert [len(batch.captions) for batch in epoch_of(pairs, sampling=replace(AS_IT_IS, batch_size=300))] == [80]


def test_a_slice_is_held_out_by_its_ids_alone(shards: str, tmp_path: Path) -> None:
    pairs = read_pairs([shards], holdout=5)
    held = sorted(int(p[0, 0, 0]) for pixels, _ in pairs.held_out_batches(PREPROCESS, batch_size=4) for p in pixels)
    (tmp_path / "one").mkdir()
    turned = write_shard(tmp_path / "one" / "turned.parquet", [row(i, "dog") for i in reversed(range(80))])
    again = read_pairs([turned], holdout=5)

    assert 5 < len(held) < 30
    assert sorted([*held, *numbers_in(epoch_of(pairs, sampling=replace(AS_IT_IS, batch_size=1)))]) == list(range(80))
    assert sorted(79 - again.held_out) == held


def listed(path: Path, rows: Sequence[str], header: str = "file_name,label") -> str:
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


@pytest.mark.parametrize(("count", "aside"), [(4, 0), (5, 1), (80, 16), (700, 100), (10_000, 200)])
def test_a_hundred_pictures_are_held_out_where_the_data_allow_and_a_fifth_at_most(
    tmp_path: Path, count: int, aside: int
) -> None:
    rows = [f"{i}.png,{'dog' if i % 2 else 'cat'}" for i in range(count)]
    pairs = read_pairs([listed(tmp_path / "a.csv", rows)], holdout=None)
    again = read_pairs([listed(tmp_path / "b.csv", rows[::-1])], holdout=None)

    assert len(pairs.held_out) == aside
    assert sorted([*pairs.held_out, *pairs.train]) == list(range(count))
    assert sorted(count - 1 - again.held_out) == list(pairs.held_out)


def test_more_data_keep_the_same_pictures_aside(tmp_path: Path) -> None:
    rows = [f"{i}.png,{'dog' if i % 2 else 'cat'}" for i in range(2000)]
    fewer, more = (
        set(read_pairs([listed(tmp_path / f"{count}.csv", rows[:count])], holdout=None).held_out)
        for count in (200, 250)
    )

    assert len(more - fewer) < 25
    assert len(fewer - more) < 15


def test_a_picture_of_several_captions_is_held_out_with_all_of_them(tmp_path: Path) -> None:
    rows = [f"{i // 2}.png,{'dog' if i // 2 % 2 else 'cat'},{'' if i % 2 else 'a caption'}" for i in range(200)]
    pairs = read_pairs([listed(tmp_path / "a.csv", rows, "file_name,label,caption")], holdout=None)

    assert len(pairs.held_out) == 40
    assert set(pairs.held_out // 2) & set(pairs.train // 2) == set()


def test_captions_without_a_label_are_all_learnt_from(tmp_path: Path) -> None:
    rows = [f"{i}.png,{'' if i > 50 else 'dog' if i % 2 else 'cat'},a caption" for i in range(200)]
    pairs = read_pairs([listed(tmp_path / "a.csv", rows, "file_name,label,caption")], holdout=None)
    alike = read_pairs([listed(tmp_path / "b.csv", [f"{i}.png,dog" for i in range(200)])], holdout=None)

    assert len(pairs.held_out) == 10
    assert max(pairs.held_out) <= 50
    assert len(alike.held_out) == 0


@pytest.mark.parametrize("step", [0, 3])
def test_batches_hold_embeddings_in_the_place_of_pictures(shards: str, step: int) -> None:
    pairs = read_pairs([shards], holdout=5)
    embeddings = np.stack([np.full(3, i, np.float32) for i in range(80)])
    embeddings[pairs.train[4]] = embeddings[pairs.held_out[2]] = np.nan

    expected = epoch_of(pairs, step=step)
    batches = list(pairs.batches(AS_IT_IS, epoch=0, step=step, embeddings=embeddings))
    held = list(pairs.held_out_batches(PREPROCESS, batch_size=4, embeddings=embeddings))

    numbers = [number for number in numbers_in(expected) if number != pairs.train[4]]
    assert [batch.pictures[:, 0].tolist() for batch in batches if len(batch.pictures) == 4] == [
        numbers_in([batch]) for batch in expected if pairs.train[4] not in numbers_in([batch])
    ]
    assert np.concatenate([batch.pictures for batch in batches])[:, 0].tolist() == numbers
    for batch in batches:
        names = ["dog" if number % 2 else "cat" for number in batch.pictures[:, 0]]
        assert list(batch.captions) == [f"a photo of a {name}." for name in names]
    kept = np.concatenate([rows for rows, _ in held])[:, 0].astype(int)
    assert kept.tolist() == [number for number in pairs.held_out if number != pairs.held_out[2]]
    assert np.concatenate([places for _, places in held]).tolist() == (kept % 2).tolist()


def test_the_stamp_follows_the_files_and_not_the_words(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(7))
    stamps = [read_pairs([listed(tmp_path / "a.csv", ["a.png,dog", "gone.png,cat"])]).stamp()]
    stamps.append(read_pairs([listed(tmp_path / "b.csv", ["a.png,cow", "gone.png,cat"])]).stamp())
    (tmp_path / "a.png").write_bytes(encoded(8) + b" ")
    stamps.append(read_pairs([str(tmp_path / "a.csv")]).stamp())
    (tmp_path / "gone.png").write_bytes(encoded(9))
    stamps.append(read_pairs([str(tmp_path / "a.csv")]).stamp())
    shard = write_shard(tmp_path / "a.parquet", [row(0), row(1)])
    stamps.append(read_pairs([shard]).stamp())
    write_shard(tmp_path / "a.parquet", [row(0), row(2), row(3)])
    stamps.append(read_pairs([shard]).stamp())

    assert stamps[0] == stamps[1]
    assert len(set(stamps)) == 5


def test_held_out_pictures_come_with_the_places_of_their_labels(shards: str) -> None:
    pairs = read_pairs([shards], holdout=5)

    assert pairs.labels == ("cat", "dog")
    for pixels, places in pairs.held_out_batches(PREPROCESS, batch_size=4):
        assert [int(picture[0, 0, 0]) % 2 for picture in pixels] == places.tolist()


def test_class_folders_give_their_names_as_labels(tmp_path: Path) -> None:
    for label, value in (("brown bear", 10), ("owl", 20)):
        (tmp_path / "animals" / label).mkdir(parents=True)
        (tmp_path / "animals" / label / "a.png").write_bytes(encoded(value))
    (tmp_path / "animals" / "empty").mkdir()
    notes: list[str] = []

    (batch,) = epoch_of(read_pairs([str(tmp_path / "animals")], note=notes.append))

    captions = dict(zip(numbers_in([batch]), batch.captions, strict=True))
    assert captions == {10: "a photo of a brown bear.", 20: "a photo of a owl."}
    assert notes == [f"{str(tmp_path / 'animals' / 'empty')!r}: skipped: no image in it"]


def test_a_csv_gives_captions_as_they_are_and_paths_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(7))
    (tmp_path / "pairs.csv").write_text('path,caption\na.png,"a dog, running"\na.png,  \n', encoding="utf-8-sig")
    notes: list[str] = []

    (batch,) = epoch_of(read_pairs([str(tmp_path / "pairs.csv")], note=notes.append))

    assert batch.captions == ("a dog, running",)
    assert numbers_in([batch]) == [7]
    assert notes == [f"{tmp_path / 'pairs.csv'}: skipped: 1 line without a label or caption, the first is line 3"]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_answers_are_not_trained_on_unless_a_person_has_said_what_is_true(tmp_path: Path, form: str) -> None:
    (tmp_path / "a.png").write_bytes(encoded(7))
    data = tmp_path / f"rows.{form}"

    def captions(**cells: str) -> tuple[str, ...]:
        lines = [",".join(cells), ",".join(cells.values())] if form == "csv" else [json.dumps(cells)]
        data.write_text("\n".join(lines))
        (batch,) = epoch_of(read_pairs([str(data)]))
        return batch.captions

    name = str(tmp_path / "a.png")
    ours = {"file_name": name, "label": "dog", "candidate": "dog", "score_kind": "softmax"}
    with pytest.raises(InputError, match="these labels are zsclip's own answers; put the true labels in a column"):
        captions(**ours)
    with pytest.raises(InputError, match="these labels are answers, as the column score shows"):
        captions(file_name=name, label="dog", score="0.9")
    assert captions(**ours, truth="cat") == ("a photo of a cat.",)
    assert captions(file_name=name, label="owl") == ("a photo of a owl.",)  # as corrections are
    assert captions(file_name=name, caption="a red owl", score="0.9") == ("a red owl",)  # how well the caption fits


def test_a_csv_row_without_a_path_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(7))
    (tmp_path / "pairs.csv").write_text("caption,path\na dog,a.png\na cat\n")
    notes: list[str] = []

    (batch,) = epoch_of(read_pairs([str(tmp_path / "pairs.csv")], note=notes.append))

    assert batch.captions == ("a dog",)
    assert notes == [f"{tmp_path / 'pairs.csv'}: skipped: 1 line without a label or caption, the first is line 3"]


def test_an_open_quote_in_a_csv_is_an_error_and_swallows_no_rows(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text('path,caption\na.png,"a dog\nb.png,a cat\n')

    with pytest.raises(InputError, match="not a CSV file in UTF-8: unexpected end of data"):
        read_pairs([str(tmp_path / "pairs.csv")])


def test_a_pipe_is_skipped_unopened(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(7))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "pairs.csv").write_text("path,caption\na.png,one\npipe.png,two\n")
    notes: list[str] = []

    (batch,) = epoch_of(read_pairs([str(tmp_path / "pairs.csv")], note=notes.append))

    assert batch.captions == ("one",)
    assert notes == [f"{tmp_path / 'pipe.png'}: image skipped: a folder, pipe or device"]


def test_captions_name_the_label_its_synonyms_and_kinds_in_their_shares(tmp_path: Path) -> None:
    words = {"synonyms": ["hound"], "kinds": ["pet", "animal"]}
    pairs = read_pairs([write_shard(tmp_path / "a.parquet", [row(i, **words) for i in range(200)])])
    spoken = [caption for epoch in range(5) for batch in epoch_of(pairs, epoch) for caption in batch.captions]
    share = {name: sum(name in caption for caption in spoken) / 1000 for name in ("dog", "hound", "pet", "animal")}

    # Of the broader words the nearest comes first, in sqrt(1 / 2) of all draws.
    assert share == pytest.approx({"dog": 0.6, "hound": 0.2, "pet": 0.141, "animal": 0.059}, abs=0.03)


def test_a_broader_word_goes_by_its_synonyms_too(tmp_path: Path) -> None:
    cars = [row(0, "car", synonyms=["automobile", "auto"], kinds=["vehicle"])]
    convertibles = [row(1, "convertible", synonyms=["cabriolet"], kinds=["car", "vehicle"])]
    pairs = read_pairs(
        [write_shard(tmp_path / name, rows) for name, rows in (("a.parquet", convertibles), ("b.parquet", cars))]
    )

    assert [one and one.kinds for one in pairs.names] == [("car", "automobile", "auto", "vehicle"), ("vehicle",)]
    assert [one and one.synonyms for one in pairs.names] == [("cabriolet",), ("automobile", "auto")]
    assert pairs.labels == ("car", "convertible")


def test_captions_are_drawn_afresh_each_epoch_from_all_templates(tmp_path: Path) -> None:
    sampling = replace(AS_IT_IS, prompts=read_templates(["a {}", "{c} at night", "the {label}"]), batch_size=50)
    pairs = read_pairs([write_shard(tmp_path / "a.parquet", [row(i) for i in range(50)])])
    (first,), (second,) = epoch_of(pairs, 0, sampling=sampling), epoch_of(pairs, 1, sampling=sampling)

    assert set(first.captions) == {"a dog", "dog at night", "the dog"}
    assert first.captions != second.captions


def test_free_captions_are_used_as_they_are(tmp_path: Path) -> None:
    free = ["Two boys {play}.", "a field"]
    pairs = read_pairs([write_shard(tmp_path / "a.parquet", [row(i, "", captions=free) for i in range(20)])])

    assert {caption for batch in epoch_of(pairs) for caption in batch.captions} == set(free)
    assert pairs.labels == ()


def positives_of(tmp_path: Path, rows: list[dict[str, Any]], **change: Any) -> np.ndarray:
    """The positives of one batch, in the order of the rows."""
    return one_batch(tmp_path, rows, **change)[0].astype(int)


def one_batch(tmp_path: Path, rows: list[dict[str, Any]], **change: Any) -> tuple[np.ndarray, np.ndarray]:
    """The positives and the weights of one batch, in the order of the rows."""
    pairs = read_pairs([write_shard(tmp_path / "a.parquet", rows)])
    (batch,) = epoch_of(pairs, sampling=replace(AS_IT_IS, batch_size=len(rows), **change))
    order = np.argsort(numbers_in([batch]))
    return batch.positives[np.ix_(order, order)], batch.pair_weights[np.ix_(order, order)]


def test_pairs_with_the_same_label_are_positives_of_each_other(tmp_path: Path) -> None:
    positives = positives_of(tmp_path, [row(0, "dog"), row(1, "cat"), row(2, "dog")])

    assert positives.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_pairs_with_the_same_caption_are_positives_of_each_other(tmp_path: Path) -> None:
    free = [["a field"], ["a road"], ["a field"]]
    positives = positives_of(tmp_path, [row(i, "", captions=some) for i, some in enumerate(free)])

    assert positives.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_a_broader_word_is_not_a_negative_for_pictures_it_describes(tmp_path: Path) -> None:
    rows = [row(0, "dog", kinds=["animal"]), row(1, "cat"), row(2, "animal")]

    positives, weights = one_batch(tmp_path, rows, broader=0.0, broader_are_true=True)

    assert positives.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    # The dog is an animal; that an animal is a dog is not said.
    assert weights.tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert (one_batch(tmp_path, rows, broader=0.0)[1] == 1).all()


def test_a_picture_keeps_its_own_broader_word(tmp_path: Path) -> None:
    rows = [row(i, label, kinds=["animal"]) for i, label in enumerate(("dog", "cat", "dog"))]

    positives, weights = one_batch(tmp_path, rows, broader=1.0, broader_are_true=True)

    assert positives.all()  # the same caption
    assert (weights == 1).all()


def test_a_picture_is_compared_with_a_caption_of_every_label(shards: str) -> None:
    write_shard(Path(shards) / "2.parquet", [row(90 + i, "cow", synonyms=["ox"]) for i in range(4)])
    pairs = read_pairs([shards])
    plain = replace(AS_IT_IS, batch_size=3, broader=1.0, synonyms=0.5)
    whole, seen = epoch_of(pairs, sampling=replace(plain, against_all_labels=True)), set()

    for batch, without in zip(whole, epoch_of(pairs, sampling=plain), strict=True):
        own, others = batch.captions[:3], batch.captions[3:]
        assert own == without.captions
        np.testing.assert_array_equal(batch.pictures, without.pictures)
        np.testing.assert_array_equal(batch.positives[:, :3], without.positives)
        assert others[0] == "a photo of a cat."
        assert others[2] == "a photo of a dog."
        seen.add(others[1])
        for caption, positives in zip(own, batch.positives[:, 3:].tolist(), strict=True):
            assert positives == ["cat" in caption, "cow" in caption or "ox" in caption, "dog" in caption]
    assert seen == {"a photo of a cow.", "a photo of a ox."}


def test_captions_whose_word_a_source_does_not_have_count_less_there(tmp_path: Path) -> None:
    labels = {"dog": "photos", "cat": "photos", "horse": "drawings", "cow": None}
    rows = [row(i, label, source=source) for i, (label, source) in enumerate(labels.items())]
    rows.append(row(4, "dog", source="drawings"))

    assert (one_batch(tmp_path, rows)[1] == 1).all()
    assert one_batch(tmp_path, rows, other_data_weight=0.25)[1].tolist() == [
        [1, 1, 0.25, 0.25, 1],
        [1, 1, 0.25, 0.25, 1],  # the last has another source, but there are dogs in this one too
        [1, 0.25, 1, 0.25, 1],
        [0.25, 0.25, 0.25, 1, 0.25],
        [1, 0.25, 1, 0.25, 1],
    ]


def test_a_broader_word_counts_fully_wherever_it_occurs(tmp_path: Path) -> None:
    animals = [("dog", "photos"), ("horse", "drawings")]
    rows = [row(i, label, kinds=["animal"], source=source) for i, (label, source) in enumerate(animals)]
    rows.append(row(2, "car", source="photos"))

    weights = one_batch(tmp_path, rows, broader=1.0, other_data_weight=0.25)[1]

    assert weights.tolist() == [[1, 1, 1], [1, 1, 0.25], [1, 1, 1]]


def pairs_of(shard: Path, pixels: np.ndarray, count: int = 40) -> Pairs:
    """Pairs that all have the same picture, (H, W) or (H, W, 3)."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels, np.uint8)).convert("RGB").save(file, "PNG")
    rows = [row(i, image={"bytes": file.getvalue(), "path": str(i)}) for i in range(count)]
    return read_pairs([write_shard(shard, rows)])


def test_pictures_are_cropped_mirrored_and_tinted(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(0, 240, 10, dtype=np.uint8)[None, :, None], (24, 24, 3))
    pairs = pairs_of(tmp_path / "a.parquet", ramp)

    def lines(**change: Any) -> np.ndarray:
        batches = epoch_of(pairs, sampling=replace(AS_IT_IS, **change))
        return np.concatenate([batch.pictures[:, :, 4] for batch in batches]).astype(int)  # (40, 3, 8)

    assert len(np.unique(lines(), axis=0)) == 1
    mirrored = lines(flip=True)
    assert 8 < (mirrored[:, 0, 0] > mirrored[:, 0, -1]).sum() < 32
    widths = np.ptp(lines(crop_scale=0.3)[:, 0], axis=1)
    assert widths.min() < 0.75 * widths.max()
    tinted = lines(colour=0.3)
    assert len(np.unique(tinted[:, 0, 4])) > 10
    assert (np.ptp(tinted[:, :, 4], axis=1) > 0).sum() > 30
    assert np.abs(tinted.mean(axis=0) - lines().mean(axis=0)).max() < 25


def test_some_pictures_are_scaled_down_first_so_that_sharpness_carries_no_hint(tmp_path: Path) -> None:
    board = np.indices((24, 24)).sum(axis=0) // 3 % 2 * 255  # squares of 3 pixels, 1 when shrunk to 8
    pairs = pairs_of(tmp_path / "a.parquet", board)

    def contrast(**change: Any) -> np.ndarray:
        batches = epoch_of(pairs, sampling=replace(AS_IT_IS, **change))
        return np.concatenate([batch.pictures.astype(float).std(axis=(1, 2, 3)) for batch in batches])

    sharp, mixed, blurred = contrast()[0], contrast(blur=0.5), contrast(blur=1.0)
    assert 8 < (mixed < 0.9 * sharp).sum() < 32
    assert blurred.max() < 0.9 * sharp
    assert len(np.unique(blurred.round(3))) > 2  # not all by the same factor


def test_a_share_of_the_pictures_is_made_crisper(tmp_path: Path) -> None:
    edge = np.where(np.arange(8)[:, None, None] < 4, 100, 140)
    pairs = pairs_of(tmp_path / "a.parquet", np.broadcast_to(edge, (8, 8, 3)))

    def step(share: float) -> np.ndarray:  # between the two pixels at the edge, (40,)
        batches = epoch_of(pairs, sampling=replace(AS_IT_IS, sharpen=share))
        pixels = np.concatenate([batch.pictures.astype(int) for batch in batches])
        return np.abs(np.diff(pixels[:, 0], axis=1))[:, 3].mean(axis=1)

    whole, mixed, changed = step(0.0), step(0.5), step(1.0)
    assert 8 < (mixed > 1.1 * whole).sum() < 32
    assert 20 < (changed > 1.3 * whole).sum() < 40
    assert changed.max() > 2 * whole.max()


def test_colours_are_made_softer_or_crisper_and_brightness_stays(tmp_path: Path) -> None:
    red_and_green = np.where(np.arange(8)[:, None] < 4, (150, 60, 60), (60, 107, 60))  # of the same brightness
    pairs = pairs_of(tmp_path / "a.parquet", np.broadcast_to(red_and_green, (8, 8, 3)))

    def pixels(share: float) -> np.ndarray:  # (40, 3, 8, 8)
        batches = epoch_of(pairs, sampling=replace(AS_IT_IS, chroma=share))
        return np.concatenate([batch.pictures.astype(int) for batch in batches])

    def step(changed: np.ndarray) -> np.ndarray:  # of red against green, between the two pixels at the edge
        return np.abs(np.diff(changed[:, 0] - changed[:, 1], axis=2))[:, :, 3].mean(axis=1)

    whole, mixed, changed = pixels(0.0), pixels(0.5), pixels(1.0)
    assert 8 < (np.abs(mixed - whole).max(axis=(1, 2, 3)) > 3).sum() < 32
    assert 10 < (step(changed) < 0.8 * step(whole)).sum() < 30
    assert 8 < (step(changed) > 1.2 * step(whole)).sum() < 30
    light = [0.299, 0.587, 0.114]
    assert np.abs(np.einsum("bchw,c->bhw", changed - whole, light)).mean() < 3


def test_colours_are_made_paler_or_stronger_and_brightness_stays(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path / "a.parquet", np.broadcast_to((150, 80, 60), (8, 8, 3)))

    def spread(share: float) -> np.ndarray:  # of red and blue, (40,)
        batches = epoch_of(pairs, sampling=replace(AS_IT_IS, saturation=share))
        pixels = np.concatenate([batch.pictures.astype(int) for batch in batches])
        light = np.einsum("bchw,c->bhw", pixels, [0.299, 0.587, 0.114])
        assert np.abs(light - light.mean()).max() < 4
        return np.abs(pixels[:, 0] - pixels[:, 2]).mean(axis=(1, 2))

    whole, mixed, changed = spread(0.0), spread(0.5), spread(1.0)
    assert 8 < (np.abs(mixed - whole) > 3).sum() < 32
    assert (changed < 0.3 * whole).any()  # almost grey
    assert 5 < (changed > 1.05 * whole).sum() < 25  # in a third of the range
    assert changed.max() < 1.6 * whole.max()


def test_a_whole_picture_is_not_cropped_whatever_its_shape(tmp_path: Path) -> None:
    pixels = np.zeros((8, 32, 3), np.uint8)
    pixels[:, :4], pixels[:, -4:] = 100, 200
    (batch,) = epoch_of(pairs_of(tmp_path / "a.parquet", pixels, count=1))

    assert (batch.pictures[0, 0, :, 0].mean(), batch.pictures[0, 0, :, -1].mean()) == pytest.approx((100, 200), abs=30)


def test_an_unreadable_picture_is_noted_in_one_line_and_all_others_stay(tmp_path: Path) -> None:
    rows = [row(i) for i in range(20)]
    rows[3]["image"]["bytes"] = encoded(3)[:50]
    rows[8]["image"]["bytes"] = None
    notes: list[str] = []
    shard = write_shard(tmp_path / "a.parquet", rows)
    pairs = read_pairs([shard], note=notes.append)
    both = [epoch_of(pairs, epoch) for epoch in (0, 0)]

    assert sorted(numbers_in(both[0])) == [i for i in range(20) if i not in (3, 8)]
    assert_same(*both)
    assert len(notes) == 2
    assert sorted(note.split(": ")[0] for note in notes) == [f"{shard}, row group 0, row {i}" for i in (3, 8)]


def test_a_file_that_is_gone_is_noted_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(7))
    (tmp_path / "pairs.csv").write_text("path,caption\na.png,one\ngone.png,two\n")
    notes: list[str] = []
    (batch,) = epoch_of(read_pairs([str(tmp_path / "pairs.csv")], note=notes.append))

    assert batch.captions == ("one",)
    assert len(notes) == 1
    assert notes[0].startswith(f"{tmp_path / 'gone.png'}: image skipped: ")


def test_rows_without_words_are_noted_in_one_line_for_each_shard(tmp_path: Path) -> None:
    rows = [row(i) for i in range(8)]
    rows[2]["label"] = rows[5]["label"] = None
    rows[5]["captions"] = ["", "  "]
    notes: list[str] = []
    shard = write_shard(tmp_path / "a.parquet", rows)
    pairs = read_pairs([shard], note=notes.append)

    assert sorted(numbers_in(epoch_of(pairs, sampling=replace(AS_IT_IS, batch_size=6)))) == [0, 1, 3, 4, 6, 7]
    assert notes == [f"{shard}: skipped: 2 rows without a label or caption, the first is row 2"]


def test_a_truncated_shard_is_noted_in_one_line_and_the_others_are_read(shards: str) -> None:
    broken = Path(shards) / "0.parquet"
    broken.write_bytes(broken.read_bytes()[:-100])
    notes: list[str] = []

    assert sorted(numbers_in(epoch_of(read_pairs([shards], note=notes.append)))) == list(range(40, 80))
    assert len(notes) == 1
    assert notes[0].startswith(f"{broken}: skipped: not a complete Parquet file: ")


def test_a_damaged_row_group_is_noted_in_one_line_and_the_others_are_read(tmp_path: Path) -> None:
    rows = [row(i) for i in range(40)]
    shard = write_shard(tmp_path / "a.parquet", rows)
    column = pq.ParquetFile(shard).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(Path(shard).read_bytes())
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    Path(shard).write_bytes(data)
    notes: list[str] = []
    pairs = read_pairs([shard], note=notes.append)

    assert sorted(numbers_in(epoch_of(pairs))) == [*range(10), *range(20, 40)]
    assert len(notes) == 1
    assert notes[0].startswith(f"{shard}, row group 1: cannot be read; its pairs are skipped: ")


def test_a_shard_with_other_columns_is_noted_in_one_line_that_names_them(shards: str) -> None:
    other = Path(shards) / "other.parquet"
    pq.write_table(pa.table({"url": ["http://x"], "label": ["dog"]}), other)
    notes: list[str] = []
    pairs = read_pairs([shards], note=notes.append)

    assert len(pairs.train) == 80
    assert notes == [f"{other}: skipped: needs a column with images, and label or captions; has ['label', 'url']"]


def test_other_data_have_another_digest(tmp_path: Path) -> None:
    one = read_pairs([write_shard(tmp_path / "a.parquet", [row(0), row(1)])]).digest
    moved = read_pairs([write_shard(tmp_path / "b.parquet", [row(0), row(1)])]).digest
    other = read_pairs([write_shard(tmp_path / "c.parquet", [row(0), row(1, "cat")])]).digest

    assert one == moved != other


def test_inputs_that_are_not_data_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.csv").write_text("file,text\na,b\n")
    (tmp_path / "latin.csv").write_bytes(b"path,caption\na,\xe9\n")
    write_shard(tmp_path / "wordless.parquet", [row(0, "")])
    for name, message in (
        ("gone", "no such file or folder: "),
        ("a.txt", r"give a folder with a folder for each label, or \.parquet, \.tar, \.zip, \.csv, \.tsv or \.jsonl"),
        ("empty", "found neither class folders nor .parquet files"),
        ("a.csv", r"a\.csv:1: needs the header path,caption or file_name,label; found file,text"),
        ("latin.csv", "latin.csv: not UTF-8"),
        ("wordless.parquet", "no usable pair; give images with labels or captions"),
    ):
        with pytest.raises(InputError, match=message):
            read_pairs([str(tmp_path / name)])


def test_a_holdout_of_everything_is_refused(shards: str) -> None:
    with pytest.raises(InputError, match="--holdout 1: holds out all 80 pairs; use a larger number, or 0"):
        read_pairs([shards], holdout=1)


def test_data_without_one_readable_picture_end_the_run(tmp_path: Path) -> None:
    rows = [row(i, image={"bytes": b"nonsense", "path": str(i)}) for i in range(3)]
    pairs = read_pairs([write_shard(tmp_path / "a.parquet", rows)])

    with pytest.raises(InputError, match="none of the images can be read"):
        epoch_of(pairs)


def test_without_pyarrow_the_extra_is_named(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)  # as Python marks what cannot be imported

    with pytest.raises(InputError, match=r"0\.parquet: reading Parquet needs pyarrow: pip install 'zsclip\[parquet\]'"):
        read_pairs([shards])
