"""Training: the loss is the paper's, a killed run ends as an undisturbed one, and open_clip loads the result."""

import json
import math
import os
import platform
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import HANGS
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from zsclip.answers.classifier import class_embeddings
from zsclip.errors import InputError, ModelError, OutputError
from zsclip.models.find import find_architecture, find_model
from zsclip.models.text import first_output
from zsclip.models.torch_encoder import has_bf16, load_model, load_tokenizer
from zsclip.models.towers import new_model
from zsclip.training.export import WEIGHTS_FILE
from zsclip.training.features import FEATURES_FILE
from zsclip.training.log import EncodingProgress, Event, StepDone
from zsclip.training.pairs import read_pairs
from zsclip.training.recipe import Recipe, chosen_rate, learning_rate, picture_size
from zsclip.training.sampling import Sampling
from zsclip.training.step import PairEncoder, contrastive_loss
from zsclip.training.train import CHECKPOINT_FILE, train
from zsclip.words.prompts import read_prompts

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


EVEN = torch.ones(6, 6)  # all pairs count alike


class Killed(BaseException):
    """Stands for a power cut."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Coloured pictures in class folders, and a recipe of 2 epochs of 4 steps for them."""
    random = np.random.default_rng(0)
    for colour, rgb in COLOURS.items():
        folder = tmp_path / "toys" / colour
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = np.clip(random.normal(rgb, 40, (20, 20, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps({"model_cfg": ARCHITECTURE}))
    return Recipe(
        data=(str(tmp_path / "toys"),),
        arch=str(arch),
        epochs=2,
        batch_size=8,
        precision="fp32",
        holdout=8,
        colour=0.05,
        save_precision="fp32",
    )


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS_FILE)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def embeddings(count: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=-1)


def plain_loss(images: Tensor, texts: Tensor, positives: Tensor, scale: float, pair_weights: Tensor = EVEN) -> float:
    """The loss as two plain loops over pairs."""
    count = len(images)
    total = 0.0
    for i in range(count):
        of_image = [scale * float(images[i] @ text) for text in texts]
        of_text = [scale * float(images[j] @ texts[i]) for j in range(count)]
        sides = ((of_image, positives[i], pair_weights[i]), (of_text, positives[:, i], pair_weights[:, i]))
        for logits, true, counts in sides:
            log_sum = math.log(sum(float(w) * math.exp(logit) for w, logit in zip(counts, logits, strict=True)))
            right = [logit - log_sum for logit, is_true in zip(logits, true, strict=True) if is_true]
            total -= sum(right) / len(right)
    return total / count / 2


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 1, 1], [0, 0, 0, 0, 0, 0]])
def test_the_loss_is_a_double_loop_over_pairs(groups: list[int]) -> None:
    numbers = torch.tensor(groups)
    positives = numbers[:, None] == numbers

    loss = contrastive_loss(embeddings(6, 0), embeddings(6, 1), positives, torch.tensor(7.0), EVEN)

    assert loss.item() == pytest.approx(plain_loss(embeddings(6, 0), embeddings(6, 1), positives, 7.0), rel=1e-5)


def test_the_loss_counts_each_true_text_of_a_picture_even_if_it_is_not_mutual() -> None:
    positives = torch.eye(6, dtype=torch.bool)
    positives[0, 3] = positives[0, 4] = positives[5, 3] = True

    loss = contrastive_loss(embeddings(6, 0), embeddings(6, 1), positives, torch.tensor(7.0), EVEN)

    assert loss.item() == pytest.approx(plain_loss(embeddings(6, 0), embeddings(6, 1), positives, 7.0), rel=1e-5)


def test_the_loss_compares_pictures_with_texts_that_have_none() -> None:
    positives = torch.eye(6, 9, dtype=torch.bool)
    positives[0, 3] = positives[0, 7] = positives[5, 8] = True
    counts = torch.where(positives, 1.0, torch.rand(6, 9, generator=torch.Generator().manual_seed(0)))
    images, texts = embeddings(6, 0), embeddings(9, 1)

    loss = contrastive_loss(images, texts, positives, torch.tensor(7.0), counts)

    assert loss.item() == pytest.approx(plain_loss(images, texts, positives, 7.0, counts), rel=1e-5)


