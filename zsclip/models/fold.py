"""Fold the batch norms of a tower in evaluation mode into the convolutions before them."""

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def fold_norms(tower: nn.Module, size: tuple[int, int]) -> None:
    """Fold each batch norm into the convolution before it, if nothing else reads the convolution's output.

    Names and order prove nothing, so the tower runs once and every operation is watched. An empty batch goes through
    all steps and computes nothing; attention that infers a dimension needs a picture. If in doubt, the norm
    stays.

    Args:
        tower: its weights are replaced, never written to: they may be a mapped file.
        size: height and width of the pictures.
    """
    convs: set[type[nn.Module]] = {nn.Conv2d}
    norms: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm2d: nn.Identity}  # and what replaces each
    if (layers := sys.modules.get("timm.layers")) is not None:  # not imported, so the tower has none of these
        convs.add(layers.Conv2dSame)
        norms[layers.BatchNormAct2d] = _DropAndActivation
    watched = [module for module in tower.modules() if type(module) in convs | norms.keys() and _is_plain(module)]
    if {type(module) for module in watched}.isdisjoint(norms):
        return
    for count in (0, 1):
        try:
            pairs = _find_pairs(tower, watched, torch.zeros(count, 3, *size))
        except Exception:  # other people's code raises anything, and then nothing is folded
            continue
        for conv, norm in pairs:
            _fold(conv, norm)
            # Every module that holds the norm, under any name, gets its replacement.
            norm.__class__ = norms[type(norm)]  # type: ignore[assignment]
            norm._parameters.clear()
            norm._buffers.clear()
        return


def _is_plain(module: nn.Module) -> bool:
    """Whether a call runs the class's own forward and, for a norm, uses its learnt statistics."""
    if isinstance(module, nn.BatchNorm2d) and (module.training or module.running_mean is None):
        return False
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


@torch.no_grad()
def _find_pairs(tower: nn.Module, watched: list[nn.Module], images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    calls: dict[nn.Module, list[tuple[Any, Tensor]]] = defaultdict(list)  # arguments and results, which are kept alive
    reads = _Reads([tensor for module in watched for tensor in _own(module)])

    def note(module: nn.Module, args: Any, result: Tensor) -> None:
        calls[module].append((args, result))
        if isinstance(module, nn.Conv2d):
            reads.watch(result)

    with ExitStack() as stack:
        for module in watched:
            stack.enter_context(module.register_forward_hook(note))
        with reads:
            given = tower(images)
    for tensor in _tensors(given):  # the tower's caller reads it too
        reads.add(tensor)
    once = {module: found[0] for module, found in calls.items() if len(found) == 1}
    sources = {id(result): module for module, (_, result) in once.items() if isinstance(module, nn.Conv2d)}
    pairs = []
    for norm, (args, _) in once.items():
        conv = sources.get(id(args[0])) if len(args) == 1 else None
        if conv is None or not isinstance(norm, nn.BatchNorm2d):
            continue
        if all(reads.of(tensor) <= 1 for tensor in (args[0], *_own(conv), *_own(norm))):
            pairs.append((conv, norm))
    return pairs


def _own(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


class _Reads(TorchDispatchMode):
    """Counts the operations that read the watched tensors, whatever calls them."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self._counts = {id(tensor): 0 for tensor in tensors}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # would import torch._dynamo first, which takes a second

    def watch(self, tensor: Tensor) -> None:
        """Watch a tensor; the caller keeps it alive, so that no other tensor gets its id."""
        self._counts.setdefault(id(tensor), 0)

    def add(self, tensor: Tensor) -> None:
        """Count an operation that reads a tensor, if that is watched."""
        if id(tensor) in self._counts:
            self._counts[id(tensor)] += 1

    def of(self, tensor: Tensor) -> int:
        """The number of operations that read a watched tensor."""
        return self._counts[id(tensor)]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self.add(tensor)
        result = func(*args, **(kwargs or {}))
        if isinstance(result, bool | int | float | complex):
            raise ValueError("what the tower does next depends on the image")
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Fold a norm into a convolution: (y - mean) scale + shift, with y = weight x + bias."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()  # (C,)
    bias = -norm.running_mean.double() if conv.bias is None else conv.bias - norm.running_mean.double()  # (C,)
    if norm.weight is not None:
        scale = scale * norm.weight
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + norm.bias
    weight = torch.empty_like(conv.weight, memory_format=torch.channels_last)  # as fast_form wants it: saves a copy
    torch.mul(conv.weight, scale.to(weight.dtype)[:, None, None, None], out=weight)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)


class _DropAndActivation(nn.Module):
    """Replaces timm's norm with a built-in activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(x))
        return y
