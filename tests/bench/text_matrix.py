"""Our text matrix, cold: `text_matrix.py MODEL_FOLDER LABELS OUT.npy`, prints the seconds it takes."""

import sys
import time
from pathlib import Path

import numpy as np

from zsclip.answers.classifier import build_classifier
from zsclip.models.find import find_model
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.words.labels import Label
from zsclip.words.prompts import read_prompts
from zsclip.words.words import expand

folder, labels, out = sys.argv[1:]
model = LazyTorchEncoder(find_model(folder), "cpu", "fp32")
model.load()
names = Path(labels).read_text().splitlines()
words = expand([Label(name) for name in names], read_prompts("simple-imagenet"))
begun = time.perf_counter()
classifier = build_classifier(words, model)
print(time.perf_counter() - begun)
np.save(out, classifier.class_embeddings)  # (C, D)