@pytest.mark.parametrize("across", [0.1, 0.0])
def test_the_loss_lets_pairs_of_different_sources_count_less(across: float) -> None:
    positives = torch.eye(6, dtype=torch.bool)
    positives[0, 3] = True
    sources = torch.tensor([0, 0, 1, 1, 1, 2])  # the last is alone: nothing to be wrong about where across is 0
    counts = torch.where(positives | (sources[:, None] == sources), 1.0, across)
    images, texts = embeddings(6, 0).requires_grad_(), embeddings(6, 1)

    loss = contrastive_loss(images, texts, positives, torch.tensor(7.0), counts)
    loss.backward()

    assert loss.item() == pytest.approx(plain_loss(images.detach(), texts, positives, 7.0, counts), rel=1e-5)
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad[5].abs().sum() > 1e-6) == (across > 0)


def test_the_loss_is_that_of_open_clip_where_all_pairs_differ() -> None:
    images, texts, scale = embeddings(9, 0), embeddings(9, 1), torch.tensor(20.0)

    loss = contrastive_loss(images, texts, torch.eye(9, dtype=torch.bool), scale, torch.ones(9, 9))

    torch.testing.assert_close(loss, open_clip.ClipLoss()(images, texts, scale))


def test_gradients_reach_the_temperature() -> None:
    log_scale = torch.tensor(2.0, requires_grad=True)

    positives = torch.eye(4, dtype=torch.bool)
    contrastive_loss(embeddings(4, 0), embeddings(4, 1), positives, log_scale.exp(), torch.ones(4, 4)).backward()

    assert log_scale.grad is not None
    assert log_scale.grad.item() != 0


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    recipe = Recipe(data=(), learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, recipe) for step in range(100)]

    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


def test_a_few_steps_teach_colours(recipe: Recipe, tmp_path: Path) -> None:
    events: list[Event] = []

    # The evaluation asks with `photo`: so little training does not teach it sentences that it was not trained on.
    taught = replace(recipe, epochs=30, learning_rate=1e-3, prompts="photo")
    evaluations = train(taught, tmp_path / "out", progress=events.append)

    losses = [event.loss for event in events if isinstance(event, StepDone)]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert evaluations[-1].top1 >= 0.75
    assert evaluations[-1] == events[-1]
    assert evaluations[-1].labels == 4


def logit_scales(recipe: Recipe, out: Path, start: float) -> list[float]:
    """Train with a temperature that begins at 1 / start; give its inverse after each step."""
    Path(recipe.arch or "").write_text(json.dumps({"model_cfg": ARCHITECTURE | {"init_logit_scale": math.log(start)}}))
    scales: list[float] = []
    train(
        recipe,
        out,
        progress=lambda event: scales.append(event.logit_scale) if isinstance(event, StepDone) else None,
    )
    return scales


def test_the_temperature_is_learnt(recipe: Recipe, tmp_path: Path) -> None:
    assert len(set(logit_scales(recipe, tmp_path / "out", 20))) > 1


def test_the_temperature_stops_at_one_hundredth(recipe: Recipe, tmp_path: Path) -> None:
    assert max(logit_scales(recipe, tmp_path / "out", 200)) == pytest.approx(100)


def test_the_average_of_the_weights_is_what_is_saved(recipe: Recipe, tmp_path: Path) -> None:
    train(replace(recipe, average=0.9), tmp_path / "out")
    kept = load_file(tmp_path / "out" / CHECKPOINT_FILE)
    saved = weights(tmp_path / "out")

    assert_same(saved, {name: kept[f"average.{name}"] for name in saved})
    assert not torch.equal(saved["visual.conv1.weight"], kept["model.visual.conv1.weight"])


def run_killed_at(kills: list[int], recipe: Recipe, out: Path, **arguments: Any) -> None:
    """Train, cut off in the callback of these steps counted over all epochs, each time beginning anew."""
    pending = list(kills)

    def kill(event: Event) -> None:
        if isinstance(event, StepDone) and pending and (event.epoch - 1) * event.steps + event.step == pending[0]:
            pending.pop(0)
            raise Killed

    while pending:
        with pytest.raises(Killed):
            train(recipe, out, progress=kill, **arguments)
    train(recipe, out, **arguments)


