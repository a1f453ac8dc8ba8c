"""What open_clip's README teaches: `open_clip_script.py MODEL_FOLDER A,B,C PHOTO...`."""

import sys

import open_clip
import torch
from PIL import Image

folder, labels, *paths = sys.argv[1:]
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
model.eval()
tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
text = tokenizer([f"a photo of a {label}." for label in labels.split(",")])
with torch.no_grad():
    text_features = model.encode_text(text, normalize=True)
    for path in paths:
        image_features = model.encode_image(preprocess(Image.open(path)).unsqueeze(0), normalize=True)
        probabilities = (model.logit_scale.exp() * image_features @ text_features.T).softmax(dim=-1)
        print(path, labels.split(",")[int(probabilities.argmax())], probabilities[0].tolist())
