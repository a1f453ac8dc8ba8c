"""The state of a training run, and the checkpoint file: tensors in safetensors, everything else in its metadata."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from zsclip.errors import InputError, OutputError
from zsclip.training.log import HeldOutAccuracy

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(eq=False)
class TrainingRun:
    """What a checkpoint holds: everything that changes during training, and the identity of everything else.

    right_at_start: (n,) bool, whether the model was right about each held-out picture before the first step.
    """

    identity: dict[str, Any]
    model: Any  # an nn.Module with `visual`, `text` and `logit_scale`
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    average: dict[str, Tensor]
    steps: int  # per epoch
    epoch: int = 0
    step: int = 0
    evaluations: list[HeldOutAccuracy] = field(default_factory=list)
    right_at_start: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    @property
    def done(self) -> int:
        """Steps since the start of training."""
        return self.epoch * self.steps + self.step


@contextmanager
def averaged(run: TrainingRun) -> Iterator[None]:
    """Use the averaged weights, if there are any, inside the block."""
    if not run.average:
        yield
        return
    own = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.model.load_state_dict(run.average)
    try:
        yield
    finally:
        run.model.load_state_dict(own)


def save_checkpoint(run: TrainingRun, path: Path) -> None:
    """Write everything that training needs to continue: weights, moments, average, and the position in the data.

    Raises:
        OutputError: it cannot be written; the checkpoint before is kept.
    """
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in run.average.items()}
    for name, parameter in run.model.named_parameters():
        if parameter in run.optimizer.state:
            tensors |= {f"{moment}.{name}": run.optimizer.state[parameter][moment] for moment in (*_MOMENTS, "step")}
    tensors["right_at_start"] = run.right_at_start
    state = {
        "identity": run.identity,
        "epoch": run.epoch,
        "step": run.step,
        "scaler": run.scaler.state_dict(),
        "evaluations": [asdict(evaluation) for evaluation in run.evaluations],
    }
    write_tensors(path, tensors, {"zsclip": json.dumps(state)})


def resume(run: TrainingRun, path: Path) -> None:
    """Continue from a checkpoint.

    Raises:
        InputError: it cannot be read, or was made with another recipe.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["zsclip"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"{path}: cannot be read as a checkpoint: {e}; delete it to start again") from e
    there, here = state["identity"], run.identity
    differing = [
        f"{name.replace('_', '-')} {there.get(name)} (now {here.get(name)})"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise InputError(
            f"{path}: was trained with {', '.join(differing)}; use another --out, or delete it to start again"
        )

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    run.model.load_state_dict(under("model."))
    for name, tensor in under("average.").items():
        run.average[name].copy_(tensor)
    steps = under("step.")
    moments = {moment: under(f"{moment}.") for moment in _MOMENTS}
    for name, parameter in run.model.named_parameters():
        if name in steps:
            # In the parameter's memory layout, which the fused update needs.
            own = {moment: torch.empty_like(parameter).copy_(moments[moment][name]).detach() for moment in _MOMENTS}
            run.optimizer.state[parameter] = own | {"step": steps[name].to(parameter.device)}
    run.scaler.load_state_dict(state["scaler"])
    run.epoch, run.step = state["epoch"], state["step"]
    run.right_at_start = tensors["right_at_start"]
    run.evaluations = [HeldOutAccuracy(**evaluation) for evaluation in state["evaluations"]]


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, completely or not at all: an older file survives a kill and a full disk."""
    part = path.with_name(f"{path.name}.part")
    try:
        # Not `save_file`, which makes the file readable only for its owner.
        encoded = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata)
        with open(part, "wb") as file:
            file.write(encoded)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError) as e:
        with suppress(OSError):
            part.unlink()
        raise OutputError(f"{path}: cannot be written: {e}; free some space and run the same command again") from e