@pytest.mark.parametrize("checkpoint_seconds", [0, 3600])
@pytest.mark.parametrize("change", [{}, {"average": 0.9, "accumulate": 2}])
def test_a_killed_run_ends_bit_for_bit_as_an_undisturbed_one(
    recipe: Recipe, tmp_path: Path, checkpoint_seconds: float, change: dict[str, Any]
) -> None:
    recipe = replace(recipe, **change)
    train(recipe, tmp_path / "whole")

    run_killed_at([1, 3, 4, 5, 8], recipe, tmp_path / "killed", checkpoint_seconds=checkpoint_seconds)

    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_convolutions_and_dropout_are_resumed_bit_for_bit(recipe: Recipe, tmp_path: Path) -> None:
    vision = {"image_size": 32, "timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear"}
    architecture = ARCHITECTURE | {"vision_cfg": vision | {"timm_drop": 0.2}}
    Path(recipe.arch or "").write_text(json.dumps({"model_cfg": architecture}))
    train(recipe, tmp_path / "whole")

    run_killed_at([3, 6], recipe, tmp_path / "killed", checkpoint_seconds=0)

    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_pictures_grow_evenly_and_are_whole_for_the_last_third(recipe: Recipe) -> None:
    def sides(start_size: int, epochs: int, own: int = 64) -> list[int]:
        grown = replace(recipe, start_size=start_size, epochs=epochs)
        return [picture_size(epoch, (own, own), grown)[1] for epoch in range(epochs)]

    assert sides(32, 9) == [32, 40, 40, 48, 56, 56, 64, 64, 64]
    assert sides(32, 6, own=100) == [32, 48, 64, 80, 100, 100]
    assert sides(32, 1) == [64]
    assert sides(32, 2) == [32, 64]
    assert sides(0, 3) == [64, 64, 64]
    assert picture_size(1, (64, 48), replace(recipe, start_size=32, epochs=3)) == (48, 40)


def test_a_run_that_grows_its_pictures_trains_on_them_and_is_resumed_bit_for_bit(
    recipe: Recipe, tmp_path: Path
) -> None:
    vision = {"image_size": 48, "timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear"}
    Path(recipe.arch or "").write_text(json.dumps({"model_cfg": ARCHITECTURE | {"vision_cfg": vision}}))
    recipe = replace(recipe, start_size=32, epochs=3)
    sizes: list[tuple[int, int]] = []
    train(recipe, tmp_path / "whole", progress=lambda e: sizes.append(e.size) if isinstance(e, StepDone) else None)

    run_killed_at([3, 6], recipe, tmp_path / "killed", checkpoint_seconds=0)

    assert sizes == [(32, 32)] * 4 + [(40, 40)] * 4 + [(48, 48)] * 4
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    train(replace(recipe, start_size=0), tmp_path / "not grown")
    assert not torch.equal(*(weights(tmp_path / name)["visual.head.proj.weight"] for name in ("whole", "not grown")))


