"""The text side: open_clip's own transformer with CLIP's tokens, taught to point where things lie."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from image_tower import CONFIG, D, Rows, digest
from open_clip.model import _build_text_tower
from open_clip.tokenizer import SimpleTokenizer
from phrases import Phrases
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zsclip.models.text import encode_ids
from zsclip.words.prompts import read_prompts

SHARES = (0.50, 0.41, 0.09)  # of a batch: names of what has pictures, other names, definitions
PROMPT_SETS = ("photo", "plain", "captions", "general")
_BATCH = 512
_PARTS = 4  # of a batch, by length: padding is then little of it
_RATE = 2e-3
_PICTURES = 50.0  # weight of the difference on pictures, which is about 0.001
_SHARPNESS = 12.0  # of the softmax over things in which a text must agree with its target
_CHECKPOINT_SECONDS = 120


@dataclass(frozen=True)
class _Pool:
    """Phrases as tokens."""

    tokens: list[list[int]]
    targets: Tensor
    weights: np.ndarray


def train_text_tower(
    groups: Sequence[Phrases], things: Rows, pictures: Rows, *, steps: int, seed: int, checkpoint: Path
) -> nn.Module:
    """Teach a tower the targets of phrases, bare and in the sentences of our prompt sets.

    The loss is 1 - cosine, plus how much the text disagrees with its target about all things (the divergence of their
    softmaxes) and about pictures (the mean square of the difference of their cosines): what all pictures share is one
    direction of many, but an error along it favours a label for every picture. Killed at any moment, the same call goes
    on from its checkpoint.

    Args:
        groups: of phrases; a batch holds `SHARES` of them. things: (T, D) directions, rows of length 1.
        pictures: (N, D) embeddings, rows of length 1.
        checkpoint: file to go on from, written every two minutes.
    """
    torch.manual_seed(seed)
    tower = _build_text_tower(D, CONFIG["model_cfg"]["text_cfg"])
    table = tower.token_embedding.weight
    rest = [parameter for parameter in tower.parameters() if parameter is not table]
    optimizer = torch.optim.AdamW(
        [{"params": [table], "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.02}],
        betas=(0.9, 0.98),
        fused=True,
    )
    average = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    recipe = digest(
        [repr((CONFIG, SHARES, steps, seed)).encode(), things.tobytes(), *(_content(group) for group in groups)]
    )
    begun = _resume(tower, optimizer, average, checkpoint, recipe)
    tokenizer = SimpleTokenizer(context_length=CONFIG["model_cfg"]["text_cfg"]["context_length"])
    pools = [_Pool([tokenizer.encode(text) for text in group.texts], torch.from_numpy(group.targets), group.weights)
             for group in groups]  # fmt: skip
    sentences = _sentences(tokenizer)
    probes = torch.from_numpy(things)
    moment = torch.from_numpy(pictures.T @ pictures / len(pictures))  # (D, D)
    saved = reported = time.monotonic()
    for step in range(begun, steps):
        random = np.random.default_rng((seed, step))
        parts, targets = _batch(pools, sentences, tokenizer, random)
        texts = F.normalize(torch.cat([encode_ids(tower, ids) for ids in parts]), dim=-1)  # (B, D)
        wanted = (_SHARPNESS * targets @ probes.T).softmax(dim=-1)  # (B, T)
        divergence = F.kl_div((_SHARPNESS * texts @ probes.T).log_softmax(dim=-1), wanted, reduction="batchmean")
        cosine = (texts * targets).sum(dim=-1).mean()
        off = texts - targets
        on_pictures = ((off @ moment) * off).sum(dim=-1).mean()
        loss = 1 - cosine + 0.5 * divergence + _PICTURES * on_pictures
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps)
        optimizer.step()
        keep = min(0.998, (1 + step) / (10 + step))
        for name, tensor in tower.state_dict().items():
            average[name].lerp_(tensor, 1 - keep)
        if time.monotonic() - reported > 30:
            print(
                f"step {step + 1:,} of {steps:,}: cosine {cosine:.3f}, divergence {divergence:.3f}, "
                f"difference on pictures {on_pictures.sqrt():.4f}",
                flush=True,
            )
            reported = time.monotonic()
        if time.monotonic() - saved > _CHECKPOINT_SECONDS or step == steps - 1:
            _save(tower, optimizer, average, step + 1, checkpoint, recipe)
            saved = time.monotonic()
    tower.load_state_dict(average)
    used = torch.zeros(len(table), dtype=torch.bool)
    used[[tokenizer.sot_token_id, tokenizer.eot_token_id]] = True
    for tokens in (
        *(tokens for pool in pools for tokens in pool.tokens),
        *(side for both in sentences for side in both),
    ):
        used[tokens] = True
    table.data[~used] = 0  # never trained: noise would speak, and zeros compress
    return tower.eval().requires_grad_(False)


def _content(group: Phrases) -> bytes:
    about = f"{group.targets.std():.3f}"  # roughly: another number of threads changes the last bits
    return "\n".join([*group.texts, about]).encode()


def _rate(step: int, steps: int) -> float:
    warmup = 200
    return _RATE * min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * step / steps)) / 2


def _sentences(tokenizer: SimpleTokenizer) -> list[tuple[list[int], list[int]]]:
    """The templates as tokens before and after the label; the first is what `classify` asks by default."""
    templates = dict.fromkeys(template for name in PROMPT_SETS for template in read_prompts(name).templates)
    return [tuple(tokenizer.encode(side) for side in template.split("{}")) for template in templates]


def _batch(
    pools: Sequence[_Pool], sentences: Sequence[tuple[list[int], list[int]]], tokenizer: SimpleTokenizer,
    random: np.random.Generator,
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    """Draw phrases and put most of them into sentences, half of these into the first.

    Returns:
        The ids, (B / parts, L) each, short texts first, and (B, D) targets in the same order.
    """
    rows: list[list[int]] = []
    targets = []
    longest = tokenizer.context_length - 2
    for pool, share in zip(pools, SHARES, strict=True):
        chosen = random.choice(len(pool.tokens), round(share * _BATCH), p=pool.weights)
        draws = random.random((len(chosen), 2))
        for i, (draw, which) in zip(chosen, draws, strict=True):
            place = 0 if draw < 0.45 else int(which * len(sentences))
            before, after = sentences[place] if draw < 0.85 else ([], [])
            tokens = [*before, *pool.tokens[i], *after][:longest]
            rows.append([tokenizer.sot_token_id, *tokens, tokenizer.eot_token_id])
        targets.append(pool.targets[chosen])
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    parts = []
    for some in np.array_split(order, _PARTS):
        ids = torch.zeros(len(some), len(rows[some[-1]]), dtype=torch.long)
        for row, number in zip(ids, some, strict=True):
            row[: len(rows[number])] = torch.tensor(rows[number])
        parts.append(ids)
    return parts, torch.cat(targets)[order]


def _save(
    tower: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], step: int, checkpoint: Path,
    recipe: str,
) -> None:  # fmt: skip
    tensors = {f"tower.{name}": tensor for name, tensor in tower.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    tensors["step"] = torch.tensor(step)
    part = checkpoint.with_suffix(".part")
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, part, {"recipe": recipe})
    part.replace(checkpoint)


def _resume(
    tower: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], checkpoint: Path, recipe: str
) -> int:
    """Take up what a checkpoint of the same recipe holds; give the steps done, 0 where there is none."""
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, framework="pt") as file:
        if file.metadata()["recipe"] != recipe:
            return 0
    tensors = load_file(checkpoint)
    tower.load_state_dict({name: tensors[f"tower.{name}"] for name in average})
    for name in average:
        average[name].copy_(tensors[f"average.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, what = name.split(".")
            state.setdefault(int(number), {})[what] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(tensors["step"])
