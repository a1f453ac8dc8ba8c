"""Where in a picture labels are seen: the towers without their pooling, maps, boxes, and the command."""

import json
import resource
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
import tiny_models
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_models import save_tiny_model

from zsclip.answers.classifier import build_classifier
from zsclip.answers.where import box_of, enlarged, heats
from zsclip.engine.options import Computing
from zsclip.engine.where import Look, looking
from zsclip.errors import ModelError
from zsclip.models.find import find_model
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.models.patches import Patches, encode_patches
from zsclip.models.torch_encoder import ClipModel
from zsclip.models.towers import new_model
from zsclip.out.beside import overlay_names, without_own
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.fit import Area, Preprocess, fit, seen_area
from zsclip.words.labels import Label
from zsclip.words.prompts import read_templates
from zsclip.words.words import expand

Run = Callable[..., subprocess.CompletedProcess[bytes]]
DEMO = Path(skimage.__file__).parent / "data"


def encoded(folder: str) -> tuple[Patches, torch.nn.Module, torch.Tensor]:
    """Encode three pictures; give also the tower as it was trained, and what it takes."""
    spec = find_model(folder)
    model = ClipModel(spec)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, *spec.preprocess.size), dtype=np.uint8)
    tower = new_model(spec).visual.eval().requires_grad_(False)
    return encode_patches(model, list(pixels)), tower, model.normalised(torch.from_numpy(pixels))


@pytest.mark.parametrize("kind", ["tiny", "timm", "mobileclip"])
def test_the_mean_of_the_cells_is_the_embedding(kind: str, tiny_model: Callable[[str], Path]) -> None:
    patches, tower, images = encoded(kind if kind == "tiny" else str(tiny_model(kind)))

    expected = F.normalize(tower(images), dim=-1)
    assert patches.is_exact
    assert patches.cells.shape[1:3] == {"tiny": (7, 7), "timm": (1, 1), "mobileclip": (2, 2)}[kind]
    assert np.abs(patches.cells.mean(axis=(1, 2)) - expected.numpy()).max() <= 1e-5
    assert np.abs(patches.embeddings - expected.numpy()).max() <= 1e-5


@pytest.mark.parametrize("kind", ["plain", "quick-gelu", "siglip"])
def test_the_cells_of_a_vit_are_naclips(kind: str, tiny_model: Callable[[str], Path]) -> None:
    """The formulas of the paper, patch by patch and head by head."""
    patches, tower, images = encoded(str(tiny_model(kind)))

    x = tower._embeds(images)
    *before, last = tower.transformer.resblocks
    for block in before:
        x = block(x)
    queries_keys_values = F.linear(last.ln_1(x), last.attn.in_proj_weight, last.attn.in_proj_bias)
    _, keys, values = queries_keys_values.chunk(3, dim=-1)  # (B, T, W)
    height, width = tower.grid_size
    size = keys.shape[-1] // last.attn.num_heads
    result = torch.empty(3, height, width, values.shape[-1])
    for row in range(height):
        for column in range(width):
            near = torch.zeros(1 + height * width)  # the class token has no place
            for y in range(height):
                for x_ in range(width):
                    near[1 + y * width + x_] = np.exp(-((row - y) ** 2 + (column - x_) ** 2) / (2 * 5.0**2))
            for head in range(last.attn.num_heads):
                part = slice(head * size, (head + 1) * size)
                own = keys[:, 1 + row * width + column, part]  # (B, size)
                attention = torch.softmax(torch.einsum("bs,bts->bt", own, keys[..., part]) / size**0.5 + near, dim=1)
                result[:, row, column, part] = torch.einsum("bt,bts->bs", attention, values[..., part])
    expected = F.normalize(tower.ln_post(last.attn.out_proj(result)) @ tower.proj, dim=-1)

    assert not patches.is_exact
    assert np.abs(patches.cells - expected.numpy()).max() <= 1e-5


def test_the_cells_of_a_resnet_are_maskclips(tiny_model: Callable[[str], Path]) -> None:
    patches, tower, images = encoded(str(tiny_model("resnet")))

    pool = tower.attnpool
    features = []
    tower.layer4.register_forward_hook(lambda module, given, result: features.append(result))
    tower(images)
    values = F.conv2d(features[0], pool.v_proj.weight[..., None, None], pool.v_proj.bias)
    expected = F.conv2d(values, pool.c_proj.weight[..., None, None], pool.c_proj.bias)  # (B, D, h, w)
    expected = F.normalize(expected, dim=1).permute(0, 2, 3, 1)
    assert not patches.is_exact
    assert np.abs(patches.cells - expected.numpy()).max() <= 1e-5