@pytest.mark.parametrize(
    ("start_size", "message"),
    [(8, "--start-size 8: this image tower cannot take 8 x 8 pixels: "), (16, "must be smaller than the model's own")],
)
def test_a_tower_that_cannot_grow_is_reported_before_training(
    recipe: Recipe, tmp_path: Path, start_size: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(replace(recipe, start_size=start_size), tmp_path / "out")


def test_matrices_alone_decay_and_gradients_are_clipped(recipe: Recipe, tmp_path: Path) -> None:
    def moved(**change: float) -> float:
        """How far the weights went in one step, without the moments that hide the size of a gradient."""
        out = tmp_path / "-".join(f"{value:g}" for value in change.values())
        train(replace(recipe, epochs=1, batch_size=32, warmup=0.0, **change), out)
        with safe_open(out / CHECKPOINT_FILE, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith("exp_avg.")]  # noqa: SIM118
            return float(torch.cat([file.get_tensor(name).flatten() for name in names]).norm())

    assert moved(clip_norm=1e-3) == pytest.approx(0.1 * 1e-3, rel=1e-3)  # one step keeps a tenth of the gradient
    assert moved(clip_norm=1e9) > 0.1 * 1e-2

    undecayed, decayed = (tmp_path / name for name in ("undecayed", "decayed"))
    for decay, out in ((0.0, undecayed), (0.9, decayed)):
        train(replace(recipe, epochs=1, batch_size=32, learning_rate=1e-2, warmup=0.0, weight_decay=decay), out)
    differing = {name for name, tensor in weights(undecayed).items() if not torch.equal(tensor, weights(decayed)[name])}
    assert differing == {name for name, tensor in weights(decayed).items() if tensor.ndim >= 2}


def test_saved_files_are_readable_by_other_users(recipe: Recipe, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        train(recipe, tmp_path / "out")
    finally:
        os.umask(before)

    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {0o644}


def test_a_run_is_not_resumed_with_other_preprocessing(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path / "out")
    otherwise = {"model_cfg": ARCHITECTURE, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    Path(recipe.arch or "").write_text(json.dumps(otherwise))

    with pytest.raises(InputError, match=r"was trained with model .* \(now .*\)"):
        train(recipe, tmp_path / "out")


def test_a_finished_run_is_not_trained_further(recipe: Recipe, tmp_path: Path) -> None:
    evaluations = train(recipe, tmp_path / "out")
    before = weights(tmp_path / "out")
    events: list[Event] = []

    assert train(recipe, tmp_path / "out", progress=events.append) == evaluations
    assert events == []
    assert_same(before, weights(tmp_path / "out"))


@pytest.mark.parametrize("against_all_labels", [False, True])
def test_accumulated_parts_equal_the_whole_batch(against_all_labels: bool, recipe: Recipe, tmp_path: Path) -> None:
    losses: dict[int, list[float]] = {}
    for parts in (1, 4):
        some = losses.setdefault(parts, [])
        train(
            replace(recipe, accumulate=parts, against_all_labels=against_all_labels),
            tmp_path / str(parts),
            progress=lambda event, some=some: some.append(event.loss) if isinstance(event, StepDone) else None,
        )

    assert losses[4] == pytest.approx(losses[1], rel=1e-4)


def test_another_recipe_in_the_same_folder_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path / "out")

    message = r"was trained with learning-rate 0\.001 \(now 0\.002\); use another --out"
    with pytest.raises(InputError, match=message):
        train(replace(recipe, learning_rate=0.002), tmp_path / "out")


def test_other_data_in_the_same_folder_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path / "out")
    (tmp_path / "toys" / "red" / "1.png").unlink()

    with pytest.raises(InputError, match="was trained with data "):
        train(recipe, tmp_path / "out")


def test_a_damaged_checkpoint_is_named(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CHECKPOINT_FILE).write_bytes(b"nonsense")

    with pytest.raises(InputError, match=r"checkpoint\.safetensors: cannot be read as a checkpoint"):
        train(recipe, tmp_path / "out")


def test_ctrl_c_leaves_a_checkpoint_of_that_step(recipe: Recipe, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, StepDone) and (event.epoch, event.step) == (2, 2):
            signal.raise_signal(signal.SIGINT)

    train(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "out", progress=interrupt)
    events: list[Event] = []
    train(recipe, tmp_path / "out", progress=events.append)

    assert isinstance(events[0], StepDone)
    assert (events[0].epoch, events[0].step) == (2, 3)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "out"))


