"""The fast form of a tower against the tower as it was trained, and the forms a checkpoint may have.

That both give what open_clip gives is in test_torch_encoder.py.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU, TextTransformer, VisionTransformer
from safetensors.torch import load_file
from torch import Tensor, nn

from zsclip.models.find import find_model
from zsclip.models.fold import fold_norms
from zsclip.models.text import first_output
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
def test_only_the_used_part_of_the_last_block_is_computed(options: dict[str, Any], ends_in_one_token: bool) -> None:
    torch.manual_seed(0)
    plain = VisionTransformer(32, 8, width=48, layers=2, heads=3, mlp_ratio=2.0, output_dim=16, **options).eval()
    fast = fast_form(deepcopy(plain))
    images, sizes = torch.randn(5, 3, 32, 32), []
    fast.transformer.resblocks[-1].register_forward_hook(lambda module, given, result: sizes.append(result.shape[1]))

    with torch.no_grad():
        expected, result = plain(images), fast(images)

    assert sizes == [1 if ends_in_one_token else 17]
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "ends_in_one_token"),
    [
        ({"pool_type": "last"}, True),
        ({"pool_type": "first", "ls_init_value": 0.3}, True),
        ({"pool_type": "argmax"}, False),
        ({"pool_type": "none"}, False),
        ({"pool_type": "last", "output_tokens": True}, False),
        ({"pool_type": "last", "no_causal_mask": False}, False),
        ({"pool_type": "last", "use_pad_mask": True}, False),
        ({"pool_type": "last", "embed_cls": True}, False),
        ({"pool_type": "last", "qk_norm": True}, False),
    ],
)
def test_only_the_pooled_token_of_a_text_tower_is_computed(options: dict[str, Any], ends_in_one_token: bool) -> None:
    torch.manual_seed(0)
    options = {"no_causal_mask": True} | options
    plain = TextTransformer(12, vocab_size=100, width=32, heads=2, layers=2, output_dim=16, **options).eval()
    fast = fast_form(deepcopy(plain))
    ids, sizes = torch.randint(1, 100, (5, 12)), []
    fast.transformer.resblocks[-1].register_forward_hook(lambda module, given, result: sizes.append(result.shape[1]))

    with torch.no_grad():
        expected, result = (first_output(tower(ids)) for tower in (plain, fast))

    assert (sizes == [1]) == ends_in_one_token
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


def randomised(net: nn.Module) -> nn.Module:
    """Give each batch norm numbers of its own; a fresh one changes nothing, and would hide a fold that is wrong."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.3)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return net.eval()


