"""The fast form of a tower against the tower as it was trained, and the forms a checkpoint may have.

That both give what open_clip gives is in test_model.py.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file
from torch import nn

from zsclip.towers import fast_form, load_tower, new_model
from zsclip.weights import find_model


@pytest.mark.parametrize("kind", ["quick-gelu", "mobileclip", "resnet", "plain"])
def test_the_fast_form_of_an_image_tower_gives_the_same(kind: str, tiny_model: Callable[[str], Path]) -> None:
    spec = find_model(str(tiny_model(kind)))
    plain, fast = new_model(spec).visual.eval(), fast_form(new_model(spec).visual.eval())
    images = torch.randn(4, 3, *spec.preprocess.size, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        expected, result = plain(images), fast(images)

    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_no_quick_gelu_is_left_in_either_tower(tiny_model: Callable[[str], Path]) -> None:
    spec = find_model(str(tiny_model("quick-gelu")))
    for which in ("visual", "text"):
        slow = [module for module in getattr(new_model(spec), which).modules() if isinstance(module, QuickGELU)]
        left = [module for module in load_tower(spec, which).modules() if isinstance(module, QuickGELU)]

        assert (len(slow), len(left)) == (2, 0)


def test_branches_that_only_training_needs_are_summed_up(tiny_model: Callable[[str], Path]) -> None:
    spec = find_model(str(tiny_model("mobileclip")))

    def convolutions(tower: nn.Module) -> int:
        return sum(isinstance(module, nn.Conv2d) for module in tower.modules())

    assert convolutions(load_tower(spec, "visual")) < 0.8 * convolutions(new_model(spec).visual)


def test_a_norm_between_activation_and_projection_is_left_as_it_is() -> None:
    """Scaled features would not pass it unchanged."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(4, 8), QuickGELU(), nn.LayerNorm(8), nn.Linear(8, 4)).eval()
    x = torch.randn(3, 4)
    expected = mlp(x)

    assert torch.equal(fast_form(nn.Sequential(mlp))(x), expected)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_both_forms_of_torchs_own_checkpoints_are_read(
    form: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model("plain"), tmp_path / "model")
    path = folder / "open_clip_pytorch_model.bin"
    state = load_file(folder / "open_clip_model.safetensors")
    expected = load_tower(find_model(str(folder)), "visual").state_dict()
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=form == "zip")

    result = load_tower(find_model(str(folder)), "visual").state_dict()

    assert result.keys() == expected.keys()
    assert all(torch.equal(result[name], expected[name]) for name in expected)