def test_a_full_disk_is_reported_in_one_line_and_keeps_the_checkpoint_before(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Killed):
        train(recipe, out, checkpoint_seconds=0, progress=kill_at_step_three)
    before = (out / CHECKPOINT_FILE).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OutputError, match=r"checkpoint\.safetensors: cannot be written: .*; free some space"):
            train(recipe, out, checkpoint_seconds=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert (out / CHECKPOINT_FILE).read_bytes() == before
    assert sorted(path.name for path in out.iterdir()) == [CHECKPOINT_FILE]
    train(recipe, out)


def kill_at_step_three(event: Event) -> None:
    if isinstance(event, StepDone) and event.step == 3:
        raise Killed


def test_sigterm_ends_the_process_with_a_checkpoint(recipe: Recipe, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from zsclip.training.train import *\n"
        f"train({recipe!r}, Path({str(tmp_path / 'out')!r}), progress=lambda e: os.kill(os.getpid(), signal.SIGTERM))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS, env=os.environ)

    assert done.returncode == -signal.SIGTERM, done.stderr
    assert (tmp_path / "out" / CHECKPOINT_FILE).exists()


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_the_result_loads_here_and_in_open_clip(recipe: Recipe, tmp_path: Path, dtype: str) -> None:
    out = tmp_path / "out"
    train(replace(recipe, save_precision=dtype, average=0.9), out)

    ours = load_model(find_model(str(out)), "cpu", "fp32")
    theirs = open_clip.create_model(f"local-dir:{out}").eval()

    assert weights(out)["visual.conv1.weight"].dtype == {"fp16": torch.float16, "fp32": torch.float32}[dtype]
    assert ours.logit_scale == pytest.approx(theirs.logit_scale.exp().item(), rel=1e-3)
    texts = ["a photo of a red.", "white"]
    tokens = open_clip.get_tokenizer(f"local-dir:{out}")(texts)
    torch.testing.assert_close(ours.encode_text(texts), theirs.encode_text(tokens, normalize=True).detach())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (ours.spec.preprocess.mean, ours.spec.preprocess.std))
    x = (torch.from_numpy(pixels) / 255 - mean) / std
    torch.testing.assert_close(ours.encode_images(pixels), theirs.encode_image(x, normalize=True).detach())


@pytest.mark.parametrize("kind", ["plain", "quick-gelu", "resnet", "siglip"])
def test_training_continues_from_a_model_with_its_image_tower_locked(
    recipe: Recipe, tmp_path: Path, tiny_model: Callable[[str], Path], kind: str
) -> None:
    if kind == "siglip":
        pytest.importorskip("transformers")
    before = weights(tiny_model(kind))
    out = tmp_path / "out"

    change = {"arch": None, "init": str(tiny_model(kind)), "lock_image": True, "epochs": 1, "learning_rate": 1e-3}
    train(replace(recipe, colour=0.2, **change), out)

    after = weights(out)
    visual = [name for name in before if name.startswith("visual.")]
    assert_same({name: before[name] for name in visual}, {name: after[name] for name in visual})
    prefix = "" if "positional_embedding" in before else "text."
    assert not torch.equal(before[f"{prefix}positional_embedding"], after["text.positional_embedding"])
    theirs = open_clip.create_model(f"local-dir:{out}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{out}")(["a cat"])
    ours = load_model(find_model(str(out)), "cpu", "fp32")
    assert ours.logit_bias is None  # a softmax gives it no meaning
    torch.testing.assert_close(
        ours.encode_text(["a cat"]), theirs.encode_text(tokens, normalize=True).detach(), atol=1e-5, rtol=1e-4
    )


@pytest.fixture
def locked(recipe: Recipe, tiny_model: Callable[[str], Path]) -> Recipe:
    """The recipe for a model whose image tower is locked; it has batch normalisation."""
    init = str(tiny_model("timm"))
    return replace(recipe, arch=None, init=init, lock_image=True, colour=0.2, learning_rate=1e-3)


def trained_plainly(recipe: Recipe) -> tuple[list[float], dict[str, Tensor]]:
    """The slow twin of a locked image tower: every picture and every caption is encoded anew for every batch."""
    spec = find_model(recipe.init or "")
    model, tokenizer = new_model(spec), load_tokenizer(spec)
    model.visual.eval().requires_grad_(False)
    model.text.train()
    sampling = Sampling(
        read_prompts(recipe.prompts), spec.preprocess, recipe.batch_size, crop_scale=1.0, flip=False, colour=0.0
    )
    pairs = read_pairs(recipe.data, holdout=recipe.holdout)
    steps = recipe.epochs * pairs.steps(recipe.batch_size)
    trained = [*model.text.parameters(), model.logit_scale]
    matrices, others = ([p for p in trained if (p.ndim >= 2) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, recipe.beta2), eps=1e-6)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (spec.preprocess.mean, spec.preprocess.std))
    losses: list[float] = []
    for batch in (batch for epoch in range(recipe.epochs) for batch in pairs.batches(sampling, epoch=epoch)):
        images = F.normalize(first_output(model.visual((torch.from_numpy(batch.pictures) / 255 - mean) / std)), dim=-1)
        texts = F.normalize(first_output(model.text(tokenizer(list(batch.captions)))), dim=-1)
        positives, counts = torch.from_numpy(batch.positives), torch.from_numpy(batch.pair_weights)
        loss = contrastive_loss(images, texts, positives, model.logit_scale.exp(), counts)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(len(losses), steps, recipe)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


def test_encoding_pictures_once_gives_the_same_training_as_encoding_each_batch(locked: Recipe, tmp_path: Path) -> None:
    (tmp_path / "toys" / "red" / "3.png").write_bytes(b"nonsense")
    losses: list[float] = []
    train(locked, tmp_path / "out", progress=lambda e: losses.append(e.loss) if isinstance(e, StepDone) else None)
    expected, plain = trained_plainly(locked)

    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0]
    for name, tensor in weights(tmp_path / "out").items():
        torch.testing.assert_close(tensor, plain[name], atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("checkpoint_seconds", "encoded"), [(0, [32, 40]), (3600, [32, 32, 40])])
