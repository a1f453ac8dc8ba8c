"""Our answers, text matrix cached: `per_photo.py MODEL_FOLDER LABELS PHOTO...`, prints seconds a photo."""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does

from zsclip.answers.classifier import build_classifier
from zsclip.answers.classify import classify
from zsclip.answers.scores import Rule
from zsclip.models.embed import embed_images, look_ahead
from zsclip.models.find import find_model
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.limits import DEFAULT_DECODING
from zsclip.pixels.pillow_setup import readable_formats
from zsclip.pixels.processors import available_cpus
from zsclip.words.labels import Label
from zsclip.words.prompts import read_prompts
from zsclip.words.words import expand

folder, labels, *paths = sys.argv[1:]
encoder = LazyTorchEncoder(find_model(folder), "cpu")  # in the precision that users get
encoder.load()
readable_formats()  # imports its decoders
words = Path(labels).read_text().splitlines()
begun = time.perf_counter()
with look_ahead(
    [Pictures(paths)],
    encoder.spec.preprocess,
    DEFAULT_DECODING,
    None,
    batch_size=encoder.batch_size,
    threads=available_cpus(),
) as ahead:
    classifier = build_classifier(expand([Label(word) for word in words], read_prompts("photo")), encoder)
    embedded = embed_images(ahead.batches(encoder.batch_size), encoder, None)
    answers = list(classify(embedded, classifier, Rule()))
print((time.perf_counter() - begun) / len(paths))
print([row.label for batch in answers for row in batch.rows()])
