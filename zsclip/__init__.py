"""Zero-shot image classification with CLIP: words in, the right word for every picture out."""