def test_a_run_killed_while_it_encodes_and_while_it_learns_ends_bit_for_bit_as_an_undisturbed_one(
    locked: Recipe, tmp_path: Path, checkpoint_seconds: float, encoded: list[int]
) -> None:
    train(locked, tmp_path / "whole")
    done: list[int] = []
    out = tmp_path / "killed"

    def kill_while_encoding(event: Event) -> None:
        assert isinstance(event, EncodingProgress)
        done.append(event.done)
        raise Killed

    def count(event: Event) -> None:
        if isinstance(event, EncodingProgress):
            done.append(event.done)
        if isinstance(event, StepDone) and (event.epoch, event.step) == (1, 3):
            raise Killed

    with pytest.raises(Killed):
        train(locked, out, checkpoint_seconds=checkpoint_seconds, progress=kill_while_encoding)
    with pytest.raises(Killed):
        train(locked, out, checkpoint_seconds=checkpoint_seconds, progress=count)
    train(locked, out, checkpoint_seconds=checkpoint_seconds, progress=count_none)

    assert done == encoded
    assert_same(weights(tmp_path / "whole"), weights(out))
    assert (out / FEATURES_FILE).read_bytes() == (tmp_path / "whole" / FEATURES_FILE).read_bytes()


def count_none(event: Event) -> None:
    assert not isinstance(event, EncodingProgress)


def test_the_held_out_pictures_are_measured_by_the_same_embeddings(locked: Recipe, tmp_path: Path) -> None:
    locked = replace(locked, holdout=None)
    (first, *_) = train(locked, tmp_path / "out")

    assert (first.epoch, first.images) == (0, 8)
    assert first.top1 == share_right(locked, locked.init or "")
    assert train(replace(locked, lock_image=False, lock_text=True), tmp_path / "anew")[0] == first


def share_right(recipe: Recipe, model: str) -> float:
    """The share of the pictures kept aside for which a model names the right label, one picture at a time."""
    clip = load_model(find_model(model), "cpu", "fp32")
    pairs = read_pairs(recipe.data, holdout=recipe.holdout)
    texts = clip.encode_text([f"a photo of a {label}." for label in pairs.labels]).numpy()
    classes = class_embeddings(texts, [1] * len(pairs.labels))
    right = [
        (clip.encode_images(pixels).numpy() @ classes.T).argmax() == place
        for pixels, place in pairs.held_out_batches(clip.spec.preprocess, batch_size=1)
    ]
    return float(np.mean(right))


@pytest.fixture
def taught(recipe: Recipe, tmp_path: Path) -> Recipe:
    """A recipe that begins from a model that knows the colours, and keeps half of the pictures aside."""
    known = replace(recipe, epochs=30, learning_rate=1e-3, prompts="photo", holdout=0)
    train(known, tmp_path / "taught")
    return replace(known, arch=None, init=str(tmp_path / "taught"), epochs=2, holdout=2)


def test_training_that_does_harm_is_named(taught: Recipe, tmp_path: Path) -> None:
    notes: list[str] = []
    evaluations = train(replace(taught, learning_rate=0.1), tmp_path / "out", note=notes.append)

    before, after = (f"{evaluations[i].top1:.1%}" for i in (0, -1))
    assert evaluations[0].top1 > 0.8
    assert evaluations[-1].top1 < 0.6
    assert notes[0] == (
        f"training made the model worse: right for {before} of the held-out images before, {after} now; "
        "use --learning-rate 0.01, or fewer --epochs"
    )


def test_the_chosen_learning_rate_does_no_harm_and_is_part_of_the_recipe(taught: Recipe, tmp_path: Path) -> None:
    notes: list[str] = []
    rates: list[float] = []
    chosen = replace(taught, learning_rate=None)
    evaluations = train(
        chosen,
        tmp_path / "out",
        note=notes.append,
        progress=lambda event: rates.append(event.learning_rate) if isinstance(event, StepDone) else None,
    )

    assert max(rates) == chosen_rate(chosen) < chosen_rate(Recipe(data=(), arch="x")) == 1e-3
    assert evaluations[-1].top1 >= evaluations[0].top1 - 0.05
    assert [note for note in notes if "worse" in note] == []
    train(replace(taught, learning_rate=chosen_rate(chosen)), tmp_path / "out")
    with pytest.raises(InputError, match=r"was trained with learning-rate .* \(now 0\.001\)"):
        train(replace(taught, learning_rate=1e-3), tmp_path / "out")


