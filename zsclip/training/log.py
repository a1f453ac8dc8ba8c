"""What is reported during training, and what is written for TensorBoard. No torch here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsclip.errors import InputError, OutputError
from zsclip.measure.metrics import differs, share
from zsclip.training.pairs import HELD_OUT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StepDone:
    """A step that is done.

    step: out of `steps` in the epoch, from 1; size: height and width of the pictures; seconds_left: of training,
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


@dataclass(frozen=True)
class EncodingProgress:
    """The pictures that a locked image tower has encoded so far."""

    done: int
    total: int
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class HeldOutAccuracy:
    """Zero-shot accuracy on held-out pictures, among all labels of the data, after an epoch; 0 is before training."""

    epoch: int
    top1: float
    images: int
    labels: int


Event = StepDone | EncodingProgress | HeldOutAccuracy


def caveats(first: "Tensor", right: "Tensor", learning_rate: float) -> Iterator[str]:
    """Say what the figures do not show: that there are few pictures, or that training made the model worse.

    Args:
        first, right: (n,) bool, whether the answer to each held-out picture was right before training, and is now;
            `first` is empty if that was not measured.
    """
    if len(first) == len(right):
        gained, lost = int((right & ~first).sum()), int((first & ~right).sum())
        if lost > gained and differs(gained, lost):
            before, now = (f"{answers.float().mean():.1%}" for answers in (first, right))
            shares = f"right for {before} of the held-out images before, {now} now"
            cure = f"use --learning-rate {learning_rate / 10:.1g}, or fewer --epochs"
            yield f"training made the model worse: {shares}; {cure}"
    if 0 < len(right) < HELD_OUT:
        count = int(right.sum())
        figure = share(count, len(right))
        limits = f"the true share may be anywhere from {100 * figure.low:.0f} to {figure.high:.0%}"
        yield f"held-out: {count} of {len(right)} right; with so few images {limits}"


def make_log_folder(log_dir: Path) -> None:
    """Check that scalars can be written to a folder, and create it.

    Raises:
        InputError: TensorBoard is not installed.
        OutputError: the folder cannot be created.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401
    except ImportError as e:
        raise InputError("--log-dir: needs TensorBoard: pip install 'zsclip[train]'") from e
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise _cannot_log(log_dir, e) from e


@contextmanager
def open_log(log_dir: Path | None, done: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Give a function that writes the scalars of a step for TensorBoard, or does nothing without a folder.

    Args:
        done: the steps of the earlier run that are kept; what it logged after them is dropped.

    Raises:
        OutputError: they cannot be written.
    """
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
        except OSError as e:  # its thread writes; errors there are raised here
            raise _cannot_log(log_dir, e) from e

    try:
        yield log
    except BaseException:
        with suppress(OSError):  # a second error would hide the reason
            writer.close()
        raise
    try:
        writer.close()
    except OSError as e:
        raise _cannot_log(log_dir, e) from e


def _cannot_log(log_dir: Path, e: OSError) -> OutputError:
    return OutputError(f"--log-dir {log_dir}: cannot be written: {(e.strerror or str(e)).lower()}; use another")
