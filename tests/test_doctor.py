"""`zsclip doctor`: healthy here, and each fault is found in an installation, cache or model that really has it."""

import json
import re
import shutil
import sqlite3
import sys
import tomllib
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from zsclip.cli.demo import FOLDER
from zsclip.kept.storefile import path as store_path
from zsclip.measure.installation import EXTRAS, Check, check_decoders, check_packages
from zsclip.models import parity
from zsclip.models.find import TINY_DIR, find_model, open_clips_name
from zsclip.models.graphs import describe, find_graphs, graphs_key, missing_to_export
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.pixels.decode import decode_image

Run = Callable[..., CompletedProcess[bytes]]
ROOT = Path(__file__).parent.parent
PHOTOS = [str(FOLDER / name) for name in ("chelsea.jpg", "astronaut.jpg", "camera.jpg")]


def requirements() -> list[str]:
    """The requirements in pyproject.toml, as the metadata of an installation has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    return project["dependencies"] + [f'{each}; extra == "{name}"' for name, needed in extras for each in needed]


def checks(done: CompletedProcess[bytes]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for check in json.loads(done.stdout)["checks"]:
        found.setdefault(check["about"], []).append(check)
    return found


def test_this_installation_is_healthy(run_alone: Run) -> None:
    done = run_alone("doctor")

    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0
    assert done.stderr == b""
    assert {line.split()[0] for line in lines} <= {"ok", "missing"}
    shown = "\n".join(lines)
    for words in ("torch 2.", "open_clip_torch 3.", "JPEG", "0 damaged", "7 of 7 sentences", "by torch in fp32"):
        assert words in shown


def test_json_has_every_check(run: Run) -> None:
    done = run("doctor", "--json")

    about = checks(done)
    assert json.loads(done.stdout)["healthy"] is True
    assert about.keys() >= {"python", "packages", "decoders", "device", "cache", "model", "pixels", "tokens"}
    assert all(set(check) == {"about", "state", "detail", "fix"} for each in about.values() for check in each)


@pytest.mark.parametrize("kind", ["plain", "siglip", "timm", "quick-gelu", "coca"])
def test_models_of_every_kind_are_compared(kind: str, run: Run, tiny_model: Callable[[str], Path]) -> None:
    done = run("doctor", "-m", str(tiny_model(kind)), "--json")

    found = checks(done)
    assert done.returncode == 0, done.stdout
    assert [found[name][0]["state"] for name in ("model", "pixels", "tokens", "embeddings")] == ["ok"] * 4


def test_a_model_that_is_not_here_is_exit_code_3(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    done = run("doctor", "-m", "base")

    assert done.returncode == 3
    assert re.search(r"^wrong    model      .*`zsclip models fetch base`", done.stdout.decode(), re.MULTILINE)


def test_a_damaged_row_of_the_cache_is_exit_code_1_and_gone_the_next_time(run: Run) -> None:
    assert run("classify", FOLDER / "chelsea.jpg", "-l", "cat,dog", "-m", "tiny").returncode == 0
    with closing(sqlite3.connect(store_path())) as connection, connection:
        connection.execute("UPDATE embeddings SET vector = zeroblob(length(vector))")

    damaged, mended = run("doctor", "--json"), run("doctor", "--json")

    assert damaged.returncode == 1
    assert checks(damaged)["cache"][0]["state"] == "wrong"
    assert "1 damaged and deleted" in checks(damaged)["cache"][0]["detail"]
    assert mended.returncode == 0


def test_a_cache_that_cannot_be_opened_is_exit_code_1(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ZSCLIP_CACHE_DIR", str(tmp_path / "file"))

    done = run("doctor", "--json")

    assert done.returncode == 1
    assert checks(done)["cache"][0]["state"] == "wrong"
    assert checks(done)["embeddings"][0]["state"] == "ok"


def test_every_extra_is_checked_and_has_a_purpose() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert EXTRAS.keys() == project["optional-dependencies"].keys() - {"all"}
    assert {check.about for check in check_packages(requirements())} >= EXTRAS.keys()


def test_a_missing_extra_has_the_line_that_installs_it() -> None:
    needed = [*requirements(), 'no-such-package>=1; extra == "heic"']

    (heic,) = (check for check in check_packages(needed) if check.about == "heic")

    assert heic == Check("heic", "missing", "HEIC photos from phones: no no-such-package", "pip install 'zsclip[heic]'")


@pytest.mark.parametrize(
    ("needed", "fault"),
    [
        ("no-such-package>=1", "no-such-package is not installed"),
        ("numpy>=99", f"numpy {np.__version__} is installed, but >=99 is needed"),
    ],
)
def test_a_package_that_is_missing_or_too_old_is_wrong(needed: str, fault: str) -> None:
    found = list(check_packages([*requirements(), needed]))

    assert Check("packages", "wrong", fault, f"pip install '{needed}'") in found


def test_a_library_that_does_not_load_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('libarrow.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)

    (parquet,) = (check for check in check_packages(requirements()) if check.about == "parquet")

    assert parquet.state == "wrong"
    assert parquet.detail.endswith("does not load: libarrow.so: cannot open shared object file")
    assert parquet.fix == "pip install --upgrade 'zsclip[parquet]'"


def test_pillow_here_has_all_decoders() -> None:
    assert check_decoders().state == "ok"


def test_the_numbers_are_those_of_other_pixels_tokens_and_weights() -> None:
    """Each is measured on what is known to be different."""
    spec = find_model("tiny")
    theirs = parity.reference_of(spec, PHOTOS)
    pixels = np.stack([np.asarray(decode_image(path, spec.preprocess)) for path in PHOTOS])
    brighter = pixels.copy()
    brighter[1, 2, 3, 4] ^= 128

    assert parity.pixel_difference(spec, pixels, theirs) == pytest.approx(0, abs=0.01)
    assert parity.pixel_difference(spec, brighter, theirs) == pytest.approx(128, abs=0.01)
    assert parity.other_tokens(spec, theirs) == []
    theirs.tokens[2, 1] += 1
    assert parity.other_tokens(spec, theirs) == [parity.SENTENCES[2]]
    encoder = LazyTorchEncoder(spec, "cpu", "fp32")
    image, text, cosine = parity.embedding_differences(encoder, pixels, theirs)
    assert max(image, text) <= 1e-5
    assert cosine == pytest.approx(1, abs=1e-5)
    theirs.texts[0] *= -1
    image_again, text, cosine = parity.embedding_differences(encoder, pixels, theirs)
    assert (image_again, cosine) == (image, pytest.approx(-1, abs=1e-5))
    assert text > 0.1


def test_a_runtime_that_gives_other_embeddings_is_exit_code_1(
    run: Run, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Graphs that were exported of other weights, and whose description was changed to fit."""
    if missing_to_export():
        pytest.skip("needs ONNX")
    assert run("models", "export", str(tiny_model("plain"))).returncode == 0
    exported = find_graphs(find_model(str(tiny_model("plain"))))
    assert exported is not None
    folder = tmp_path / "other"
    shutil.copytree(tiny_model("plain"), folder)
    weights = load_file(folder / "open_clip_model.safetensors")
    save_file(weights | {"visual.proj": -weights["visual.proj"]}, folder / "open_clip_model.safetensors")
    key = graphs_key(find_model(str(folder)))
    shutil.copytree(exported.folder, exported.folder.parent / key)
    about = asdict(exported.about)
    del about["key"]
    describe(exported.folder.parent / key, key, list(about.pop("files")), about)

    done = run("doctor", "-m", str(folder), "--json")

    in_torch, in_onnx = checks(done)["embeddings"]
    assert done.returncode == 1
    assert (in_torch["state"], in_onnx["state"]) == ("ok", "wrong")
    assert "by onnx in fp32 on the cpu, they differ" in in_onnx["detail"]
    assert in_onnx["fix"]


def test_open_clips_names() -> None:
    assert open_clips_name("tiny") == (f"local-dir:{TINY_DIR}", None)
    assert open_clips_name("base") == ("ViT-B-32-256", "datacomp_s34b_b86k")
    assert open_clips_name("ViT-B/32,OpenAI") == ("ViT-B-32", "openai")
    assert open_clips_name("hf-hub:a/b") == ("hf-hub:a/b", None)
    assert open_clips_name(str(TINY_DIR)) == (f"local-dir:{TINY_DIR}", None)