def test_a_model_to_begin_from_keeps_its_batch_statistics(
    recipe: Recipe, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    before = weights(tiny_model("timm"))
    gentle = replace(recipe, arch=None, init=str(tiny_model("timm")), learning_rate=1e-7)

    first, *_, last = train(gentle, tmp_path / "out")

    after = weights(tmp_path / "out")
    statistics = [name for name in before if "running_" in name or "num_batches" in name]
    assert len(statistics) > 10
    assert_same({name: before[name] for name in statistics}, {name: after[name] for name in statistics})
    assert not torch.equal(before["visual.trunk.conv1.0.weight"], after["visual.trunk.conv1.0.weight"])
    assert last.top1 == first.top1


def test_a_run_that_goes_on_after_the_first_measurement_compares_with_it(taught: Recipe, tmp_path: Path) -> None:
    harmful = replace(taught, learning_rate=0.1)
    notes: list[str] = []
    with pytest.raises(Killed):
        train(harmful, tmp_path / "out", progress=kill_at_step_two, checkpoint_seconds=0)

    evaluations = train(harmful, tmp_path / "out", note=notes.append)

    assert [evaluation.epoch for evaluation in evaluations] == [0, 1, 2]
    assert notes[0].startswith("training made the model worse: ")


def kill_at_step_two(event: Event) -> None:
    if isinstance(event, StepDone) and event.step == 2:
        raise Killed


def test_a_figure_of_few_pictures_comes_with_its_interval(taught: Recipe, tmp_path: Path) -> None:
    notes: list[str] = []
    (*_, last) = train(replace(taught, learning_rate=1e-6, epochs=1), tmp_path / "out", note=notes.append)

    assert last.images < 40
    assert len(notes) == 1
    right = round(last.top1 * last.images)
    message = rf"held-out: {right} of {last.images} right; with so few images the true share may be anywhere from "
    low, high = re.fullmatch(message + r"(\d+) to (\d+)%", notes[0]).groups()  # type: ignore[union-attr]
    assert int(low) < 100 * last.top1 <= int(high)


@pytest.mark.parametrize("labels", [1, 4])
def test_data_too_few_to_measure_on_are_named(recipe: Recipe, tmp_path: Path, labels: int) -> None:
    few = tmp_path / "few"
    for colour in list(COLOURS)[:labels]:
        (few / colour).mkdir(parents=True)
        for number in range(4 if labels == 1 else 1):
            shutil.copy(tmp_path / "toys" / colour / f"{number}.png", few / colour)
    notes: list[str] = []

    assert train(replace(recipe, data=(str(few),), holdout=None, epochs=1), tmp_path / "out", note=notes.append) == []
    assert notes == ["held-out: no images to measure on; give at least five labelled images with two labels"]


def test_equal_captions_are_encoded_once_and_learn_as_often(recipe: Recipe, tmp_path: Path) -> None:
    spec = find_architecture(recipe.arch or "")
    torch.manual_seed(0)
    model = new_model(spec)
    encoder = PairEncoder(model, spec, "cpu", "fp32")
    captions = ["red", "a blue thing", "red", "red", "white"]

    def gradients(rows: Tensor) -> Tensor:
        model.zero_grad()
        (rows * embeddings(5, 3).repeat(1, 4)[:, :16]).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.text.parameters() if p.grad is not None])

    one_by_one = torch.cat([encoder.texts([caption]) for caption in captions])
    torch.testing.assert_close(encoder.texts(captions), one_by_one)
    torch.testing.assert_close(gradients(encoder.texts(captions)), gradients(one_by_one))


def test_a_locked_text_tower_stays_as_it_is(recipe: Recipe, tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    change = {"init": str(tiny_model("custom-text")), "lock_text": True, "accumulate": 2, "epochs": 1}
    before = weights(tiny_model("custom-text"))

    train(replace(recipe, arch=None, **change), tmp_path / "out")

    after = weights(tmp_path / "out")
    assert [name for name in before if not torch.equal(before[name], after[name]) and name.startswith("text.")] == []
    assert not torch.equal(before["visual.conv1.weight"], after["visual.conv1.weight"])


def test_bf16_trains(recipe: Recipe, tmp_path: Path) -> None:
    losses: list[float] = []

    train(
        replace(recipe, precision="bf16"),
        tmp_path / "out",
        progress=lambda event: losses.append(event.loss) if isinstance(event, StepDone) else None,
    )

    assert all(math.isfinite(loss) for loss in losses)


def test_the_default_precision_is_bf16_where_the_processor_multiplies_it_and_fp32_elsewhere(
    recipe: Recipe, tmp_path: Path
) -> None:
    if platform.machine() == "x86_64" and sys.platform == "linux":
        assert has_bf16("cpu") == (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())

    train(replace(recipe, precision="auto"), tmp_path / "auto")
    train(replace(recipe, precision="bf16" if has_bf16("cpu") else "fp32"), tmp_path / "named")

    assert_same(weights(tmp_path / "auto"), weights(tmp_path / "named"))


def test_a_picture_that_cannot_be_read_costs_one_line_and_nothing_else(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "toys" / "red" / "3.png").write_bytes(b"\x89PNG nonsense")
    notes: list[str] = []

    train(recipe, tmp_path / "out", note=notes.append)

    assert len(notes) == 2
    assert notes[1].startswith("held-out: ")
    assert "red/3.png: image skipped: " in notes[0]


def test_scalars_are_written_for_tensorboard(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(recipe, tmp_path / "out", log_dir=tmp_path / "log")

    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "learning rate", "logit scale", "held-out top-1"}
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 9))


