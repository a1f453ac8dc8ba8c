"""The last step of `make train-tiny`: `zero_unused_tokens.py DATA MODEL_FOLDER` sets token embeddings to zero that no
training text has. They are noise that was never trained; as zeros they cost nothing in git and in the wheel.
"""

import sys
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file, save_file

from zsclip.pictures.sources import Names
from zsclip.training.pairs import read_pairs
from zsclip.words.prompts import PromptSet, fill_template, read_prompts

TABLE = "text.token_embedding.weight"


def texts_of(names: Names, prompts: PromptSet) -> set[str]:
    """All captions that training may draw for a picture."""
    words = (names.label, *names.synonyms, *names.kinds)
    return {*names.captions, *(fill_template(template, word) for template in prompts.templates for word in words)}


def main() -> None:
    data, folder = sys.argv[1], Path(sys.argv[2])
    prompts, tokenizer = read_prompts("captions"), open_clip.get_tokenizer(f"local-dir:{folder}")
    different = {names for names in read_pairs([data]).names if names is not None}
    texts = sorted(set().union(*(texts_of(names, prompts) for names in different)))
    file = folder / "open_clip_model.safetensors"
    tensors = load_file(file)
    used = torch.zeros(len(tensors[TABLE]), dtype=torch.bool)
    for start in range(0, len(texts), 5000):
        used[tokenizer(texts[start : start + 5000]).flatten()] = True
    tensors[TABLE][~used] = 0
    save_file(tensors, file, {"format": "pt"})
    print(f"{int(used.sum()):,} of {len(used):,} tokens are used; the others are zero now")


if __name__ == "__main__":
    main()