@pytest.mark.parametrize("kind", ["coca", "rotary", "normed-late", "attended"])
def test_other_towers_say_that_they_cannot(
    kind: str, tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {
        "normed-late": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear"},
        "attended": {"timm_model_name": "resnet10t", "timm_pool": "rot_attn", "timm_proj": ""},
    }
    if kind in others:  # the first has a layer norm behind its pooling
        config = ({"embed_dim": 32, "text_cfg": tiny_models._TEXT, "custom_text": True}, {})
        config[0]["vision_cfg"] = others[kind] | {"image_size": 64}
        monkeypatch.setitem(tiny_models.CONFIGS, kind, config)
        folder = save_tiny_model(kind, tmp_path / kind)
    else:
        folder = tiny_model(kind)

    model, random = ClipModel(find_model(str(folder))), np.random.default_rng(0)
    with pytest.raises(ModelError, match="does not show where it looks; use tiny or base"):
        encode_patches(model, [random.integers(0, 256, (3, *model.spec.preprocess.size), dtype=np.uint8)])


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("shape", [(224, 224), (96, 64)])
@pytest.mark.parametrize("size", [(250, 120), (90, 250), (101, 101), (224, 224)])
def test_the_area_is_the_part_that_is_kept(mode: str, shape: tuple[int, int], size: tuple[int, int]) -> None:
    """In a picture whose grey levels count its columns, or rows, the model's pixels say where they are from."""
    preprocess = Preprocess(shape, (0, 0, 0), (1, 1, 1), interpolation="bilinear", resize_mode=mode)
    width, height = size
    columns, rows = np.tile(np.arange(width, dtype=np.uint8), (height, 1)), np.arange(height, dtype=np.uint8)
    left, top, right, bottom = seen_area(size, preprocess).seen

    for picture, axis, (first, last), side in (
        (columns, 1, (left, right), width),
        (np.tile(rows[:, None], (1, width)), 0, (top, bottom), height),
    ):
        fitted = np.asarray(fit(Image.fromarray(picture), preprocess)).astype(float)
        count = fitted.shape[axis]
        line = fitted[fitted.shape[0] // 2] if axis else fitted[:, fitted.shape[1] // 2]
        expected = first + (np.arange(count) + 0.5) * (last - first) / count - 0.5
        inside = (expected > 3) & (expected < side - 4)  # at the borders, resizing sees less
        assert inside.sum() > count / 4
        assert np.abs(line - expected)[inside].max() <= 1.5


def test_the_crop_is_within_the_picture() -> None:
    assert Area((300, 200), (50.2, -0.3, 249.8, 200.3)).crop == (50, 0, 250, 200)
    assert Area((300, 200), (0, -50, 300, 250)).crop == (0, 0, 300, 200)
    assert Area((1, 60000), (0, 29999.5, 1, 30000.5)).crop == (0, 30000, 1, 30001)
    assert Area((1, 1), (0.6, 0, 0.9, 1)).crop == (0, 0, 1, 1)


def test_a_map_is_enlarged_as_pillow_enlarges_it() -> None:
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    pillow = Image.fromarray(values).resize((56, 40), Image.Resampling.BILINEAR)

    assert np.abs(enlarged(values, 8) - np.asarray(pillow)).max() < 1e-5


def test_a_box_is_around_the_strongest_region_alone() -> None:
    heat = np.zeros((8, 8), np.float32)
    heat[1:3, 1:4] = 1
    heat[6:, 6:] = 0.9  # a region of its own
    area = Area((1600, 800), (400, 0, 1200, 800))  # a cell is 100 pixels

    box = box_of(heat, area)

    assert box is not None
    assert np.abs(np.array(box) - (500, 100, 800, 300)).max() <= 13  # an eighth of a cell
    assert box_of(np.zeros((8, 8), np.float32), area) is None
    corner = np.zeros((8, 8), np.float32)
    corner[0, 0] = 1
    assert box_of(corner, Area((800, 600), (0, -200, 800, 600))) is None  # in the margin above the picture


def test_what_speaks_for_no_label_alone_is_not_hot() -> None:
    grids = np.array([[[1.0, 1.0, -1.0]], [[1.0, 0.0, 0.5]]], np.float32)

    found = heats(grids, 10.0, is_exact=True)

    share = np.exp(10.0) / (np.exp(10.0) + 1)
    assert np.allclose(found, [[[0.5, share, 0]], [[0.5, 0, 0.5]]], atol=1e-5)
    assert np.allclose(heats(grids[:1], 10.0, is_exact=True), [[[1, 1, 0]]])
    assert np.allclose(heats(grids[:1], 10.0, is_exact=False), [[[2 / 3, 2 / 3, 0]]])


def test_files_are_named_after_their_images(tmp_path: Path) -> None:
    names = ["x/a.jpg", "y/A.png", "-", "clip.mp4#t=12.500", "x.tar#d/b.jpeg", "z/a", "..", "x/\udcff.jpg"]

    assert overlay_names(names, "out") == [
        "out/a.where.png", "out/A-2.where.png", "out/stdin.where.png", "out/clip.mp4#t=12.500.where.png",
        "out/b.where.png", "out/a-3.where.png", "out/_.where.png", "out/_.where.png".replace("_", "_-2"),
    ]  # fmt: skip
    assert overlay_names(["x/a.jpg"], ".") == ["a.where.png"]
    here = [str(tmp_path / name) for name in ("a.jpg", "a.where.png", "b.where.png")]
    assert without_own(here, [], str(tmp_path)) == [0, 2]
    assert without_own(here, here[1:2], str(tmp_path)) == [0, 1, 2]


def collage(folder: Path) -> Path:
    """A picture of four: a cat, a cup of coffee, a rocket and a motorcycle."""
    sheet = Image.new("RGB", (400, 400))
    for place, name in enumerate(("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")):
        with Image.open(DEMO / name) as photo:
            small = photo.convert("RGB").resize((200, 200), Image.Resampling.LANCZOS)
        sheet.paste(small, (place % 2 * 200, place // 2 * 200))
    sheet.save(folder / "four.png")
    return folder / "four.png"


def test_the_command_finds_each_part_of_a_collage(run: Run, tmp_path: Path) -> None:
    collage(tmp_path)

    labels = "cat,cup of coffee,rocket,motorcycle"
    done = run("where", "four.png", "-l", labels, "-m", "tiny", "--boxes", "-q")
    classified = run("classify", "four.png", "-l", labels, "-m", "tiny", "-k", "4", "-q", "--no-store")

    assert (done.returncode, done.stderr) == (0, b"")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    (expected,) = map(json.loads, classified.stdout.splitlines())
    assert [row["label"] for row in rows] == [each["label"] for each in expected["predictions"]]
    for row, each in zip(rows, expected["predictions"], strict=True):
        assert row["score"] == pytest.approx(each["score"], abs=1e-3)
        assert row["cosine"] == pytest.approx(each["cosine"], abs=1e-5)
        assert np.mean(row["grid"]) == pytest.approx(row["cosine"], abs=1e-5)
        assert (row["grid_kind"], row["crop"], row["overlay"]) == ("parts", [0, 0, 400, 400], "four.where.png")
        left, top, right, bottom = row["box"]
        place = labels.split(",").index(row["label"])
        assert (left + right) // 2 // 200 + (top + bottom) // 2 // 200 * 2 == place
    with Image.open(tmp_path / "four.where.png") as overlay:
        assert overlay.width > 800  # two panels beside each other


def test_a_label_alone_and_a_turned_image_in_a_table(run: Run, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    with Image.open(DEMO / "chelsea.png") as photo:
        photo.save(tmp_path / "cat.jpg", exif=exif)  # 451 x 300, upright 300 x 451

    done = run("where", "cat.jpg", "-l", "cat", "-m", "tiny", "-f", "table", "-o", "out/new")
    rows = run("where", "cat.jpg", "-l", "cat", "-m", "tiny", "--boxes", "-o", "out", "-q")

    assert done.returncode == 0
    first, *grid = done.stdout.decode().splitlines()
    assert first.startswith("cat.jpg  ")
    assert [len(line.split()) for line in grid] == [7] * 7
    assert b"wrote out/new/cat.where.png" in done.stderr
    (row,) = map(json.loads, rows.stdout.splitlines())
    assert row["crop"] == [0, 75, 300, 376]
    assert row["score_kind"] == "versus-neutral"
    left, top, right, bottom = row["box"]
    assert 0 <= left < right <= 300
    assert 75 <= top < bottom <= 376


def test_a_failed_image_has_a_row_and_other_models_have_cosines(run: Run, model: str, photos: Path) -> None:
    (photos / "bad.png").write_bytes(b"bad")

    done = run("where", "photos", "-l", "red,green,blue", "-m", model, "-k", "2", "-o", "photos")

    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file_name"] for row in rows] == [
        "photos/bad.png", *(f"photos/{name}.png" for name in ("blue", "green", "red") for _ in range(2))
    ]  # fmt: skip
    assert len({tuple(row) for row in rows}) == 1
    assert (rows[0]["error"], rows[0]["grid"], rows[0]["overlay"]) == ("unreadable", None, None)
    assert {row["grid_kind"] for row in rows[1:]} == {"cosines"}
    assert np.array(rows[1]["grid"]).shape == (4, 4)
    assert rows[1]["box"] is None
    assert b"1 failed: unreadable 1" in done.stderr
    assert sorted(path.name for path in photos.glob("*.where.png")) == [
        "blue.where.png", "green.where.png", "red.where.png",
    ]  # fmt: skip

    again = ("where", "photos", "-l", "red,green,blue", "-m", model, "-k", "2", "-o", "photos")
    refused = run(*again)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert refused.stderr == b"zsclip: photos/blue.where.png: already exists; add --overwrite to replace it\n"
    assert run(*again, "--overwrite").stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["photos"], 2, "labels: none given"),
        (["photos", "-l", "a,b", "-f", "csv"], 2, "csv"),
        (["photos", "-l", "a,b", "-o", "out.png"], 2, "-o out.png: give a folder"),
        (["photos", "-l", "a,b", "-o", "file"], 4, "file: is a file, not a folder"),
        (["nope.jpg", "-l", "a,b"], 2, "no such file or folder: 'nope.jpg'"),
        (["empty", "-l", "a,b"], 1, "no images"),
        (["photos/red.png", "photos/red.where.png", "-l", "a,b", "-o", "photos", "--overwrite"], 2, "would overwrite"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], code: int, said: str, run: Run, model: str, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    if "photos/red.where.png" in arguments:
        Image.new("RGB", (9, 9)).save(photos / "red.where.png")

    done = run("where", *arguments, "-m", model, "-q")

    assert done.returncode == code
    assert said in done.stderr.decode()
    assert (done.stderr.count(b"\n"), done.stdout) == (1, b"")


def test_a_model_that_cannot_ends_the_run(run: Run, photos: Path, tiny_model: Callable[[str], Path]) -> None:
    done = run("where", "photos", "-l", "a,b", "-m", str(tiny_model("coca")))

    assert (done.returncode, done.stdout) == (3, b"")
    assert b"its image tower does not show where it looks; use tiny or base\n" in done.stderr


def test_an_overlay_that_cannot_be_written_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    collage(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        done = run("where", "four.png", "-l", "cat,rocket", "-m", "tiny", "-o", "out", "-q")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr.startswith(b"zsclip: out/four.where.png: file too large; ")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_image_that_fails_has_the_row_of_classify(run: Run, photos: Path, model: str, tmp_path: Path) -> None:
    """Beside members of an archive, too."""
    (photos / "empty.png").touch()
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        tar.add(photos / "red.png", "red.png")
    (tmp_path / "list.csv").write_text("file_name\nphotos/empty.png\nphotos\n")
    command = ("some.tar", "list.csv", "some.tar", "-l", "red,green", "-m", model, "-q", "-f", "jsonl")

    seen, classified = run("where", *command), run("classify", *command)

    rows, expected = ([json.loads(line) for line in done.stdout.splitlines()] for done in (seen, classified))
    assert [row["error"] for row in expected] == [None, "unreadable", "not-a-file", None]
    for row, each in zip([rows[0], rows[2], rows[3], rows[4]], expected, strict=True):
        assert row.items() >= {key: each[key] for key in ("file_name", "error", "message")}.items()


def test_the_captions_of_icons_and_strips_have_room(run: Run, photos: Path, model: str) -> None:
    Image.new("RGB", (1, 900), "red").save(photos / "strip.png")

    run("where", "photos/red.png", "photos/strip.png", "-l", "red,green", "-m", model)

    sizes = [Image.open(photos.parent / f"{name}.where.png").size for name in ("red", "strip")]
    assert sizes == [(6 + 2 * (160 + 6), 6 + 120 + 22 + 6), (6 + 2 * (160 + 6), 6 + 800 + 22 + 6)]


def test_the_model_is_loaded_before_the_looking_is_timed(photos: Path) -> None:
    encoder, loaded = (LazyTorchEncoder(find_model("tiny"), "cpu", "fp32") for _ in range(2))
    classifier = build_classifier(expand([Label("red"), Label("blue")], read_templates(["{}"])), loaded)

    with looking([Pictures([str(photos / "red.png")])], encoder, classifier, Computing()) as looks:
        assert encoder.is_loaded
        (look,) = looks

    assert isinstance(look, Look)
    assert look.where.file_name == str(photos / "red.png")