def test_nan_or_infinity_ends_the_run(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"epoch 1, step \d: the loss is (nan|inf); use a smaller --learning-rate"):
        train(replace(recipe, learning_rate=1e30, warmup=0, clip_norm=1e30), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": None}, "give either --arch"),
        ({"init": "tiny"}, "give either --arch"),
        ({"arch": None, "init": "tiny", "lock_image": True}, "--colour: does nothing with --lock-image"),
        ({"lock_image": True}, "an untrained tower would stay untrained"),
        ({"epochs": 0}, "--epochs: 0 is not above 0"),
        ({"batch_size": 1}, "--batch-size: needs at least two"),
        ({"seed": -1}, "--seed: -1 is below 0"),
        ({"data": ("nowhere",), "arch": None, "init": "no model"}, "no such file or folder: 'nowhere'"),
        ({"start_size": 7}, "--start-size: 7 is below 8 pixels"),
        ({"weight_decay": -0.1}, "--weight-decay: -0.1 is below 0"),
        ({"precision": "fp8"}, "--precision: 'fp8' is not one of auto, fp32, bf16, fp16"),
        ({"precision": "fp16"}, "--precision fp16: trains on CUDA only"),
        ({"broader": 1.5}, "--broader: 1.5 is not between 0 and 1"),
        ({"data": ("nowhere",)}, "no such file or folder: 'nowhere'"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_written(
    recipe: Recipe, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(replace(recipe, **change), tmp_path / "out", device="cpu")

    assert not (tmp_path / "out").exists()


def test_the_folder_of_the_data_is_not_written_to(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(recipe.data[0])

    with pytest.raises(InputError, match=r"--out .*link: is the data folder; choose another"):
        train(recipe, tmp_path / "link", device="cpu")


def test_an_unknown_architecture_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--arch 'nothing': no such file, and open_clip has no architecture"):
        train(replace(recipe, arch="nothing"), tmp_path / "out")


def test_an_architecture_that_cannot_be_built_is_named(recipe: Recipe, tmp_path: Path) -> None:
    odd = ARCHITECTURE | {"vision_cfg": {**ARCHITECTURE["vision_cfg"], "width": 33}}
    Path(recipe.arch or "").write_text(json.dumps({"model_cfg": odd}))

    with pytest.raises(ModelError, match=r"arch\.json: cannot be built: .*; compare its 'model_cfg'"):
        train(recipe, tmp_path / "out")


def test_the_tokenizer_of_an_architecture_may_be_fetched() -> None:
    assert not find_architecture("ViT-B-16-SigLIP").offline


def test_a_device_that_is_not_there_is_reported_before_anything_is_read(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--device cuda:99: torch finds no such device here"):
        train(replace(recipe, data=("nowhere",)), tmp_path / "out", device="cuda:99")


def test_a_log_folder_that_cannot_be_made_is_an_output_error(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "log").write_text("a file")

    with pytest.raises(OutputError, match=r"--log-dir .*log: cannot be written: file exists; use another"):
        train(recipe, tmp_path / "out", log_dir=tmp_path / "log")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_a_log_that_can_no_longer_be_written_is_an_output_error(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    others = set(threading.enumerate())

    with pytest.raises(OutputError, match=r"--log-dir .*log: cannot be written: no such file or directory"):
        train(
            recipe,
            tmp_path / "out",
            log_dir=tmp_path / "log",
            progress=lambda event: shutil.rmtree(tmp_path / "log", ignore_errors=True),
        )
    for thread in set(threading.enumerate()) - others:  # TensorBoard's own raises the same error a moment later
        thread.join(timeout=10)
