import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from open_clip.factory import get_model_config
from open_clip.pretrained import get_pretrained_cfg, list_pretrained
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from tiny_models import CONFIGS

from zsclip.errors import ModelError
from zsclip.models.find import ALIASES, files_to_fetch, find_model, tags
from zsclip.models.spec import TOKENIZER_FILES, file_digest

SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put_on_hub(cache: Path, repository: str, files: dict[str, Path]) -> dict[str, Path]:
    """Lay files out as huggingface_hub does: blobs by digest, a snapshot of links, a ref to it."""
    home = cache / f"models--{repository.replace('/', '--')}"
    blobs, snapshot = home / "blobs", home / "snapshots" / "0123abcd"
    for folder in (blobs, snapshot, home / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text("0123abcd")
    placed = {}
    for i, (name, source) in enumerate(files.items()):
        blob = blobs / f"{SHA256[:-2]}{i:02d}"
        shutil.copy(source, blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
        placed[name] = snapshot / name
    return placed


def test_a_hub_model_is_found_without_a_network(hub_cache: Path, tiny_model: Callable[[str], Path]) -> None:
    source = tiny_model("siglip")
    names = ["open_clip_config.json", "open_clip_model.safetensors"]
    placed = put_on_hub(hub_cache, "ann/tiny", {name: source / name for name in names})

    spec = find_model("hf-hub:ann/tiny")

    assert spec.weights == str(placed["open_clip_model.safetensors"])
    assert spec.digest == f"{SHA256[:-2]}01"
    assert spec.preprocess == find_model(f"local-dir:{source}").preprocess


def test_a_tag_is_found_in_its_repository_under_any_of_its_names(
    hub_cache: Path, tiny_model: Callable[[str], Path]
) -> None:
    weights = tiny_model("plain") / "open_clip_model.safetensors"
    put_on_hub(hub_cache, "timm/vit_base_patch32_clip_224.openai", {"open_clip_pytorch_model.bin": weights})

    assert find_model("ViT-B-32,openai").weights is not None


def test_a_name_the_hub_is_known_not_to_have_is_passed_over(hub_cache: Path, tiny_model: Callable[[str], Path]) -> None:
    """huggingface_hub remembers what was not there, and answers with a mark that is not a path."""
    weights = tiny_model("plain") / "open_clip_model.safetensors"
    placed = put_on_hub(hub_cache, "timm/vit_base_patch32_clip_224.openai", {"open_clip_pytorch_model.bin": weights})
    absent = hub_cache / "models--timm--vit_base_patch32_clip_224.openai" / ".no_exist" / "0123abcd"
    absent.mkdir(parents=True)
    (absent / "open_clip_model.safetensors").touch()

    assert find_model("ViT-B-32,openai").weights == str(placed["open_clip_pytorch_model.bin"])


@pytest.mark.parametrize("state", ["nothing", "configuration only", "half a download", "a dangling link"])
def test_a_model_that_is_not_here_is_one_line(state: str, hub_cache: Path, tiny_model: Callable[[str], Path]) -> None:
    config = tiny_model("plain") / "open_clip_config.json"
    weights = tiny_model("plain") / "open_clip_model.safetensors"
    if state != "nothing":
        put_on_hub(hub_cache, "ann/tiny", {"open_clip_config.json": config})
    if state == "half a download":
        (hub_cache / "models--ann--tiny" / "blobs" / f"{SHA256}.incomplete").write_bytes(b"half")
    if state == "a dangling link":
        os.remove(
            os.path.realpath(put_on_hub(hub_cache, "ann/tiny", {"open_clip_model.safetensors": weights}).popitem()[1])
        )
        put_on_hub(hub_cache, "ann/tiny2", {"open_clip_config.json": config})

    with pytest.raises(ModelError) as error:
        find_model("hf-hub:ann/tiny")

    assert "'hf-hub:ann/tiny' cannot be had: ann/tiny is not on this machine, and offline" in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("; --model tiny works now")


def test_a_hub_out_of_reach_is_told_at_once(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub alone tries for 25 seconds a file."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    started = time.monotonic()

    with pytest.raises(ModelError, match="cannot be reached"):
        find_model("base")

    assert time.monotonic() - started < 15


def test_offline_never_asks_the_hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fail)

    with pytest.raises(ModelError, match="offline"):
        find_model("base", offline=True)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ViT-B-23,openai", "did you mean 'ViT-B-32'"),
        ("ViT-B-32,opnai", "use one of openai"),
        ("ViT-B-32", "an architecture needs a tag"),
        ("x" * 300, "no model"),
        ("local-dir:" + "x" * 300, "no such folder"),
        ("bse", "did you mean 'base'"),
        ("local-dir:/no/such/folder", "no such folder"),
        ("hf-hub:not a name", "hf-hub:ORG/REPO"),
        ("", "no model ''"),
    ],
)
def test_a_mistyped_model_is_told_what_would_work(name: str, told: str, hub_cache: Path) -> None:
    with pytest.raises(ModelError) as error:
        find_model(name)

    assert told in str(error.value)


