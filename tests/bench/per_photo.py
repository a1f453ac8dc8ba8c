"""Our answers, text matrix cached: `per_photo.py MODEL_FOLDER LABELS PHOTO...`, prints seconds a photo."""

import sys
import time
from pathlib import Path

from zsclip.batches import available_cpus, decode_batches
from zsclip.classifier import build_classifier
from zsclip.classify import classify
from zsclip.embed import embed_batches
from zsclip.labels import Label
from zsclip.model import load_model
from zsclip.prompts import expand, read_prompts
from zsclip.score import Rule
from zsclip.weights import find_model

folder, labels, *paths = sys.argv[1:]
model = load_model(find_model(folder), "cpu")  # precision auto, as our users get it
words = Path(labels).read_text().splitlines()
begun = time.perf_counter()
classifier = build_classifier(words, expand([Label(word) for word in words], read_prompts("photo")), model)
batches = decode_batches(paths, model.spec.preprocess, batch_size=32, threads=available_cpus())
rows = [row for rows in classify(embed_batches(batches, model), classifier, Rule()) for row in rows]
print((time.perf_counter() - begun) / len(paths))
print([row.label for row in rows])
