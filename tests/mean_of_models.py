"""A step of `make train-tiny`: `mean_of_models.py ONE OTHER OUT` writes the mean of the weights of two models, of which
one was trained on from the other: it keeps what either knows (Wortsman et al. 2022, "Robust fine-tuning").
"""

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

FILE = "open_clip_model.safetensors"


def main() -> None:
    one, other, out = map(Path, sys.argv[1:])
    first, second = load_file(one / FILE), load_file(other / FILE)
    out.mkdir(parents=True, exist_ok=True)
    means = {name: ((first[name].float() + second[name].float()) / 2).to(first[name].dtype) for name in first}
    save_file(means, out / FILE, {"format": "pt"})
    shutil.copy(other / "open_clip_config.json", out)


if __name__ == "__main__":
    main()
