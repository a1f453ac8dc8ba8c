"""transformers' zero-shot pipeline: `transformers_pipeline.py HF_FOLDER LABELS PHOTO...`, prints seconds a photo."""

import sys
import time
from pathlib import Path

from transformers import pipeline

folder, labels, *paths = sys.argv[1:]
classify = pipeline("zero-shot-image-classification", model=folder, device="cpu")
words = Path(labels).read_text().splitlines()
begun = time.perf_counter()
answers = [classify(path, candidate_labels=words, hypothesis_template="a photo of a {}.") for path in paths]
print((time.perf_counter() - begun) / len(paths))
print([answer[0]["label"] for answer in answers])
