"""open_clip's own text matrix: `zero_shot_classifier.py MODEL_FOLDER LABELS OUT.npy`, prints the seconds it takes."""

import sys
import time
from pathlib import Path

import numpy as np
import open_clip

folder, labels, out = sys.argv[1:]
model = open_clip.create_model(f"local-dir:{folder}").eval()
tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
begun = time.perf_counter()
matrix = open_clip.build_zero_shot_classifier(
    model, tokenizer, Path(labels).read_text().splitlines(), open_clip.SIMPLE_IMAGENET_TEMPLATES
)
print(time.perf_counter() - begun)
np.save(out, matrix.T.numpy())  # (C, D)