def norms_of(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def preactivated() -> nn.Module:
    """timm's ResNet V2, small: a norm with an activation stands before each convolution, and reads a sum or another."""
    from timm.layers import BatchNormAct2d, create_conv2d
    from timm.models.resnetv2 import ResNetV2

    net = ResNetV2([2, 1], [32, 64], 16, stem_chs=8, norm_layer=BatchNormAct2d, conv_layer=create_conv2d)
    net.image_size = 32
    return net


@pytest.mark.parametrize(
    ("build", "left"),
    [
        pytest.param(lambda: ModifiedResNet([2, 1, 1, 1], 16, 4, 32, 16), 0, id="resnet"),
        pytest.param(lambda: TimmModel("resnet10t", 16, 32), 0, id="resnet10t"),
        pytest.param(lambda: TimmModel("tf_efficientnet_lite0", 16, 64), 0, id="efficientnet"),
        pytest.param(preactivated, 4, id="preactivated"),  # the first of each block, and the last, read a sum
        pytest.param(lambda: TimmModel("fastvit_t8", 16, 64), 0, id="mobileclip"),
        pytest.param(lambda: TimmModel("repvgg_a0", 16, 32), 0, id="repvgg"),
        pytest.param(lambda: TimmModel("mobilevit_xxs", 16, 64), 0, id="with attention"),
    ],
)
def test_batch_norms_become_part_of_the_convolutions_before_them(build: Callable[[], nn.Module], left: int) -> None:
    torch.manual_seed(0)
    plain = randomised(build())
    fast = fast_form(deepcopy(plain))
    size = plain.image_size if isinstance(plain.image_size, tuple) else (plain.image_size,) * 2
    images = torch.randn(2, 3, *size)

    with torch.no_grad():
        expected, result = plain(images), fast(images)

    assert norms_of(plain) > norms_of(fast) == left
    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()


class ConvAndNorm(nn.Module):
    """A convolution and a norm, used as the rule says."""

    def __init__(self, rule: Callable[[Any, Tensor], Any], affine: bool = True) -> None:
        super().__init__()
        self.conv, self.norm, self.rule = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3, affine=affine), rule
        self.unlisted = [self.norm]

    def forward(self, x: Tensor) -> Any:
        return self.rule(self, x)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(lambda net, x: net.norm(net.conv(x)), id="plain"),
        pytest.param(lambda net, x: net.unlisted[0](net.conv(x)).relu_() + x, id="not by its name"),
    ],
)
def test_a_norm_that_alone_reads_a_convolution_is_folded(rule: Callable[[Any, Tensor], Any]) -> None:
    torch.manual_seed(0)
    net, x = randomised(ConvAndNorm(rule)), torch.randn(2, 3, 8, 8)
    expected, written = net(x), net.conv.weight.clone()
    weight = net.conv.weight

    fold_norms(net, (8, 8))

    assert norms_of(net) == 0
    assert torch.equal(weight, written)  # it may be a mapped file
    torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(lambda net, x: (y := net.conv(x)) + net.norm(y), id="read twice"),
        pytest.param(lambda net, x: (net.norm(y := net.conv(x)), y), id="given back too"),
        pytest.param(lambda net, x: net.norm((y := net.conv(x)).detach()) + y[:, :1], id="read as a view"),
        pytest.param(lambda net, x: net.norm(net.conv(x).relu_()), id="changed in between"),
        pytest.param(lambda net, x: net.norm(F.max_pool2d(net.conv(x), 2)), id="pooled in between"),
        pytest.param(lambda net, x: net.norm(net.conv(net.conv(x))), id="convolution called twice"),
        pytest.param(lambda net, x: net.norm(net.norm(net.conv(x))), id="norm called twice"),
        pytest.param(lambda net, x: net.norm(net.conv(x)) + F.conv2d(x, net.conv.weight, padding=1), id="weight used"),
        pytest.param(lambda net, x: net.norm(net.conv(x)) * net.norm.weight.sum(), id="scale used"),
        pytest.param(lambda net, x: net.conv(net.norm(x)), id="the other way round"),
        pytest.param(lambda net, x: net.norm(y := net.conv(x)) + (y if x.sum() > 0 else 0), id="the picture decides"),
        pytest.param(lambda net, x: F.relu(net.norm(net.conv(x) + 0)), id="another tensor"),
    ],
)
def test_a_norm_in_doubt_is_left_alone(rule: Callable[[Any, Tensor], Any]) -> None:
    torch.manual_seed(0)
    net, x = randomised(ConvAndNorm(rule)), torch.randn(2, 3, 8, 8)
    expected = net(x)

    fold_norms(net, (8, 8))

    assert norms_of(net) == 1
    torch.testing.assert_close(net(x), expected, atol=0, rtol=0)


@pytest.mark.parametrize("times", [1, 2])
def test_a_norm_without_scale_and_shift_is_folded_if_it_is_called_once(times: int) -> None:
    torch.manual_seed(0)
    net = randomised(ConvAndNorm(lambda net, x: nn.Sequential(*[net.norm] * times)(net.conv(x)), affine=False))
    x = torch.randn(2, 3, 8, 8)
    expected = net(x)

    fold_norms(net, (8, 8))

    assert norms_of(net) == times - 1
    torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", ["conv", "norm"])
def test_where_a_hook_may_change_the_numbers_nothing_is_folded(part: str) -> None:
    net = randomised(ConvAndNorm(lambda net, x: net.norm(net.conv(x))))
    getattr(net, part).register_forward_hook(lambda module, args, result: 2 * result)

    fold_norms(net, (8, 8))

    assert norms_of(net) == 1


def test_a_norm_that_still_learns_is_left_alone() -> None:
    net = randomised(ConvAndNorm(lambda net, x: net.norm(net.conv(x)))).train()

    fold_norms(net, (8, 8))

    assert norms_of(net) == 1


def test_a_model_to_be_trained_keeps_its_batch_norms(tiny_model: Callable[[str], Path]) -> None:
    spec = find_model(str(tiny_model("resnet")))

    assert norms_of(new_model(spec).visual) > norms_of(load_tower(spec, "visual")) == 0


def test_folding_does_not_import_torchs_compiler(tiny_model: Callable[[str], Path]) -> None:
    """It takes a second."""
    code = (
        "import sys; from zsclip.models.lean_imports import lean_open_clip\n"
        "with lean_open_clip(): from zsclip.models.towers import load_tower\n"
        "from zsclip.models.find import find_model; load_tower(find_model(sys.argv[1]), 'visual')\n"
        "assert 'torch._dynamo' not in sys.modules"
    )

    result = subprocess.run([sys.executable, "-c", code, tiny_model("resnet")], capture_output=True, text=True)

    assert result.returncode == 0, result.stderr


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
