"""Contrastive training of a small CLIP: one loop that can be killed at any moment and resumed."""

import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsclip.answers.classifier import class_embeddings
from zsclip.answers.scores import cosines
from zsclip.errors import InputError, OutputError, first_line
from zsclip.models.config import CONFIG_FILE
from zsclip.models.find import find_architecture, find_model
from zsclip.models.spec import TOKENIZER_FILES, ModelSpec
from zsclip.models.torch_encoder import check_device, has_bf16
from zsclip.models.towers import new_model
from zsclip.pictures.sources import check_inputs
from zsclip.pixels.processors import available_cpus
from zsclip.training.checkpoint import TrainingRun, averaged, resume, save_checkpoint
from zsclip.training.export import WEIGHTS_FILE, write_model
from zsclip.training.features import FEATURES_FILE, build_features
from zsclip.training.log import Event, HeldOutAccuracy, StepDone, caveats, make_log_folder, open_log
from zsclip.training.pairs import Pairs, read_pairs
from zsclip.training.recipe import (
    Recipe,
    check_recipe,
    chosen_rate,
    identity_of,
    learning_rate,
    picture_size,
    sampling_of,
)
from zsclip.training.sampling import Sampling
from zsclip.training.step import PairEncoder, train_step
from zsclip.words.labels import Label
from zsclip.words.prompts import read_prompts
from zsclip.words.words import expand

CHECKPOINT_FILE = "checkpoint.safetensors"
_EVALUATION_BATCH = 256


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
) -> list[HeldOutAccuracy]:
    """Train a model, or continue from the checkpoint in `out`, and save it in `out`.

    Args:
        device: "auto" takes CUDA, then the CPU. threads: for decoding. Neither is part of the recipe.
        log_dir: where to write TensorBoard scalars.
        progress: called with every step, every evaluation, and every batch that a locked image tower encodes; an
            exception it raises ends the run at once.
        note: called with one line about everything that is skipped, or that the user should know at the end.

    Raises:
        InputError: the recipe or the data are wrong, or `out` has a checkpoint with another recipe.
        ModelError: there is no such device, the model to start from is not available, or training diverged.
        OutputError: the disk is full (the checkpoint before is kept), or a folder cannot be written.
    """
    check_recipe(recipe)
    recipe, device = _settled(recipe, device)
    check_inputs(recipe.data)
    if any(os.path.realpath(data) == os.path.realpath(out) for data in recipe.data):
        raise InputError(f"--out {out}: is the data folder; choose another")
    if log_dir is not None:
        make_log_folder(log_dir)
    threads = threads or available_cpus()
    prompts = read_prompts(recipe.prompts)
    spec = find_architecture(recipe.arch) if recipe.arch is not None else find_model(recipe.init or "")
    pairs = read_pairs(recipe.data, holdout=recipe.holdout, note=note)
    if recipe.holdout is None and not len(pairs.held_out):
        note("held-out: no images to measure on; give at least five labelled images with two labels")
    _make_folder(out)
    identity = identity_of(recipe, pairs.digest, prompts, spec)
    run = _begin(recipe, spec, identity, pairs.steps(recipe.batch_size), device)
    if (out / CHECKPOINT_FILE).exists():
        resume(run, out / CHECKPOINT_FILE)
        if run.epoch >= recipe.epochs:
            note(f"{out}: this training was already complete; use another --out to train again")
    encoder = PairEncoder(run.model, spec, device, recipe.precision)
    if recipe.start_size:
        _check_start_size(encoder, recipe, spec)
    features = None  # (N, D), from a locked image tower
    if recipe.lock_image and run.epoch < recipe.epochs:
        features = build_features(
            pairs, spec, out / FEATURES_FILE, device=device, precision=recipe.precision, threads=threads,
            checkpoint_seconds=checkpoint_seconds, progress=progress, note=note,
        )  # fmt: skip
    with open_log(log_dir, run.done) as log, _held_signals() as held:
        loop = _Loop(
            recipe, spec, pairs, sampling_of(recipe, prompts, spec), run, encoder, features, out / CHECKPOINT_FILE,
            threads=threads, checkpoint_seconds=checkpoint_seconds, progress=progress, log=log, held=held,
        )  # fmt: skip
        right = loop.run_to_the_end()
        write_model(run, spec, out, recipe.save_precision)
    if right is not None:
        for line in caveats(run.right_at_start, right, identity["learning_rate"]):
            note(line)
    return run.evaluations


