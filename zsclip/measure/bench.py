"""Where a run spends its time: each stage of the pipeline timed on this machine with this model and these pictures."""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice, repeat

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.classifier import Classifier
from zsclip.answers.classify import answer, classify
from zsclip.answers.scores import Rule
from zsclip.errors import InputError
from zsclip.models.embed import Embedded, embed_images, look_ahead
from zsclip.models.encoder import Encoder
from zsclip.models.runtimes import named
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.decode import to_pixels, upright
from zsclip.pixels.fit import Preprocess, jpeg_scale
from zsclip.pixels.limits import Decoding
from zsclip.pixels.pillow_setup import readable_formats
from zsclip.pixels.processors import available_cpus
from zsclip.pixels.reasons import check_file
from zsclip.pixels.workers import processes_for

LABELS = 1000  # labels that pictures are scored against
_PROMPTS = [f"a photo of a thing of kind {number}." for number in range(64)]
_SAMPLE = 256  # decoded pictures kept for the model
_WARM_UP = 1.5  # seconds for processes to start


@dataclass(frozen=True)
class Timings:
    """What was measured.

    seconds: for one picture in each stage, in pipeline order; read, decode and preprocess on one thread.
    decoding: pictures a second that all threads decode without a model; model: pictures a second that it encodes
    when they are ready; stream: pictures a second of a whole run. text: prompts a second. runtime: what ran the model;
    others: pictures a second in the model in other runtimes, by their names.
    slowest: the stage that holds a run back; hint: what would help.
    """

    seconds: dict[str, float]
    decoding: float
    model: float
    stream: float
    text: float
    threads: int
    batch_size: int
    runtime: str
    others: dict[str, float]
    slowest: str
    hint: str


def bench(
    pictures: Pictures,
    encoder: Encoder,
    others: Sequence[Encoder] = (),
    *,
    threads: int,
    batch_size: int,
    decoding: Decoding,
    seconds: float = 2.0,
) -> Timings:
    """Time every stage for about this many seconds, cycling through the pictures.

    Args:
        others: encoders of the same model; only their image towers are timed.

    Raises:
        InputError: none of the pictures can be read.
    """
    readable_formats()  # imports Pillow's decoders, which must not be timed
    decoded = _time_decoding(pictures, encoder.spec.preprocess, threads, decoding, seconds)
    batch = np.stack(list(islice(cycle(decoded.pictures), batch_size)))  # (B, 3, H, W) uint8
    in_model = _time_model(batch, encoder, seconds)
    per_picture = decoded.seconds | in_model
    decoding_rate = decoded.rate
    if processes_for(threads):  # they are faster than the thread that the stages were timed on
        decoding_rate = _time_decoders(pictures, encoder.spec.preprocess, threads, decoding, seconds)
    model_rate = 1 / sum(in_model.values())
    other_rates = {named(other): 1 / sum(_time_model(batch, other, seconds).values()) for other in others}
    # The bottleneck is the slowest stage of the slower side, decoding or model.
    side = ("read", "decode", "preprocess") if decoding_rate < model_rate else ("copy", "image tower", "score")
    slowest = max(side, key=lambda name: per_picture[name])
    hint = _hint(slowest, encoder, threads, decoded.reducible and not decoding.fast_jpeg)
    return Timings(
        seconds=per_picture,
        decoding=decoding_rate,
        model=model_rate,
        stream=time_stream(pictures, encoder, threads, batch_size, decoding, seconds),
        text=_rate(lambda: encoder.encode_text(_PROMPTS), seconds) * len(_PROMPTS),
        threads=threads,
        batch_size=batch_size,
        runtime=named(encoder),
        others=other_rates,
        slowest=slowest,
        hint=(slowest == "image tower" and _faster_runtime(encoder, model_rate, other_rates)) or hint,
    )


@dataclass(frozen=True)
class _Decoded:
    pictures: list[NDArray[np.uint8]]
    seconds: dict[str, float]
    rate: float
    reducible: bool


def _time_decoding(
    pictures: Pictures, preprocess: Preprocess, threads: int, decoding: Decoding, seconds: float
) -> _Decoded:
    """Decode on threads for a while; the rate, in pictures a second, is for all threads together."""
    times: list[tuple[float, float, float]] = []
    sample: list[NDArray[np.uint8]] = []
    reducible: list[bool] = []

    def decode(place: int) -> None:
        try:
            if pictures.read is None:
                check_file(pictures.names[place])
            begun = time.perf_counter()
            with pictures.open(place) as file:
                data = file.read()
            was_read = time.perf_counter()
            with upright(io.BytesIO(data), decoding, preprocess) as image:
                was_decoded = time.perf_counter()
                pixels = to_pixels(image, preprocess)
                reducible.append(data[:2] == b"\xff\xd8" and jpeg_scale(image.size, preprocess) > 1)
            done = time.perf_counter()
        except Exception:  # decoders raise anything at all; in a run this becomes a row at almost no cost
            return
        if len(sample) < _SAMPLE:
            sample.append(pixels)
        times.append((was_read - begun, was_decoded - was_read, done - was_decoded))

    with ThreadPoolExecutor(threads, thread_name_prefix="zsclip-bench") as pool:
        endless, begun, wall = cycle(range(len(pictures))), time.perf_counter(), 0.0
        while not wall or wall < seconds:
            list(pool.map(decode, islice(endless, 8 * threads)))
            wall = time.perf_counter() - begun
    if not sample:
        raise InputError("bench: none of the images can be read; `zsclip classify` says why")
    each = dict(zip(("read", "decode", "preprocess"), np.mean(times, axis=0).tolist(), strict=True))
    return _Decoded(sample, each, len(times) / wall, 2 * sum(reducible) >= len(reducible))


