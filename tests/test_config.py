import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from zsclip.errors import ModelError
from zsclip.models.config import read_json
from zsclip.models.find import find_model
from zsclip.models.torch_encoder import ClipModel


@pytest.fixture
def folder(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    """A model to be spoilt: its configuration is a copy, its weights are a link."""
    source = tiny_model("plain")
    copy = tmp_path / "model"
    copy.mkdir()
    (copy / "open_clip_config.json").write_bytes((source / "open_clip_config.json").read_bytes())
    (copy / "open_clip_model.safetensors").symlink_to(source / "open_clip_model.safetensors")
    return copy


def change(folder: Path, **settings: Any) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    for name, value in settings.items():
        place, _, key = name.partition("__")
        (config["model_cfg"][f"{place}_cfg"] if key else config["model_cfg"])[key or name] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"vision__image_size": 20_000}, "'image_size': 20000; zsclip takes at most 4,096"),
        ({"vision__image_size": [224, 10**9]}, "'image_size': 1000000000;"),
        ({"vision__image_size": float("inf")}, "'image_size': inf;"),
        ({"vision__layers": 10**9}, "'layers': 1000000000;"),
        ({"text__layers": [1, 10**400]}, "'layers': 10000000000000000000;"),
        ({"text__context_length": 10**9}, "'context_length': 1000000000;"),
        ({"text__width": float("nan")}, "'width': nan;"),
        ({"text__context_length": "1000000000"}, "'context_length': '1000000000'; it must be a number without quotes"),
        ({"embed_dim": 1e300}, "'embed_dim': 1e\\+300;"),
        ({"vision__mlp_ratio": 1e300}, "'mlp_ratio': 1e\\+300;"),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_anything_is_built(
    settings: dict[str, Any], named: str, folder: Path
) -> None:
    change(folder, **settings)

    with pytest.raises(ModelError, match=named):
        find_model(str(folder))


def test_all_configurations_of_open_clip_are_within_the_limits() -> None:
    import open_clip

    paths = list((Path(open_clip.__file__).parent / "model_configs").glob("*.json"))

    assert len(paths) > 100
    for path in paths:
        assert read_json(path.stem, path)["embed_dim"] > 0


@pytest.mark.parametrize("name", ["open_clip_config.json", "open_clip_model.safetensors"])
@pytest.mark.parametrize("kind", ["fifo", "endless", "folder"])
def test_only_regular_files_are_opened(name: str, kind: str, folder: Path) -> None:
    path = folder / name
    path.unlink()
    {"fifo": os.mkfifo, "folder": os.mkdir, "endless": lambda path: path.symlink_to("/dev/zero")}[kind](path)

    with pytest.raises(ModelError, match="must be a regular file" if "config" in name else "no weights beside"):
        find_model(str(folder))


def test_a_configuration_of_megabytes_is_not_read(folder: Path) -> None:
    with open(folder / "open_clip_config.json", "a") as file:
        file.write(" " * 2_000_000)

    with pytest.raises(ModelError, match=r"has 2,000,\d+ bytes; a configuration has at most 1 MB"):
        find_model(str(folder))


def spoil(folder: Path, name: str, value: torch.Tensor) -> None:
    path = folder / "open_clip_model.safetensors"
    state = load_file(path)
    assert name in state
    path.unlink()
    save_file(state | {name: value}, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 200.0, -50.0, [1.0, 2.0]])
def test_a_logit_scale_that_is_not_a_usable_number_is_a_model_error(value: Any, folder: Path) -> None:
    spoil(folder, "logit_scale", torch.tensor(value))

    with pytest.raises(ModelError, match=r"logit_scale in .* is not a usable number; the weights are damaged"):
        _ = ClipModel(find_model(str(folder))).logit_scale


@pytest.mark.parametrize(("value", "what"), [(torch.nan, "NaN or infinity"), (0.0, "only zeros")])
def test_a_text_tower_that_produces_nothing_usable_is_a_model_error(value: float, what: str, folder: Path) -> None:
    spoil(folder, "text_projection", torch.full((64, 32), value))
    model = ClipModel(find_model(str(folder)))

    with pytest.raises(ModelError, match=f"the text tower produced {what}; the weights are damaged"):
        model.encode_text(["a cat"])


def test_an_image_tower_that_produces_only_zeros_is_a_model_error(folder: Path) -> None:
    spoil(folder, "visual.proj", torch.zeros(64, 32))
    model = ClipModel(find_model(str(folder)))

    with pytest.raises(ModelError, match="the image tower produced only zeros; the weights are damaged"):
        model.encode_images([np.zeros((3, 32, 32), np.uint8)])
