"""The settings of a training run, checked before anything slow. No torch here."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from zsclip.errors import InputError
from zsclip.kept.cache import fingerprint
from zsclip.models.spec import ModelSpec
from zsclip.training.sampling import Sampling
from zsclip.words.prompts import PromptSet

_RATE_FROM_NOTHING = 1e-3
_RATE_FROM_A_MODEL = 1e-5  # what CLIP is fine-tuned with: Wortsman et al. 2022 (WiSE-FT), Goyal et al. 2023 (FLYP)
# Changes to pictures as they are drawn. A locked image tower sees each picture once, unchanged.
_PICTURE_OPTIONS = (
    "crop_scale", "flip", "colour", "blur", "sharpen", "chroma", "saturation", "start_size",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is learnt; a checkpoint continues only with the recipe that it was started with.

    data: Parquet shards, class folders, CSV files; holdout: hold out every Nth pair to measure on, 0 for none; None:
    see `read_pairs`.
    arch: a JSON file with a `model_cfg` or open_clip's name of an architecture, for an untrained model; init: a model
    to start from instead. lock_image, lock_text: leave that tower as it is. With lock_image each picture is encoded
    once, unchanged: no crops, tints or growing.
    batch_size: pairs that are compared with each other; accumulate: parts it is encoded in, to save memory.
    learning_rate: None chooses one, see `chosen_rate`.
    warmup: share of the steps over which the learning rate rises; then it falls along a cosine.
    precision: fp32, bf16, fp16 (CUDA only), or auto: bf16 if the device supports it, else fp32.
    average: the share of the running average of weights that a step keeps, such as 0.999, 0 for none; the average is
    saved and measured.
    start_size: side in pixels of the first epochs' pictures, which then grow to the model's size; 0 for no growing.
    prompts, synonyms, broader, broader_are_true, other_data_weight, against_all_labels, crop_scale, flip, colour, blur,
    sharpen, chroma, saturation: see `Sampling`.
    save_precision: fp16 or fp32, of the saved model.
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
    broader: float = 0.2
    broader_are_true: bool = False
    other_data_weight: float = 1.0
    against_all_labels: bool = False
    crop_scale: float = 0.35
    flip: bool = True
    colour: float = 0.2
    blur: float = 0.0
    sharpen: float = 0.0
    chroma: float = 0.0
    saturation: float = 0.0
    holdout: int | None = None
    seed: int = 0
    save_precision: str = "fp16"


def check_recipe(recipe: Recipe) -> None:
    """Check a recipe, before any file is opened.

    Raises:
        InputError: it makes no sense; the message names the option.
    """
    _check_models(recipe)
    _check_choices(recipe)
    _check_ranges(recipe)


def _check_models(recipe: Recipe) -> None:
    if (recipe.arch is None) == (recipe.init is None):
        raise InputError("train: give either --arch, for an untrained model, or --init, for a trained one")
    if recipe.init is None and (recipe.lock_image or recipe.lock_text):
        raise InputError("--lock-image, --lock-text: an untrained tower would stay untrained; give --init MODEL")
    if recipe.lock_image and recipe.lock_text:
        raise InputError("--lock-image, --lock-text: nothing is left to train; lock one of the two")
    for field in fields(recipe):
        if recipe.lock_image and field.name in _PICTURE_OPTIONS and getattr(recipe, field.name) != field.default:
            name = f"--{field.name.replace('_', '-')}"
            raise InputError(f"{name}: does nothing with --lock-image, which encodes each image once; leave it out")


def _check_choices(recipe: Recipe) -> None:
    for name, choices in (("precision", ("auto", "fp32", "bf16", "fp16")), ("save_precision", ("fp16", "fp32"))):
        if (value := getattr(recipe, name)) not in choices:
            raise InputError(f"--{name.replace('_', '-')}: {value!r} is not one of {', '.join(choices)}")


def _check_ranges(recipe: Recipe) -> None:
    for name in ("epochs", "batch_size", "accumulate", "learning_rate", "clip_norm"):
        if getattr(recipe, name) is not None and not getattr(recipe, name) > 0:
            raise InputError(f"--{name.replace('_', '-')}: {getattr(recipe, name)!r} is not above 0")
    if not recipe.weight_decay >= 0:
        raise InputError(f"--weight-decay: {recipe.weight_decay!r} is below 0")
    if recipe.start_size and recipe.start_size < 8:
        raise InputError(f"--start-size: {recipe.start_size!r} is below 8 pixels; give more, or 0 to leave it out")
    for name in (
        "warmup", "average", "synonyms", "broader", "other_data_weight", "crop_scale", "colour", "blur", "sharpen",
        "chroma", "saturation", "beta2",
    ):  # fmt: skip
        if not 0 <= getattr(recipe, name) <= 1:
            raise InputError(f"--{name.replace('_', '-')}: {getattr(recipe, name)!r} is not between 0 and 1")
    if recipe.seed < 0:
        raise InputError(f"--seed: {recipe.seed} is below 0")
    if recipe.batch_size < 2 or recipe.accumulate > recipe.batch_size:
        raise InputError("--batch-size: needs at least two pairs to compare, and one for each --accumulate part")


def identity_of(recipe: Recipe, data_digest: str, prompts: PromptSet, spec: ModelSpec) -> dict[str, Any]:
    """Give the settings, by name, that a checkpoint must match to be continued."""
    identity = asdict(recipe) | {
        "data": data_digest,
        "prompts": fingerprint(prompts.templates, {key: list(own) for key, own in prompts.prompts.items()}),
        "model": fingerprint(spec.architecture, asdict(spec.preprocess), spec.digest),
    }
    for name in ("arch", "init"):  # the same model may be in another place
        del identity[name]
    if recipe.holdout is None:
        identity["holdout"] = "auto"
    return identity


def sampling_of(recipe: Recipe, prompts: PromptSet, spec: ModelSpec) -> Sampling:
    """Give the part of a recipe that decides how pairs become batches."""
    own = ("prompts", "preprocess")
    shared: dict[str, Any] = {
        field.name: getattr(recipe, field.name) for field in fields(Sampling) if field.name not in own
    }
    return Sampling(prompts, spec.preprocess, **shared)


def chosen_rate(recipe: Recipe) -> float:
    """Give the learning rate of a recipe, or its default."""
    return _RATE_FROM_NOTHING if recipe.init is None else _RATE_FROM_A_MODEL


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Give the learning rate of a step, counted from 0 over all epochs: linear warm-up, then a cosine to 0."""
    assert recipe.learning_rate is not None
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def picture_size(epoch: int, size: tuple[int, int], recipe: Recipe) -> tuple[int, int]:
    """Give the height and width of an epoch's pictures: growing evenly from `start_size`, full for the last third.

    Small pictures cost less and teach almost as much at first (Tan and Le 2021, section 4). Sizes are multiples of 8,
    so that a tower that halves them loses no border. The last epoch always has the full size.
    """
    start = recipe.start_size
    grown = epoch / (recipe.epochs * 2 / 3)
    if not start or grown >= 1 or epoch == recipe.epochs - 1:
        return size
    height, width = (8 * round((start + grown * (side - start)) / 8) for side in size)
    return height, width