def _time_model(batch: NDArray[np.uint8], encoder: Encoder, seconds: float) -> dict[str, float]:
    """Give the seconds for one picture in the stages that work on batches."""
    classifier = _random_classifier(encoder, LABELS)
    pictures = list(batch)
    embeddings = encoder.begin_images(pictures)()  # (B, D)
    copied = _time_copy(batch, encoder, seconds / 10)
    encoded = 1 / _rate(lambda: encoder.begin_images(pictures)(), seconds) / len(batch)
    encoded_batch = Embedded([""] * len(batch), np.arange(len(batch), dtype=np.int32), embeddings, {})
    scored = 1 / _rate(lambda: answer(encoded_batch, classifier, Rule()), seconds / 4) / len(batch)
    return {"copy": copied, "image tower": max(encoded - copied, 0.0), "score": scored}


def _time_copy(batch: NDArray[np.uint8], encoder: Encoder, seconds: float) -> float:
    """Give the seconds in which one picture is copied to the device; 0 on the CPU, which reads it where it is."""
    if encoder.device == "cpu":
        return 0.0
    import torch

    pixels = torch.from_numpy(batch)
    if encoder.in_flight:  # copied as in a run
        pixels = pixels.pin_memory()

    def copy() -> None:
        pixels.to(encoder.device)
        _wait(encoder.device)

    return 1 / _rate(copy, seconds) / len(batch)


def time_stream(
    pictures: Pictures, encoder: Encoder, threads: int, batch_size: int, decoding: Decoding, seconds: float
) -> float:
    """Measure the pictures a second of a whole run, without its start."""
    classifier = _random_classifier(encoder, 2)
    preprocess = encoder.spec.preprocess
    with look_ahead(repeat(pictures), preprocess, decoding, None, batch_size=batch_size, threads=threads) as ahead:
        rows = classify(embed_images(ahead.batches(batch_size), encoder, None), classifier, Rule())
        return _pace(map(len, rows), threads, seconds)


def _time_decoders(
    pictures: Pictures, preprocess: Preprocess, threads: int, decoding: Decoding, seconds: float
) -> float:
    """Measure the pictures a second of a run without a model."""
    with look_ahead(repeat(pictures), preprocess, decoding, None, batch_size=_SAMPLE, threads=threads) as ahead:
        return _pace(map(len, ahead.batches(_SAMPLE)), threads, seconds)


def _pace(batches: Iterator[int], threads: int, seconds: float) -> float:
    """Measure pictures a second, once everything has started."""
    begun = time.perf_counter()
    next(batches)
    while processes_for(threads) and time.perf_counter() - begun < _WARM_UP:
        next(batches)
    begun, images = time.perf_counter(), 0
    while images == 0 or time.perf_counter() - begun < seconds:
        images += next(batches)
    return images / (time.perf_counter() - begun)


def _random_classifier(encoder: Encoder, labels: int) -> Classifier:
    classes = np.random.default_rng(0).normal(size=(labels, encoder.embed_dim)).astype(np.float32)  # (C, D)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    return Classifier(tuple(map(str, range(labels))), classes, None, encoder.logit_scale, None, ())


def _rate(work: Callable[[], object], seconds: float) -> float:
    """Repeat an action for this many seconds, at least once; give the rate per second, without the first."""
    work()
    begun, times = time.perf_counter(), 0
    while times == 0 or time.perf_counter() - begun < seconds:
        work()
        times += 1
    return times / (time.perf_counter() - begun)


def _wait(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def _hint(slowest: str, encoder: Encoder, threads: int, reducible: bool) -> str:
    """Say what would help against the slowest stage."""
    cpus = available_cpus()
    if slowest == "read":
        return f"--threads {4 * threads} (threads that wait for a disk use no CPU), or a faster disk"
    if slowest in ("decode", "preprocess"):
        if reducible and slowest == "decode":
            return "--fast-jpeg"
        if threads < cpus:
            return f"--threads {cpus}"
        busy = "both processors are" if cpus == 2 else f"all {cpus} processors are" if cpus > 2 else "the processor is"
        return f"smaller images ({busy} already decoding)"
    if slowest == "score":
        return "fewer labels"
    if slowest == "copy":
        return "a larger --batch-size"
    if encoder.precision == "fp32" and encoder.device != "cpu":
        return "--precision fp16"
    return "a smaller --model" if encoder.device != "cpu" else "a GPU (--device cuda), or a smaller --model"


def _faster_runtime(encoder: Encoder, rate: float, others: dict[str, float]) -> str:
    """Say how to get the fastest runtime; empty if the run's own is about as fast."""
    fastest = max(others, key=lambda name: others[name], default="")
    if not fastest or others[fastest] < 1.1 * rate:
        return ""
    name = encoder.spec.name
    how = {"torch": "--runtime torch", "int8": "--precision int8"}
    cure = next(
        (flag for word, flag in how.items() if word in fastest), f"`zsclip models export {name}` and --runtime onnx"
    )
    return f"{cure} ({fastest} is {others[fastest] / rate:.1f} times as fast)"


def report_lines(found: Timings) -> list[str]:
    """Format timings for people."""
    lines = [f"{name:<12} {1000 * seconds:>9.3f} ms per image" for name, seconds in found.seconds.items()]
    return [
        *lines,
        f"images a second: {found.decoding:.0f} decoded on {found.threads} threads, {found.model:.0f} in the model "
        f"(batches of {found.batch_size}), {found.stream:.0f} in a run",
        f"prompts a second: {found.text:.0f}",
        f"runtime: {found.runtime}, {found.model:.1f} images a second in the model"
        + "".join(f"; {name}: {rate:.1f}" for name, rate in found.others.items()),
        f"bottleneck: {found.slowest}; try {found.hint}",
    ]
