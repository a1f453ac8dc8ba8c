"""A lean import: the models it loads against those of a plain one, and nothing left changed for others.

Each in a process of its own.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

KINDS = ("plain", "siglip", "coca", "timm", "mobileclip")

_SCRIPT = """
import contextlib, sys
import numpy as np
from zsclip.models.lean_imports import lean_open_clip
from zsclip.models.find import find_model
out, lean, *models = sys.argv[1:]
with lean_open_clip() if lean == "lean" else contextlib.nullcontext():
    from zsclip.models.torch_encoder import load_model
print(*sorted({"transformers", "timm", "torch._dynamo"} & set(sys.modules)))
found = {}
for model in models:
    clip = load_model(find_model(model), "cpu", "fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, *clip.spec.preprocess.size), dtype=np.uint8)
    found[model + " images"] = clip.encode_images(pixels).numpy()
    found[model + " text"] = clip.encode_text(["a photo of a cat.", "a dog"]).numpy()
np.savez(out, **found)
"""


def run(out: Path, how: str, models: list[str]) -> str:
    command = [sys.executable, "-c", _SCRIPT, str(out), how, *models]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_lean_import_leaves_out_what_it_says_and_changes_no_embedding(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    models = [f"local-dir:{tiny_model(kind)}" for kind in KINDS]

    lean = run(tmp_path / "lean.npz", "lean", models)
    plain = run(tmp_path / "plain.npz", "plain", models)

    assert lean.split() == []
    assert plain.split() == ["timm", "torch._dynamo", "transformers"]
    ours, theirs = (np.load(tmp_path / f"{how}.npz") for how in ("lean", "plain"))
    assert set(ours) == set(theirs)
    assert len(set(ours)) == 2 * len(KINDS)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_a_run_that_has_to_load_a_model_loads_it_lean(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    script = (
        "import sys; from zsclip.cli.main import main; code = main(sys.argv[1:]);"
        "print(code, {'transformers', 'timm', 'torch._dynamo'} & set(sys.modules), 'torch' in sys.modules)"
    )
    from PIL import Image

    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    model = f"local-dir:{tiny_model('plain')}"
    arguments = ["classify", str(tmp_path / "a.png"), "--labels", "a,b", "--model", model]

    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "0 set() True"


_BESIDE_OTHERS = """
import logging, sys, warnings
import torch
from PIL import Image
if sys.argv[1] == "before":
    import torchvision
torch.set_num_threads(3)
Image.MAX_IMAGE_PIXELS = 1000

def settings():
    of_pillow = [each for each in warnings.filters if getattr(each[3], "pattern", "").startswith("PIL")]
    return (torch.get_num_threads(), torch.backends.cudnn.allow_tf32, Image.MAX_IMAGE_PIXELS, of_pillow,
            logging.getLogger("PIL").handlers[:])

before = settings()
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.models.find import find_model
from zsclip.pixels.decode import Decoding, decode_image
encoder = LazyTorchEncoder(find_model("tiny"), "cpu")
pixels = decode_image(sys.argv[2], encoder.spec.preprocess, Decoding(max_pixels=1_000_000))
assert encoder.begin_images([pixels])().shape == (1, encoder.embed_dim)
assert encoder.encode_text(["a cat"]).shape == (1, encoder.embed_dim)
assert settings() == before, (settings(), before)

import torchvision
boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
for roi_align in (torchvision.ops.roi_align, torchvision.ops.poolers.roi_align):
    assert roi_align(torch.ones(1, 1, 4, 4), boxes, 2).equal(torch.ones(1, 1, 2, 2))
assert torchvision.ops.RoIAlign(2, 1.0, 1)(torch.ones(1, 1, 4, 4), boxes).equal(torch.ones(1, 1, 2, 2))
asked = torchvision.ops.roi_align.__globals__["is_compile_supported"]("cpu")  # what it asks on a GPU

from torch._dynamo.utils import is_compile_supported
assert asked == is_compile_supported("cpu")
assert torchvision.ops.roi_align.__globals__["is_compile_supported"] is is_compile_supported
import timm
"""


@pytest.mark.parametrize("torchvision", ["before", "after"])
def test_other_libraries_are_as_they_were_after_a_model_has_encoded(torchvision: str, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (300, 300)).save(tmp_path / "a.png")  # more pixels than Pillow is set to read
    command = [sys.executable, "-c", _BESIDE_OTHERS, torchvision, str(tmp_path / "a.png")]

    done = subprocess.run(command, capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
