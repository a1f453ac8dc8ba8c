"""What a configuration says, and the digests that name weights."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from open_clip.tokenizer import get_clean_fn
from test_find import SHA256
from tiny_models import CONFIGS

from zsclip.errors import ModelError
from zsclip.kept.cache import keep
from zsclip.models.find import find_model
from zsclip.models.spec import Tokenizer, file_digest
from zsclip.pictures.identity import GRAIN_NS, Look

LARGE = b"one" * 200_000  # bytes whose digest is worth remembering


@pytest.mark.parametrize(
    "config",
    ["", "{", "[]", "{}", '{"model_cfg": {}}', '{"model_cfg": {"embed_dim": 4, "text_cfg": 1, "vision_cfg": {}}}',
     '{"model_cfg": {"embed_dim": 4, "text_cfg": {}, "vision_cfg": {"image_size": "big"}}}',
     '{"model_cfg": {"embed_dim": 4, "text_cfg": {}, "vision_cfg": {}}, "preprocess_cfg": {"mean": [1, 2]}}',
     '{"model_cfg": {"embed_dim": 4, "text_cfg": {}, "vision_cfg": {}}, "preprocess_cfg": {"std": [1, 0, 1]}}',
     '{"model_cfg": {"embed_dim": 4, "text_cfg": {}, "vision_cfg": {}}, "preprocess_cfg": {"resize_mode": "fill"}}'],
)  # fmt: skip
def test_a_broken_configuration_is_reported_in_one_line(config: str, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(config)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")

    with pytest.raises(ModelError, match=r"open_clip_config\.json"):
        find_model(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_folder_uses_the_preprocessing_in_its_configuration(kind: str, tiny_model: Callable[[str], Path]) -> None:
    import open_clip

    expected = open_clip.create_model(f"local-dir:{tiny_model(kind)}").visual.preprocess_cfg
    size = expected["size"] if isinstance(expected["size"], tuple | list) else (expected["size"],) * 2

    preprocess = find_model(f"local-dir:{tiny_model(kind)}").preprocess

    assert asdict(preprocess) == {
        "size": tuple(size),
        "mean": tuple(expected["mean"]),
        "std": tuple(expected["std"]),
        "interpolation": expected["interpolation"],
        "resize_mode": expected["resize_mode"],
        "fill_color": expected["fill_color"],
    }


def test_a_setting_that_is_null_is_open_clips_default(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    config = json.loads((tiny_model("plain") / "open_clip_config.json").read_text())
    silent = find_model(str(tiny_model("plain"))).preprocess
    config["preprocess_cfg"] = {"mean": None, "std": None, "interpolation": None, "resize_mode": None}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))

    assert find_model(str(tmp_path), with_weights=False).preprocess == silent


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(LARGE)
    later = time.time_ns() + 2 * GRAIN_NS
    first = file_digest(path, now_ns=later)

    keep("digests", [str(path), *Look.of(os.stat(path))], "not read again")
    assert file_digest(path, now_ns=later) == "not read again"

    os.utime(path, ns=(10**18, 10**18 + 1))
    assert file_digest(path, now_ns=later) == first


@pytest.mark.parametrize("in_place", [True, False])
def test_other_content_of_the_same_size_and_time_has_another_digest(in_place: bool, tmp_path: Path) -> None:
    """As `cp --preserve` and `touch -r` leave it."""
    path, new = tmp_path / "weights", tmp_path / "new"
    path.write_bytes(LARGE)
    os.utime(path, ns=(10**18, 10**18))
    before, later = os.stat(path), time.time_ns() + 2 * GRAIN_NS
    first = file_digest(path, now_ns=later)

    while os.stat(path).st_ctime_ns == before.st_ctime_ns:  # the clock of the file system is coarse
        target = path if in_place else new
        target.write_bytes(LARGE[::-1])
        os.utime(target, ns=(10**18, 10**18))
        if not in_place:
            os.replace(new, path)

    assert (os.stat(path).st_size, os.stat(path).st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert file_digest(path, now_ns=later) != first


def test_a_small_file_is_read_again_as_that_is_faster_than_looking_it_up(tmp_path: Path) -> None:
    path = tmp_path / "graph"
    path.write_bytes(b"one")
    later = time.time_ns() + 2 * GRAIN_NS
    keep("digests", [str(path), *Look.of(os.stat(path))], "not read again")

    assert file_digest(path, now_ns=later) == hashlib.sha256(b"one").hexdigest()


def test_a_folder_that_is_only_called_blobs_is_hashed(tmp_path: Path) -> None:
    """A name says what a file holds in a hub's cache alone."""
    for home, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / home / "blobs").mkdir(parents=True)
        (tmp_path / home / "blobs" / SHA256).write_bytes(content)

    assert file_digest(tmp_path / "a" / "blobs" / SHA256) != file_digest(tmp_path / "b" / "blobs" / SHA256)


def test_a_digest_of_a_file_just_written_is_not_believed_later(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    now = time.time_ns()
    path.write_bytes(LARGE)
    os.utime(path, ns=(now, now))
    first = file_digest(path)

    path.write_bytes(LARGE[::-1])
    os.utime(path, ns=(now, now))

    assert file_digest(path) != first


def test_only_harmless_tokenizer_arguments_are_kept(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    config = json.loads((tiny_model("plain") / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {
        "trust_remote_code": True, "bpe_path": "/etc/passwd", "reduction_mask": "syntax", "clean": "lower",
    }  # fmt: skip
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))

    assert find_model(str(tmp_path), with_weights=False).tokenizer.arguments == {"clean": "lower"}


def test_the_recipe_depends_on_weights_and_architecture(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    original = find_model(str(tiny_model("plain")))
    folder = shutil.copytree(tiny_model("plain"), tmp_path / "copy")
    assert find_model(str(folder)).recipe == original.recipe

    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))

    assert find_model(str(folder)).recipe != original.recipe


@pytest.mark.parametrize(
    "text", ["  Gold_Fish\u2019s  &amp;amp; C# ", "\uff27\uff2f\u00a0\ufb01sh!", "Pin\u0303a\tİ", "piÃ±a", "STRASSE ß"]
)
@pytest.mark.parametrize("clean", ["lower", "canonicalize", "whitespace"])
def test_text_is_cleaned_as_open_clip_cleans_it(clean: str, text: str) -> None:
    tokenizer = Tokenizer("a/b", None, 77, None, {"clean": clean}, None)

    assert tokenizer.cleaned(text) == get_clean_fn(clean)(text)


@pytest.mark.parametrize(
    ("name", "cleaned"), [(None, "polish c#"), ("google/mt5-base", "Polish C#"), ("bert-base-uncased", "polish c#")]
)
def test_capitals_count_where_the_tokenizer_keeps_them(name: str | None, cleaned: str) -> None:
    assert Tokenizer(name, None, 77, None, {}, None).cleaned("Polish  C#") == cleaned
