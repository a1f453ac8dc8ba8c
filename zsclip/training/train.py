"""Contrastive training of a small CLIP: one loop that can be killed at any moment and goes on where it was."""

import json
import math
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zsclip.answers.classifier import class_embeddings
from zsclip.answers.scores import cosines
from zsclip.errors import InputError, ModelError, OutputError, first_line
from zsclip.kept.cache import fingerprint
from zsclip.measure.metrics import differs, share
from zsclip.models.find import find_architecture, find_model, tokenizer_folder
from zsclip.models.spec import CONFIG_FILE, TOKENIZER_FILES, ModelSpec
from zsclip.models.text import encode_ids, first_output, used_lengths
from zsclip.models.torch_encoder import check_device, has_bf16, load_tokenizer
from zsclip.models.towers import new_model
from zsclip.pictures.sources import check_inputs
from zsclip.pixels.processors import available_cpus
from zsclip.training.augment import Sampling
from zsclip.training.checkpoint import Evaluation, Run, averaged, resume, save_checkpoint, write_tensors
from zsclip.training.features import FEATURES_FILE, Encoding, build_features
from zsclip.training.pairs import HELD_OUT, Batch, Pairs, read_pairs
from zsclip.words.labels import Label
from zsclip.words.prompts import expand, read_prompts