@pytest.mark.parametrize(
    "config",
    ["", "{", "[]", "{}", '{"model_cfg": {}}', '{"model_cfg": {"embed_dim": 4, "text_cfg": 1, "vision_cfg": {}}}',
     '{"model_cfg": {"embed_dim": 4, "text_cfg": {}, "vision_cfg": {"image_size": "big"}}}',
     '{"model_cfg": {"embed_dim": 4, "text_cfg": {}, "vision_cfg": {}}, "preprocess_cfg": {"mean": [1, 2]}}',
     '{"model_cfg": {"embed_dim": 4, "text_cfg": {}, "vision_cfg": {}}, "preprocess_cfg": {"std": [1, 0, 1]}}',
     '{"model_cfg": {"embed_dim": 4, "text_cfg": {}, "vision_cfg": {}}, "preprocess_cfg": {"resize_mode": "fill"}}'],
)  # fmt: skip
def test_a_broken_configuration_is_one_line(config: str, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(config)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")

    with pytest.raises(ModelError, match=r"open_clip_config\.json"):
        find_model(f"local-dir:{tmp_path}")


def test_a_folder_is_a_model_with_or_without_its_prefix(tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model("plain")

    assert find_model(str(folder)).digest == find_model(f"local-dir:{folder}").digest


def test_a_folder_without_weights_says_what_is_missing(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copy(tiny_model("plain") / "open_clip_config.json", tmp_path)

    assert find_model(str(tmp_path), with_weights=False).weights is None
    with pytest.raises(ModelError, match="no weights beside"):
        find_model(str(tmp_path))


def test_every_published_tag_is_preprocessed_as_open_clip_says(hub_cache: Path) -> None:
    for architecture, tag in list_pretrained():
        theirs = get_pretrained_cfg(architecture, tag)
        expected = merge_preprocess_dict(asdict(PreprocessCfg()), theirs)

        spec = find_model(f"{architecture},{tag}", with_weights=False)

        assert spec.preprocess.mean == tuple(expected["mean"]), (architecture, tag)
        assert spec.preprocess.std == tuple(expected["std"])
        assert spec.preprocess.resize_mode == expected["resize_mode"]
        assert spec.preprocess.interpolation == expected["interpolation"]
        own = get_model_config(architecture).get("quick_gelu")
        assert spec.architecture["quick_gelu"] == bool(own or theirs.get("quick_gelu"))


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_folders_preprocessing_is_its_configurations(kind: str, tiny_model: Callable[[str], Path]) -> None:
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


def test_aliases_name_published_models() -> None:
    for name in ALIASES.values():
        architecture, tag = name.split(",")
        assert tag in tags()[architecture]


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    os.utime(path, ns=(10**18, 10**18))
    first = file_digest(path)

    path.write_bytes(b"two")
    os.utime(path, ns=(10**18, 10**18))
    assert file_digest(path) == first  # the same size and times: believed, not read

    os.utime(path, ns=(10**18, 10**18 + 1))
    assert file_digest(path) != first


def test_a_folder_that_is_only_called_blobs_is_hashed(tmp_path: Path) -> None:
    """A name says what a file holds in a hub's cache alone."""
    for home, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / home / "blobs").mkdir(parents=True)
        (tmp_path / home / "blobs" / SHA256).write_bytes(content)

    assert file_digest(tmp_path / "a" / "blobs" / SHA256) != file_digest(tmp_path / "b" / "blobs" / SHA256)


def test_a_folder_with_a_comma_is_a_folder(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_model("plain"), tmp_path / "a,b")

    assert find_model(str(tmp_path / "a,b")).weights is not None


def test_a_digest_of_a_file_just_written_is_not_believed_later(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    now = time.time_ns()
    path.write_bytes(b"one")
    os.utime(path, ns=(now, now))
    first = file_digest(path)

    path.write_bytes(b"two")
    os.utime(path, ns=(now, now))

    assert file_digest(path) != first


def test_only_harmless_tokenizer_arguments_are_kept(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    config = json.loads((tiny_model("plain") / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {
        "trust_remote_code": True, "bpe_path": "/etc/passwd", "reduction_mask": "syntax", "clean": "lower",
    }  # fmt: skip
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))

    assert find_model(str(tmp_path), with_weights=False).tokenizer.arguments == {"clean": "lower"}


def test_the_recipe_tells_weights_and_architecture(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    original = find_model(str(tiny_model("plain")))
    folder = shutil.copytree(tiny_model("plain"), tmp_path / "copy")
    assert find_model(str(folder)).recipe == original.recipe

    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))

    assert find_model(str(folder)).recipe != original.recipe


@pytest.mark.parametrize(
    ("name", "many"), [("base", False), ("multilingual", True), ("xlm-roberta-base-ViT-B-32,laion5b_s13b_b90k", True)]
)
def test_a_name_says_whether_a_model_reads_more_than_english(hub_cache: Path, name: str, many: bool) -> None:
    assert find_model(name, with_weights=False).reads_any_script is many


def test_what_a_model_needs_from_the_hub_includes_its_tokenizer(hub_cache: Path) -> None:
    repositories = [wanted.repository for wanted in files_to_fetch("multilingual")]

    assert repositories[0] == "timm/ViT-B-16-SigLIP2-256"
    assert len(repositories) == 1 + len(TOKENIZER_FILES)
    assert files_to_fetch("base")[0].filenames == ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
