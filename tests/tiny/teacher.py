"""MiniLM, a published sentence encoder, as the teacher of what words mean."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from image_tower import digest
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import BertModel

_CHUNK = 16_384  # texts between two checkpoints
_TOKENS_A_BATCH = 2048
_MAX_TOKENS = 32


def sentence_vectors(texts: Sequence[str], source: Path, folder: Path, name: str) -> NDArray[np.float32]:
    """Give MiniLM's vectors of texts, kept in files of a folder by chunks, so that a kill costs a minute.

    Returns:
        (N, 384) float32, rows of length 1: the mean over a text's tokens, as its authors use it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = None
    parts = [np.zeros((0, 384), np.float32)]
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        file = folder / f"{name}-{digest(text.encode() for text in chunk)}.npy"
        if not file.exists():
            model = model or BertModel.from_pretrained(source).eval()
            rows = _encode(chunk, model, source)
            with file.with_suffix(".part").open("wb") as part:
                np.save(part, rows)
            file.with_suffix(".part").replace(file)
            print(f"{name}: {start + len(rows):,} of {len(texts):,} texts", flush=True)
        parts.append(np.load(file).astype(np.float32))
    return np.concatenate(parts)


@torch.no_grad()
def _encode(texts: Sequence[str], model: BertModel, source: Path) -> NDArray[np.float16]:
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MAX_TOKENS)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    vectors = np.empty((len(ids), 384), np.float16)
    while order:
        count = max(16, _TOKENS_A_BATCH // len(ids[order[0]]))
        batch, order = order[:count], order[count:]
        length = len(ids[batch[-1]])
        tokens = torch.tensor([ids[i] + [0] * (length - len(ids[i])) for i in batch])  # (B, L)
        mask = torch.tensor([[1] * len(ids[i]) + [0] * (length - len(ids[i])) for i in batch])  # (B, L)
        states = model(input_ids=tokens, attention_mask=mask).last_hidden_state  # (B, L, 384)
        means = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        vectors[batch] = torch.nn.functional.normalize(means, dim=-1).half().numpy()
    return vectors