CHECKPOINT_FILE = "checkpoint.safetensors"
WEIGHTS_FILE = "open_clip_model.safetensors"
MAX_LOGIT_SCALE = 100.0  # Radford et al. 2021, section 2.5: more is unstable
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_EVALUATION_BATCH = 256
_RATE_FROM_NOTHING = 1e-3
_RATE_FROM_A_MODEL = 1e-5  # what CLIP is fine-tuned with: Wortsman et al. 2022 (WiSE-FT), Goyal et al. 2023 (FLYP)
# What is done to pictures as they are drawn. A locked image tower sees each once, and whole.
_PICTURE_OPTIONS = (
    "crop_scale", "flip", "colour", "blur", "sharpen", "chroma", "saturation", "start_size",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """All that decides what is learnt; a checkpoint goes on only with the recipe it was begun with.

    data: Parquet shards, class folders, CSV files; holdout: keep every Nth pair aside to measure on, 0 for none; None:
    see `read_pairs`.
    arch: a JSON file with a `model_cfg` or open_clip's name of an architecture, to begin from nothing; init: a model
    to begin from instead. lock_image, lock_text: leave that tower as it is. With lock_image each picture is encoded
    once, whole: no crops, tints or other changes, and no growing.
    batch_size: pairs that are compared with each other; accumulate: parts it is encoded in, to save memory.
    learning_rate: None chooses one, see `chosen_rate`.
    warmup: share of all steps until the full learning rate, which then falls along a cosine.
    precision: fp32, bf16, fp16 (CUDA only), or auto: bf16 where the device multiplies it itself, else fp32.
    average: how much of the running average of the weights a step keeps, such as 0.999, 0 for none; what is saved and
    measured is the average.
    start_size: side in pixels of the first epochs' pictures, which then grow to the model's own; 0 for no growing.
    prompts, synonyms, kinds, kinds_are_true, across, all_labels, crop_scale, flip, colour, blur, sharpen, chroma,
    saturation: see `sampling.Sampling`.
    weights: fp16 or fp32, of the saved model.
    """

    data: tuple[str, ...]
    arch: str | None = None
    init: str | None = None
    lock_image: bool = False
    lock_text: bool = False
    epochs: int = 10
    batch_size: int = 256
    accumulate: int = 1
    learning_rate: float | None = None
    weight_decay: float = 0.1
    beta2: float = 0.98
    warmup: float = 0.05
    clip_norm: float = 1.0
    precision: str = "auto"
    average: float = 0.0
    start_size: int = 0
    prompts: str = "general"
    synonyms: float = 0.2
    kinds: float = 0.2
    kinds_are_true: bool = False
    across: float = 1.0
    all_labels: bool = False
    crop_scale: float = 0.35
    flip: bool = True
    colour: float = 0.2
    blur: float = 0.0
    sharpen: float = 0.0
    chroma: float = 0.0
    saturation: float = 0.0
    holdout: int | None = None
    seed: int = 0
    weights: str = "fp16"


@dataclass(frozen=True)
class Progress:
    """One step done.

    step: of `steps` in the epoch, both from 1; size: height and width of the pictures; seconds_left: of training,
    without evaluations.
    """

    epoch: int
    step: int
    steps: int
    size: tuple[int, int]
    loss: float
    learning_rate: float
    logit_scale: float
    images_per_second: float
    seconds_left: float


Event = Progress | Evaluation | Encoding


def contrastive_loss(
    image_embeddings: Tensor, text_embeddings: Tensor, positives: Tensor, logit_scale: Tensor, pair_weights: Tensor
) -> Tensor:
    """Compare every picture with every text, and ask for the true ones.

    Figure 3 of Radford et al. 2021 (CLIP), with a row's target spread evenly over all its positives as in Yang et al.
    2022 (UniCL). Where each pair is its own only positive this is plain CLIP.

    Args:
        image_embeddings: (B, D) float32, rows of length 1.
        text_embeddings: (T, D) float32, rows of length 1; row i < B belongs to image i, with the others images are only
            compared.
        positives: (B, T) bool, whether text j is to be told of image i; the diagonal is true.
        logit_scale: () the multiplier, already exponentiated.
        pair_weights: (B, T) float32, how much image i and text j count for each other; 1 everywhere is plain.

    Returns:
        () the mean of the two cross-entropies.
    """
    logits = logit_scale * image_embeddings @ text_embeddings.T  # (B, T)
    logits = logits + pair_weights.clamp(min=1e-30).log()  # factors in the softmax; -inf * 0 would be NaN
    targets = positives.to(logits.dtype)
    image_loss = F.cross_entropy(logits, targets / targets.sum(dim=1, keepdim=True))
    own, targets = logits[:, : len(logits)].T, targets[:, : len(logits)].T  # (B, B)
    text_loss = F.cross_entropy(own, targets / targets.sum(dim=1, keepdim=True))
    return (image_loss + text_loss) / 2


def chosen_rate(recipe: Recipe) -> float:
    """Give the learning rate of a recipe that names none."""
    return _RATE_FROM_NOTHING if recipe.init is None else _RATE_FROM_A_MODEL


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Give the learning rate of a step, counted from 0 over all epochs: linear warm-up, then a cosine to 0."""
    assert recipe.learning_rate is not None
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def picture_size(epoch: int, size: tuple[int, int], recipe: Recipe) -> tuple[int, int]:
    """Give the height and width of an epoch's pictures: from `start_size` evenly up, whole for the last third.

    Small pictures cost less and teach almost as much at first (Tan and Le 2021, section 4). Multiples of 8, in which
    a tower loses no border when it halves them. The last epoch is always whole.
    """
    start = recipe.start_size
    grown = epoch / (recipe.epochs * 2 / 3)
    if not start or grown >= 1 or epoch == recipe.epochs - 1:
        return size
    height, width = (8 * round((start + grown * (side - start)) / 8) for side in size)
    return height, width


def train(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    log_dir: Path | None = None,
    checkpoint_seconds: float = 180,
    progress: Callable[[Event], None] = lambda event: None,
    note: Callable[[str], None] = lambda message: None,
) -> list[Evaluation]:
    """Train a model, or go on with the training that `out` holds the checkpoint of, and save it in `out`.

    Args:
        device: "auto" takes CUDA, then the CPU. threads: for decoding, not part of the recipe, nor is the device.
        log_dir: where to write TensorBoard scalars.
        progress: called with every step, every evaluation, and every batch that a locked image tower encodes; an
            exception it raises ends the run at once.
        note: called with one line about each thing that is passed over, or that the user should know in the end.

    Raises:
        InputError: the recipe or the data are wrong, or `out` holds a checkpoint of another recipe.
        ModelError: the device is not there, the model to begin from cannot be had, or training diverged.
        OutputError: the disk is full, and the checkpoint before is kept; or a folder cannot be written.
    """
    _check(recipe)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    check_device(device)
    if recipe.precision == "auto":
        recipe = replace(recipe, precision="bf16" if has_bf16(device) else "fp32")
    if recipe.precision == "fp16" and not device.startswith("cuda"):
        raise InputError("--precision fp16: trains on CUDA only; use bf16 or fp32")
    if recipe.learning_rate is None:
        recipe = replace(recipe, learning_rate=chosen_rate(recipe))
    check_inputs(recipe.data)
    if log_dir is not None:
        _make_log_folder(log_dir)
    threads = threads or available_cpus()
    prompts = read_prompts(recipe.prompts)
    spec = find_architecture(recipe.arch) if recipe.arch is not None else find_model(recipe.init or "")
    pairs = read_pairs(recipe.data, holdout=recipe.holdout, note=note)
    if recipe.holdout is None and not len(pairs.held_out):
        note("held-out: nothing is kept aside to measure on; that takes five labelled pictures and two labels")
    sampling = Sampling(
        prompts, spec.preprocess, batch_size=recipe.batch_size, seed=recipe.seed, kinds=recipe.kinds,
        synonyms=recipe.synonyms, kinds_are_true=recipe.kinds_are_true, across=recipe.across,
        all_labels=recipe.all_labels, crop_scale=recipe.crop_scale, flip=recipe.flip, colour=recipe.colour,
        blur=recipe.blur, sharpen=recipe.sharpen, chroma=recipe.chroma, saturation=recipe.saturation,
    )  # fmt: skip
    identity = asdict(recipe) | {
        "data": pairs.digest,
        "prompts": fingerprint(prompts.templates, {key: list(own) for key, own in prompts.prompts.items()}),
        "model": fingerprint(spec.architecture, asdict(spec.preprocess), spec.digest),
    }
    for name in ("arch", "init"):  # the same model may lie in another place
        del identity[name]
    if recipe.holdout is None:
        identity["holdout"] = "auto"
    _make_folder(out)
    checkpoint = out / CHECKPOINT_FILE
    run = _begin(recipe, spec, identity, pairs.steps(recipe.batch_size), device)
    if checkpoint.exists():
        resume(run, checkpoint)
    encoder = _Encoder(run.model, spec, device, recipe.precision)
    if recipe.start_size:
        _check_start_size(encoder, recipe, spec)
    features = None  # (N, D), of a locked image tower
    if recipe.lock_image and run.epoch < recipe.epochs:
        features = build_features(
            pairs, spec, out / FEATURES_FILE, device=device, precision=recipe.precision, threads=threads,
            checkpoint_seconds=checkpoint_seconds, progress=progress, note=note,
        )  # fmt: skip
    with _open_log(log_dir, run.done) as log, _held_signals() as held:
        saved = time.monotonic()

        def measure() -> Tensor:
            """Save the run, with what it knows of the pictures kept aside: (n,) bool, whether each is right."""
            nonlocal saved
            right = _right_answers(run, encoder, pairs, spec, threads, features)
            if len(right):
                top1 = int(right.sum()) / len(right)
                run.evaluations.append(Evaluation(run.epoch, top1, len(right), len(pairs.labels)))
                log(run.done, {"held-out top-1": top1})
                if not run.done:
                    run.right_at_start = right
            save_checkpoint(run, checkpoint)
            saved = time.monotonic()
            if len(right):
                progress(run.evaluations[-1])
            _let_go(held)
            return right

        right = measure() if not run.done and not run.evaluations else None
        while run.epoch < recipe.epochs:
            _set_training(run.model, recipe)
            clock = deque([(time.monotonic(), 0)], maxlen=50)
            size = picture_size(run.epoch, spec.preprocess.size, recipe)
            sampling = replace(sampling, preprocess=replace(spec.preprocess, size=size))
            for batch in pairs.batches(sampling, epoch=run.epoch, step=run.step, threads=threads, embeddings=features):
                rate = learning_rate(run.done, recipe.epochs * run.steps, recipe)
                loss = _train_step(run, encoder, batch, rate, recipe)
                run.step += 1
                clock.append((time.monotonic(), clock[-1][1] + len(batch.pictures)))
                event = _progress(run, loss, rate, clock, spec, recipe)
                log(run.done, {"loss": loss, "learning rate": rate, "logit scale": event.logit_scale})
                progress(event)
                is_due = bool(held) or time.monotonic() - saved >= checkpoint_seconds
                if is_due and run.step < run.steps:  # the end of the epoch, with its evaluation, has its own
                    save_checkpoint(run, checkpoint)
                    saved = time.monotonic()
                    _let_go(held)
            run.epoch, run.step = run.epoch + 1, 0
            right = measure()
        _write_model(run, spec, out, recipe.weights)
    if right is not None and len(right):
        _judge(run, right, note)
    return run.evaluations


def _judge(run: Run, right: Tensor, note: Callable[[str], None]) -> None:
    """Note what the figures do not say by themselves: that they are of few pictures, or that training did harm."""
    first = run.right_at_start
    if len(first) == len(right):
        gained, lost = int((right & ~first).sum()), int((first & ~right).sum())
        if lost > gained and differs(gained, lost):
            shares = (
                f"right for {first.float().mean():.1%} of the held-out pictures before, {right.float().mean():.1%} now"
            )
            rate = run.identity["learning_rate"]
            note(f"training made the model worse: {shares}; use --learning-rate {rate / 10:.1g}, or fewer --epochs")
    if len(right) < HELD_OUT:
        count = int(right.sum())
        figure = share(count, len(right))
        limits = f"the true share may be anywhere from {100 * figure.low:.0f} to {figure.high:.0%}"
        note(f"held-out: {count} of {len(right)} right; with so few pictures {limits}")


def _check(recipe: Recipe) -> None:
    if (recipe.arch is None) == (recipe.init is None):
        raise InputError("train: give either --arch, to begin from nothing, or --init, a model to begin from")
    if recipe.init is None and (recipe.lock_image or recipe.lock_text):
        raise InputError("--lock-image, --lock-text: an untrained tower would stay so; give --init MODEL")
    if recipe.lock_image and recipe.lock_text:
        raise InputError("--lock-image, --lock-text: nothing is left to train; lock one of the two")
    for field in fields(recipe):
        if recipe.lock_image and field.name in _PICTURE_OPTIONS and getattr(recipe, field.name) != field.default:
            name = f"--{field.name.replace('_', '-')}"
            raise InputError(f"{name}: does nothing with --lock-image, which encodes each picture once; leave it out")
    for name, choices in (("precision", ("auto", "fp32", "bf16", "fp16")), ("weights", ("fp16", "fp32"))):
        if getattr(recipe, name) not in choices:
            raise InputError(f"--{name}: {getattr(recipe, name)!r} is not one of {', '.join(choices)}")
    for name in ("epochs", "batch_size", "accumulate", "learning_rate", "clip_norm"):
        if getattr(recipe, name) is not None and not getattr(recipe, name) > 0:
            raise InputError(f"--{name.replace('_', '-')}: {getattr(recipe, name)!r} is not above 0")
    if not recipe.weight_decay >= 0:
        raise InputError(f"--weight-decay: {recipe.weight_decay!r} is below 0")
    if recipe.start_size and recipe.start_size < 8:
        raise InputError(f"--start-size: {recipe.start_size!r} is below 8 pixels; give more, or 0 to leave it out")
    for name in (
        "warmup", "average", "synonyms", "kinds", "across", "crop_scale", "colour", "blur", "sharpen", "chroma",
        "saturation", "beta2",
    ):  # fmt: skip
        if not 0 <= getattr(recipe, name) <= 1:
            raise InputError(f"--{name.replace('_', '-')}: {getattr(recipe, name)!r} is not between 0 and 1")
    if recipe.seed < 0:
        raise InputError(f"--seed: {recipe.seed} is below 0")
    if recipe.batch_size < 2 or recipe.accumulate > recipe.batch_size:
        raise InputError("--batch-size: needs at least two pairs to compare, and one for each --accumulate part")


@torch.no_grad()
def _check_start_size(encoder: "_Encoder", recipe: Recipe, spec: ModelSpec) -> None:
    """Try every size that is to come: a tower may have a position for each part of a picture, or need a multiple."""
    own = spec.preprocess.size
    if recipe.start_size >= min(own):
        raise InputError(f"--start-size {recipe.start_size}: not below the model's own {min(own)} pixels; give less")
    encoder.model.eval()
    for height, width in {picture_size(epoch, own, recipe) for epoch in range(recipe.epochs)} - {own}:
        try:
            encoder.images(np.zeros((1, 3, height, width), np.uint8))
        except (AssertionError, RuntimeError, ValueError) as e:  # timm asserts, torch raises
            why = f"this image tower cannot take {height} x {width} pixels: {first_line(e)}"
            raise InputError(f"--start-size {recipe.start_size}: {why}; leave it out") from e


def _train_step(run: Run, encoder: "_Encoder", batch: Batch, rate: float, recipe: Recipe) -> float:
    """Learn from one batch; give its loss.

    With `accumulate` the batch is encoded in parts, once without gradients to compare all pairs with all, and once
    more for the gradient of each part (Gao et al. 2021, GradCache): every pair has the negatives of the whole batch.
    Only batch normalisation notices, which sees the parts one by one.
    """
    if len(batch.pictures) < 2:  # its pictures cannot be read
        return math.nan
    seed = np.random.SeedSequence((recipe.seed, run.epoch, run.step)).generate_state(1, np.uint32).item()
    count = min(recipe.accumulate, len(batch.pictures))  # some may not have been readable
    parts = list(zip(_parts(len(batch.pictures), count), _parts(len(batch.captions), count), strict=True))

    def encode_part(number: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed + number)  # dropout depends on the place in the data alone: nothing to checkpoint
        of_images, of_texts = parts[number]
        return encoder.images(batch.pictures[of_images]), encoder.texts(batch.captions[of_texts])

    positives = torch.from_numpy(batch.positives).to(encoder.device)  # (B, T)
    pair_weights = torch.from_numpy(batch.pair_weights).to(encoder.device)  # (B, T)
    log_scale = run.model.logit_scale
    run.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad() if len(parts) > 1 else nullcontext():
        embeddings = [encode_part(number) for number in range(len(parts))]
    images, texts = (torch.cat(side) for side in zip(*embeddings, strict=True))  # (B, D), (T, D)
    if len(parts) > 1:
        images.requires_grad_()
        texts.requires_grad_()
    loss = contrastive_loss(images, texts, positives, log_scale.exp(), pair_weights)
    if not loss.isfinite():
        raise _diverged(run, f"the loss is {loss.item()}")
    run.scaler.scale(loss).backward()
    if len(parts) > 1:
        assert images.grad is not None
        assert texts.grad is not None
        for number, (of_images, of_texts) in enumerate(parts):
            gradients = (images.grad[of_images], texts.grad[of_texts])
            trained = [pair for pair in zip(encode_part(number), gradients, strict=True) if pair[0].requires_grad]
            torch.autograd.backward([side for side, _ in trained], [gradient for _, gradient in trained])
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.scaler.unscale_(run.optimizer)
    trained_ones = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(trained_ones, recipe.clip_norm)
    if not norm.isfinite() and not run.scaler.is_enabled():  # else the scaler leaves such a step out
        raise _diverged(run, f"the gradient is {norm.item()}")
    run.scaler.step(run.optimizer)
    run.scaler.update()
    with torch.no_grad():
        log_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
    if run.average:
        _update_average(run, recipe)
    return loss.item()


def _parts(count: int, parts: int) -> list[slice]:
    """Cut so many rows into parts of about the same size."""
    edges = [part * count // parts for part in range(parts + 1)]
    return [slice(*ends) for ends in pairwise(edges)]


def _diverged(run: Run, what: str) -> ModelError:
    where = f"epoch {run.epoch + 1}, step {run.step + 1}"
    return ModelError(f"{where}: {what}; use a smaller --learning-rate or --precision fp32")


def _update_average(run: Run, recipe: Recipe) -> None:
    keep = min(recipe.average, (1 + run.done) / (10 + run.done))  # else the untrained beginning stays in it for long
    own = run.model.state_dict()
    for name, average in run.average.items():
        if average.is_floating_point():
            average.lerp_(own[name], 1 - keep)
        else:
            average.copy_(own[name])


def _progress(
    run: Run, loss: float, rate: float, clock: deque[tuple[float, int]], spec: ModelSpec, recipe: Recipe
) -> Progress:
    (begun, before), (now, images) = clock[0], clock[-1]
    seconds_a_step = (now - begun) / (len(clock) - 1)
    size, *later = (picture_size(epoch, spec.preprocess.size, recipe) for epoch in range(run.epoch, recipe.epochs))
    steps_left = run.steps - run.step + run.steps * sum(map(math.prod, later)) / math.prod(size)  # at today's size
    return Progress(
        epoch=run.epoch + 1,
        step=run.step,
        steps=run.steps,
        size=size,
        loss=loss,
        learning_rate=rate,
        logit_scale=run.model.logit_scale.exp().item(),
        images_per_second=(images - before) / max(now - begun, 1e-9),
        seconds_left=seconds_a_step * steps_left,
    )


class _Encoder:
    """Pixels and captions -> rows of length 1, with gradients."""

    def __init__(self, model: Any, spec: ModelSpec, device: str, precision: str) -> None:
        self.model = model
        self.device = device
        self.precision = precision
        self._mean = torch.tensor(spec.preprocess.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(spec.preprocess.std, device=device).view(3, 1, 1)
        tokenizer = load_tokenizer(spec)
        # Captions come again and again, and are cleaned in slow Python each time.
        self._ids = lru_cache(maxsize=100_000)(lambda caption: tokenizer([caption])[0])

    def images(self, pictures: np.ndarray) -> Tensor:
        """Encode (B, 3, H, W) uint8, or take (B, D) embeddings as they are. (B, D) float32, rows of length 1."""
        if pictures.ndim == 2:
            return torch.from_numpy(pictures).to(self.device)
        x = (torch.from_numpy(pictures).to(self.device).float() / 255 - self._mean) / self._std  # (B, 3, H, W)
        with self._autocast():
            features = first_output(self.model.visual(x))
        return F.normalize(features.float(), dim=-1)

    def texts(self, captions: Sequence[str]) -> Tensor:
        """Encode B captions, each once, no longer than the longest needs. (B, D) float32, rows of length 1."""
        places: dict[str, int] = {}  # a batch of 256 pictures of ten labels has far fewer captions than pictures
        rows = [places.setdefault(caption, len(places)) for caption in captions]
        ids = torch.stack([self._ids(caption) for caption in places])  # (distinct, context_length)
        ids = ids[:, : int(used_lengths(self.model.text, ids).max())]
        with self._autocast():
            features = encode_ids(self.model.text, ids.to(self.device))
        # Not by an index, whose gradient is summed up in any order; this one's a killed run computes to the same bit.
        return F.embedding(torch.tensor(rows, device=self.device), F.normalize(features.float(), dim=-1))

    def _autocast(self) -> torch.autocast:
        kind = self.device.partition(":")[0]
        return torch.autocast(kind, _DTYPES[self.precision], enabled=self.precision != "fp32")


@torch.no_grad()
def _right_answers(
    run: Run,
    encoder: _Encoder,
    pairs: Pairs,
    spec: ModelSpec,
    threads: int,
    features: NDArray[np.float32] | None,
) -> Tensor:
    """Ask the model for the labels of the pictures kept aside. (n,) bool, whether each answer is right."""
    right = [torch.zeros(0, dtype=torch.bool)]
    if not len(pairs.held_out) or len(pairs.labels) < 2:
        return right[0]
    prompts = expand([Label(label) for label in pairs.labels], read_prompts("photo"))
    flat = [prompt for some in prompts for prompt in some]
    with averaged(run):
        run.model.eval()
        starts = range(0, len(flat), _EVALUATION_BATCH)
        embeddings = torch.cat([encoder.texts(flat[start : start + _EVALUATION_BATCH]) for start in starts])
        classes = class_embeddings(embeddings.cpu().numpy(), [len(some) for some in prompts])  # (C, D)
        for pictures, places in pairs.held_out_batches(
            spec.preprocess, batch_size=_EVALUATION_BATCH, threads=threads, embeddings=features
        ):
            if len(pictures):
                answers = cosines(encoder.images(pictures).cpu().numpy(), classes).argmax(axis=1)
                right.append(torch.from_numpy(answers == places))
    return torch.cat(right)


def _begin(recipe: Recipe, spec: ModelSpec, identity: dict[str, Any], steps: int, device: str) -> Run:
    torch.manual_seed(recipe.seed)
    model: Any = new_model(spec)
    model.visual.requires_grad_(not recipe.lock_image)
    model.text.requires_grad_(not recipe.lock_text)
    model.to(device)
    model.visual.to(memory_format=torch.channels_last)  # convolutions are 1.5-2x faster so, others do not mind
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},  # gains, biases, temperature
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, recipe.beta2), eps=1e-6, fused=True)
    scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=recipe.precision == "fp16")
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()} if recipe.average else {}
    return Run(identity, model, optimizer, scaler, average, steps)


def _set_training(model: Any, recipe: Recipe) -> None:
    """Switch to training; a locked tower keeps the batch statistics and the absence of dropout it is used with.

    A model to begin from keeps its batch statistics too: those of a few cropped pictures replaced them within fifty
    steps, and took 4 points from a small model at a learning rate that changed nothing else.
    """
    model.train()
    model.visual.train(not recipe.lock_image)
    model.text.train(not recipe.lock_text)
    if recipe.init is not None:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _write_model(run: Run, spec: ModelSpec, out: Path, dtype: str) -> None:
    """Save as a folder that open_clip and `find_model` load."""
    # Always in the form with a `text.` prefix. A softmax loss gives a bias no meaning.
    left_out = ("custom_text", "init_logit_bias", "nonscalar_logit_scale")
    architecture = {key: value for key, value in spec.architecture.items() if key not in left_out}
    preprocess = {
        key: value
        for key, value in asdict(spec.preprocess).items()
        if key != "size"  # the tower's own counts
    }
    config = {"model_cfg": architecture | {"custom_text": True}, "preprocess_cfg": preprocess}
    with averaged(run):
        tensors = {
            name: tensor.to(_DTYPES[dtype]) if tensor.is_floating_point() else tensor
            for name, tensor in run.model.state_dict().items()
        }
        write_tensors(out / WEIGHTS_FILE, tensors, {"format": "pt"})
    try:
        if spec.tokenizer.name is not None:
            for name in TOKENIZER_FILES:
                with suppress(FileNotFoundError, shutil.SameFileError):
                    shutil.copyfile(Path(tokenizer_folder(spec)) / name, out / name)
        part = out / f"{CONFIG_FILE}.part"
        part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(part, out / CONFIG_FILE)
    except OSError as e:
        raise OutputError(f"{out}: cannot be written: {e.strerror}; free some space and run again") from e


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(f"{out}: cannot be made a folder: {(e.strerror or str(e)).lower()}") from e


def _make_log_folder(log_dir: Path) -> None:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401
    except ImportError as e:
        raise InputError("--log-dir: needs TensorBoard: pip install 'zsclip[train]'") from e
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise _cannot_log(log_dir, e) from e


@contextmanager
def _open_log(log_dir: Path | None, done: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    if log_dir is None:
        yield lambda step, scalars: None
        return
    from torch.utils.tensorboard import SummaryWriter

    try:
        writer = SummaryWriter(str(log_dir), purge_step=done + 1)
    except OSError as e:
        raise _cannot_log(log_dir, e) from e

    def log(step: int, scalars: dict[str, float]) -> None:
        try:
            for name, value in scalars.items():
                writer.add_scalar(name, value, step)
        except OSError as e:  # its own thread writes; what went wrong there is raised here
            raise _cannot_log(log_dir, e) from e

    try:
        yield log
    except BaseException:
        with suppress(OSError):  # what it could not write would be raised again, in place of the reason
            writer.close()
        raise
    try:
        writer.close()
    except OSError as e:
        raise _cannot_log(log_dir, e) from e


def _cannot_log(log_dir: Path, e: OSError) -> OutputError:
    return OutputError(f"--log-dir {log_dir}: cannot be written: {(e.strerror or str(e)).lower()}; use another")


@contextmanager
def _held_signals() -> Iterator[list[int]]:
    """Hold back the first Ctrl-C or SIGTERM until the weights are whole; a second one acts at once."""
    held: list[int] = []
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hold(number: int, frame: object) -> None:
        held.append(number)
        restore()

    with suppress(ValueError):  # not in the main thread, where signals are not ours
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, hold)
    try:
        yield held
    finally:
        restore()
    _let_go(held)


def _let_go(held: list[int]) -> None:
    if held:
        signal.raise_signal(held.pop())
