"""The fast form of a tower against the tower as it was trained, and the forms a checkpoint may have.

That both give what open_clip gives is in test_model.py.
"""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from safetensors.torch import load_file
from torch import nn

from zsclip.models.find import find_model
from zsclip.models.towers import fast_form, load_tower, new_model


@pytest.mark.parametrize("kind", ["quick-gelu", "mobileclip", "resnet", "plain"])
def test_the_fast_form_of_an_image_tower_gives_the_same(kind: str, tiny_model: Callable[[str], Path]) -> None:
    spec = find_model(str(tiny_model(kind)))
    plain, fast = new_model(spec).visual.eval(), fast_form(new_model(spec).visual.eval())
    images = torch.randn(4, 3, *spec.preprocess.size, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        expected, result = plain(images), fast(images)

    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("options", "ends_in_one_token"),
    [
        ({"pool_type": "tok"}, True),
        ({"pool_type": "tok", "final_ln_after_pool": True, "no_ln_pre": True, "ls_init_value": 0.3}, True),
        ({"pool_type": "avg"}, False),
        ({"pool_type": "none"}, False),
        ({"pool_type": "tok", "output_tokens": True}, False),
        ({"pool_type": "tok", "attentional_pool": True, "attn_pooler_queries": 3}, False),
        ({"pool_type": "tok", "qk_norm": True}, False),
    ],
)
def test_of_the_last_block_only_what_is_used_is_computed(options: dict[str, Any], ends_in_one_token: bool) -> None:
    torch.manual_seed(0)
    plain = VisionTransformer(32, 8, width=48, layers=2, heads=3, mlp_ratio=2.0, output_dim=16, **options).eval()
    fast = fast_form(deepcopy(plain))
    images, sizes = torch.randn(5, 3, 32, 32), []
    fast.transformer.resblocks[-1].register_forward_hook(lambda module, given, result: sizes.append(result.shape[1]))

    with torch.no_grad():
        expected, result = plain(images), fast(images)

    assert sizes == [1 if ends_in_one_token else 17]
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


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
