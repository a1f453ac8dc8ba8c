"""Whether a model gives on this machine what open_clip gives, in words for people."""

from collections.abc import Iterator, Sequence

import numpy as np

from zsclip.measure.installation import Check
from zsclip.models import parity
from zsclip.models.encoder import Encoder
from zsclip.models.find import find_model
from zsclip.models.graphs import find_graphs, missing_to_export
from zsclip.pixels.decode import decode_image
from zsclip.pixels.skipped import Skipped

MOST_LEVELS = 1  # of 255, by which a pixel may differ
MOST_EXACT = 1e-5  # by which a number in an embedding may differ, in fp32 on the CPU
LEAST_COSINE = 0.99  # in other precisions, and on other devices


def check_model(name: str, pictures: Sequence[str]) -> Iterator[Check]:
    """Compare a model on this machine with open_clip, on pictures and sentences; the network is not used.

    Raises:
        ModelError: the model is not on this machine, or cannot be loaded.
    """
    spec = find_model(name, offline=True)
    yield Check("model", "ok", f"{name}: {spec.weights}")
    pixels = []
    for path in pictures:
        decoded = decode_image(path, spec.preprocess)
        if isinstance(decoded, Skipped):
            yield _compared("pixels", False, f"{path}: {decoded.message}")
            return
        pixels.append(decoded)
    yield from _compare(parity.encoders_of(spec), np.stack(pixels), parity.reference_of(spec, pictures))
    if find_graphs(spec) is None and not missing_to_export():
        yield Check("export", "missing", f"{name} does not start without torch yet", f"zsclip models export {name}")


def _compare(encoders: Sequence[Encoder], pixels: parity.Pixels, theirs: parity.Reference) -> Iterator[Check]:
    spec = encoders[0].spec
    worst = round(parity.pixel_difference(spec, pixels, theirs), 2)
    yield _compared(
        "pixels",
        worst <= MOST_LEVELS,
        f"{len(pixels)} images differ from open_clip's by at most {worst:g} of 255 levels",
    )
    others = parity.other_tokens(spec, theirs)
    same = len(parity.SENTENCES) - len(others)
    yield _compared("tokens", not others, f"{same} of {len(parity.SENTENCES)} sentences have open_clip's tokens")
    for encoder in encoders:
        image, text, cosine = parity.embedding_differences(encoder, pixels, theirs)
        how = f"made by {encoder.runtime} in {encoder.precision} on the {encoder.device}, they"
        if (encoder.device, encoder.precision) == ("cpu", "fp32"):
            is_same = image <= MOST_EXACT and text <= MOST_EXACT  # NaN is not
            detail = f"{how} differ from open_clip's by at most {image:.1g} (images) and {text:.1g} (sentences)"
        else:
            is_same = cosine >= LEAST_COSINE
            detail = f"{how} have a cosine of at least {cosine:.5f} with open_clip's in fp32"
        yield _compared("embeddings", is_same, detail)


def _compared(about: str, is_same: bool, detail: str) -> Check:
    fix = "" if is_same else "reinstall zsclip, open_clip_torch and pillow; if it stays so, please report it"
    return Check(about, "ok" if is_same else "wrong", detail, fix)