def files_in(out: Path) -> list[str]:
    """Give every file that training may write to its folder."""
    names = (WEIGHTS_FILE, CONFIG_FILE, CHECKPOINT_FILE, FEATURES_FILE, *TOKENIZER_FILES)
    return [str(out / name) for name in names]


def _settled(recipe: Recipe, device: str) -> tuple[Recipe, str]:
    """Replace the automatic values of a recipe: device, precision and learning rate."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    check_device(device)
    if recipe.precision == "auto":
        recipe = replace(recipe, precision="bf16" if has_bf16(device) else "fp32")
    if recipe.precision == "fp16" and not device.startswith("cuda"):
        raise InputError("--precision fp16: trains on CUDA only; use bf16 or fp32")
    if recipe.learning_rate is None:
        recipe = replace(recipe, learning_rate=chosen_rate(recipe))
    return recipe, device


@dataclass(eq=False)
class _Loop:
    """The epochs of one call of `train`.

    features: (N, D) float32 for all pairs, for a locked image tower. checkpoint: the file, written every
    `checkpoint_seconds`; `saved`: when that was, on the monotonic clock. held: signals that wait until it is saved.
    """

    recipe: Recipe
    spec: ModelSpec
    pairs: Pairs
    sampling: Sampling
    run: TrainingRun
    encoder: PairEncoder
    features: NDArray[np.float32] | None
    checkpoint: Path
    threads: int
    checkpoint_seconds: float
    progress: Callable[[Event], None]
    log: Callable[[int, dict[str, float]], None]
    held: list[int]
    saved: float = field(default_factory=time.monotonic)

    def run_to_the_end(self) -> Tensor | None:
        """Train the remaining epochs. (n,) bool, which answers are right now; None if nothing was measured."""
        run = self.run
        right = self.measure() if not run.done and not run.evaluations else None
        while run.epoch < self.recipe.epochs:
            _set_training(run.model, self.recipe)
            self.run_epoch()
            run.epoch, run.step = run.epoch + 1, 0
            right = self.measure()
        return right

    def run_epoch(self) -> None:
        """Train the remaining steps of an epoch."""
        run, recipe, preprocess = self.run, self.recipe, self.spec.preprocess
        clock = deque([(time.monotonic(), 0)], maxlen=50)
        size = picture_size(run.epoch, preprocess.size, recipe)
        sampling = replace(self.sampling, preprocess=replace(preprocess, size=size))
        for batch in self.pairs.batches(
            sampling, epoch=run.epoch, step=run.step, threads=self.threads, embeddings=self.features
        ):
            rate = learning_rate(run.done, recipe.epochs * run.steps, recipe)
            loss = train_step(run, self.encoder, batch, rate, recipe)
            run.step += 1
            clock.append((time.monotonic(), clock[-1][1] + len(batch.pictures)))
            event = _progress(run, loss, rate, clock, self.spec, recipe)
            self.log(run.done, {"loss": loss, "learning rate": rate, "logit scale": event.logit_scale})
            self.progress(event)
            is_due = bool(self.held) or time.monotonic() - self.saved >= self.checkpoint_seconds
            if is_due and run.step < run.steps:  # the end of the epoch has its own, with the evaluation
                self.save()
                _let_go(self.held)

    def measure(self) -> Tensor:
        """Measure on the held-out pictures, and save the run. (n,) bool, whether each answer is right."""
        run = self.run
        right = _right_answers(run, self.encoder, self.pairs, self.spec, self.threads, self.features)
        if len(right):
            top1 = int(right.sum()) / len(right)
            run.evaluations.append(HeldOutAccuracy(run.epoch, top1, len(right), len(self.pairs.labels)))
            self.log(run.done, {"held-out top-1": top1})
            if not run.done:
                run.right_at_start = right
        self.save()
        if len(right):
            self.progress(run.evaluations[-1])
        _let_go(self.held)
        return right

    def save(self) -> None:
        """Write the checkpoint."""
        save_checkpoint(self.run, self.checkpoint)
        self.saved = time.monotonic()


@torch.no_grad()
def _check_start_size(encoder: PairEncoder, recipe: Recipe, spec: ModelSpec) -> None:
    """Try every picture size to come: a tower may have fixed positions, or need multiples of a patch."""
    own = spec.preprocess.size
    if recipe.start_size >= min(own):
        raise InputError(f"--start-size {recipe.start_size}: must be smaller than the model's own {min(own)} pixels")
    encoder.model.eval()
    for height, width in {picture_size(epoch, own, recipe) for epoch in range(recipe.epochs)} - {own}:
        try:
            encoder.images(np.zeros((1, 3, height, width), np.uint8))
        except (AssertionError, RuntimeError, ValueError) as e:  # timm asserts; torch raises
            why = f"this image tower cannot take {height} x {width} pixels: {first_line(e)}"
            raise InputError(f"--start-size {recipe.start_size}: {why}; leave it out") from e


def _progress(
    run: TrainingRun, loss: float, rate: float, clock: deque[tuple[float, int]], spec: ModelSpec, recipe: Recipe
) -> StepDone:
    (begun, before), (now, images) = clock[0], clock[-1]
    seconds_a_step = (now - begun) / (len(clock) - 1)
    size, *later = (picture_size(epoch, spec.preprocess.size, recipe) for epoch in range(run.epoch, recipe.epochs))
    steps_left = run.steps - run.step + run.steps * sum(map(math.prod, later)) / math.prod(size)  # at this size
    return StepDone(
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


@torch.no_grad()
def _right_answers(
    run: TrainingRun,
    encoder: PairEncoder,
    pairs: Pairs,
    spec: ModelSpec,
    threads: int,
    features: NDArray[np.float32] | None,
) -> Tensor:
    """Classify the held-out pictures. (n,) bool, whether each answer is right."""
    right = [torch.zeros(0, dtype=torch.bool)]
    if not len(pairs.held_out) or len(pairs.labels) < 2:
        return right[0]
    prompts = expand([Label(label) for label in pairs.labels], read_prompts("photo")).prompts
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


def _begin(recipe: Recipe, spec: ModelSpec, identity: dict[str, Any], steps: int, device: str) -> TrainingRun:
    torch.manual_seed(recipe.seed)
    model: Any = new_model(spec)
    model.visual.requires_grad_(not recipe.lock_image)
    model.text.requires_grad_(not recipe.lock_text)
    model.to(device)
    model.visual.to(memory_format=torch.channels_last)  # makes convolutions 1.5-2x faster; others do not mind
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},  # gains, biases, temperature
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, recipe.beta2), eps=1e-6, fused=True)
    scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=recipe.precision == "fp16")
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()} if recipe.average else {}
    return TrainingRun(identity, model, optimizer, scaler, average, steps)


def _set_training(model: Any, recipe: Recipe) -> None:
    """Switch to training mode; a locked tower stays in evaluation mode (batch statistics, no dropout).

    A pretrained model keeps its batch statistics, too: those of a few cropped pictures replaced them within fifty
    steps, and cost a small model 4 points at a learning rate that changed nothing else.
    """
    model.train()
    model.visual.train(not recipe.lock_image)
    model.text.train(not recipe.lock_text)
    if recipe.init is not None:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(
            f"{out}: cannot create this folder: {(e.strerror or str(e)).lower()}; use another --out"
        ) from e


@contextmanager
def _held_signals() -> Iterator[list[int]]:
    """Delay the first Ctrl-C or SIGTERM until the weights are consistent; a second one acts at once."""
    held: list[int] = []
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hold(number: int, frame: object) -> None:
        held.append(number)
        restore()

    with suppress(ValueError):  # outside the main thread, signals are not ours
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
