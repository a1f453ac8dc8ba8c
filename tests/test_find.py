import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from open_clip.factory import get_model_config
from open_clip.pretrained import get_pretrained_cfg, list_pretrained
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from zsclip.errors import ModelError
from zsclip.models.find import ALIASES, files_to_fetch, find_model, tags
from zsclip.models.spec import TOKENIZER_FILES

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


def test_what_is_on_this_machine_is_found_without_the_hubs_library(
    hub_cache: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_model("plain")
    names = ("open_clip_config.json", "open_clip_model.safetensors")
    placed = put_on_hub(hub_cache, "ann/tiny", {name: source / name for name in names})
    code = (
        "import sys; from zsclip.models.find import find_model; print(find_model('hf-hub:ann/tiny').weights);"
        "assert not {'huggingface_hub', 'httpx'} & sys.modules.keys()"
    )

    for variables in (
        {"HF_HUB_CACHE": str(hub_cache)},
        {"HUGGINGFACE_HUB_CACHE": str(hub_cache)},
        {"HF_HOME": str(hub_cache.parent)},
    ):
        with monkeypatch.context() as patch:
            for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.stderr, done.stdout.strip()) == ("", str(placed["open_clip_model.safetensors"]))


def test_a_name_the_hub_is_known_not_to_have_is_skipped(hub_cache: Path, tiny_model: Callable[[str], Path]) -> None:
    """huggingface_hub remembers what was not there, and answers with a mark that is not a path."""
    weights = tiny_model("plain") / "open_clip_model.safetensors"
    placed = put_on_hub(hub_cache, "timm/vit_base_patch32_clip_224.openai", {"open_clip_pytorch_model.bin": weights})
    absent = hub_cache / "models--timm--vit_base_patch32_clip_224.openai" / ".no_exist" / "0123abcd"
    absent.mkdir(parents=True)
    (absent / "open_clip_model.safetensors").touch()

    assert find_model("ViT-B-32,openai").weights == str(placed["open_clip_pytorch_model.bin"])


@pytest.mark.parametrize("state", ["nothing", "configuration only", "half a download", "a dangling link"])
def test_a_model_that_is_not_here_is_reported_in_one_line(
    state: str, hub_cache: Path, tiny_model: Callable[[str], Path]
) -> None:
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

    assert "'hf-hub:ann/tiny' is not available: ann/tiny is not on this machine, and this run is offline" in str(
        error.value
    )
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("; the model 'tiny' needs no download")


def test_no_download_is_tried_when_the_hub_is_unreachable(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be tried for 25 seconds a file."""
    import huggingface_hub
    from huggingface_hub import constants

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")

    with pytest.raises(ModelError, match="cannot be reached"):
        find_model("base")


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
    ("name", "message"),
    [
        ("ViT-B-23,openai", "did you mean 'ViT-B-32'"),
        ("ViT-B-32,opnai", "use one of openai"),
        ("ViT-B-32", "an architecture needs a tag"),
        ("x" * 300, "no model"),
        ("local-dir:" + "x" * 300, "no such folder"),
        ("bse", "did you mean 'base'"),
        ("tinny", "did you mean 'tiny'"),
        ("vit-b-32,openai", "did you mean 'ViT-B-32'?"),
        ("/", "this folder has no open_clip_config.json"),
        ("local-dir:/no/such/folder", "no such folder"),
        ("hf-hub:not a name", "hf-hub:ORG/REPO"),
        ("", "no model ''"),
    ],
)
def test_a_mistyped_model_is_answered_with_what_would_work(name: str, message: str, hub_cache: Path) -> None:
    with pytest.raises(ModelError) as error:
        find_model(name)

    assert message in str(error.value)


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


def test_aliases_name_published_models() -> None:
    for name in ALIASES.values():
        architecture, tag = name.split(",")
        assert tag in tags()[architecture]


def test_a_folder_with_a_comma_is_a_folder(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_model("plain"), tmp_path / "a,b")

    assert find_model(str(tmp_path / "a,b")).weights is not None


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


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("openai/clip-vit-base-patch32", "ViT-B-32,openai"),
        ("openai/clip-vit-large-patch14-336", "ViT-L-14-336,openai"),
        ("ViT-B/32", "ViT-B-32,openai"),
        ("ViT-L/14@336px", "ViT-L-14-336,openai"),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "ViT-B-32,laion2b_s34b_b79k"),
        ("ViT-B-32__openai", "ViT-B-32,openai"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "ViT-B-32,laion2b_s34b_b79k"),
        ("clip-ViT-B-16", "ViT-B-16,openai"),
        ("clip-vit-base-patch32", "ViT-B-32,openai"),
        ("clip-vit-large-patch14-336", "ViT-L-14-336,openai"),
        ("google/siglip-base-patch16-224", "ViT-B-16-SigLIP,webli"),
        ("google/siglip2-so400m-patch16-512", "ViT-SO400M-16-SigLIP2-512,webli"),
        ("google/siglip-base-patch16-256-multilingual", "ViT-B-16-SigLIP-i18n-256,webli"),
        ("siglip2-giant-opt-patch16-384", "ViT-gopt-16-SigLIP2-384,webli"),
        ("timm/ViT-B-16-SigLIP", "hf-hub:timm/ViT-B-16-SigLIP"),
    ],
)
def test_a_name_of_another_convention_is_answered_with_ours(hub_cache: Path, name: str, ours: str) -> None:
    with pytest.raises(ModelError) as error:
        find_model(name)

    assert repr(ours) in str(error.value)
    if "," in ours:
        assert find_model(ours, with_weights=False).name == ours


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ViT-B/32@336px", "did you mean 'ViT-B-32,openai'? `zsclip models list` shows all models"),
        ("ViT-B/16@224px", "did you mean 'ViT-B-16,openai'? `zsclip models list` shows all models"),
        ("ViT-H/14", "an architecture needs a tag; `zsclip models list` shows the tags"),
        ("ViT-B-32", "an architecture needs a tag; `zsclip models list` shows the tags"),
        ("vit-base-patch32", "`zsclip models list` shows all models"),  # perhaps not a CLIP
        ("photo@2x", "`zsclip models list` shows all models"),
    ],
)
def test_a_name_that_is_nearly_ours_gets_a_hint(hub_cache: Path, name: str, hint: str) -> None:
    with pytest.raises(ModelError) as error:
        find_model(name)

    assert str(error.value) == f"no model {name!r}; {hint}"
