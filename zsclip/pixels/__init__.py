"""Bytes -> pixels, a little ahead of the model. Pixels stay uint8, and no torch is loaded here."""
