"""The options of a run, checked once for the command line and for Python. Nothing heavy is imported here."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from zsclip.errors import InputError
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS, Decoding

if TYPE_CHECKING:
    from zsclip.models.encoder import Encoder

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Runtime = Literal["auto", "torch", "onnx"]
By = Literal["label", "group"]


@dataclass(frozen=True)
class Scoring:
    """How scores become answers.

    only: the answers whose rows are wanted; empty means all. head: a file of what was learnt from examples. examples:
    labelled pictures to learn from now. example: single ones, LABEL=IMAGE.
    expect: what is known of the shares of labels: balanced, few, or a file. transductive: whether all pictures inform
    each answer. suggest: how many pictures to label next are wanted, instead of all.
    """

    top_k: int | None = None
    threshold: float | None = None
    multi_label: bool = False
    by: By = "label"
    none_of_these: bool = False
    distractors: str | None = None
    calibration: str | None = None
    only: Sequence[str] = ()
    head: str | None = None
    examples: Sequence[str] = ()
    example: Sequence[str] = ()
    expect: str | None = None
    transductive: bool = False
    suggest: int | None = None

    def __post_init__(self) -> None:
        check_count("--top-k", self.top_k)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"--threshold: {self.threshold!r} is not a probability; use a number from 0 to 1")
        if self.by not in get_args(By):
            raise InputError(f"--by: {self.by!r} is not a kind of answer; use label or group")
        competes = self.none_of_these or self.distractors is not None
        if self.multi_label and (competes or self.calibration is not None):
            other = "--calibration" if not competes else "--none-of-these" if self.none_of_these else "--distractors"
            raise InputError(
                f"--multi-label: scores every label by itself, so nothing competes; use it or {other}, not both"
            )
        if self.calibration is not None and competes:
            raise InputError("--calibration: already fixes the distractors; set them when you run `zsclip calibrate`")
        if self.none_of_these and self.distractors is not None:
            raise InputError("--none-of-these: means --distractors common; use it or --distractors, not both")
        if (learns := self.learns_by) is not None:
            self._check_learning(learns)
        if (whole := self.needs_all) is not None:
            self._check_sharing(whole)
        check_count("--suggest", self.suggest)
        if self.suggest is not None and self.multi_label:
            raise InputError("--suggest: asks which label fits best, not whether it applies; leave out --multi-label")

    def _check_sharing(self, whole: str) -> None:
        """Refuse what says that labels do not share all pictures among them."""
        flags = {
            "--multi-label": self.multi_label, "--none-of-these": self.none_of_these,
            "--distractors": self.distractors is not None, "--calibration": self.calibration is not None,
        }  # fmt: skip
        for flag, is_given in flags.items():
            if is_given:
                raise InputError(f"{whole}: shares all images among the labels, as they are scored; leave out {flag}")
        if self.transductive and self.expect is not None:
            raise InputError("--transductive: finds out by itself if few labels occur; leave out --expect")

    def _check_learning(self, learns: str) -> None:
        """Refuse what cannot be said of answers that were learnt from examples."""
        if self.head is not None and self.has_examples:
            given = "--examples" if self.examples else "--example"
            raise InputError(f"--head: has learnt already; leave out {given}, or use `zsclip learn --add-to`")
        if self.multi_label:
            raise InputError(
                f"--multi-label: examples show which label fits best, not whether it applies; leave out {learns}"
            )
        if self.none_of_these or self.distractors is not None:
            flag = "--none-of-these" if self.none_of_these else "--distractors"
            raise InputError(
                f"{flag}: words without examples would not compete on equal terms with labels that have some; use "
                "--threshold, or give examples of other things under a label of their own"
            )
        if self.calibration is not None and self.has_examples:
            raise InputError(
                f"--calibration: is not for answers that {learns} changes; use `zsclip learn`, then --head with "
                "`zsclip calibrate` and here"
            )

    @property
    def needs_all(self) -> str | None:
        """The flag for which all pictures are encoded before the first is answered; None if there is none."""
        if self.transductive:
            return "--transductive"
        return None if self.expect is None else "--expect"

    @property
    def has_examples(self) -> bool:
        """Whether there are examples to learn from now."""
        return bool(self.examples or self.example)

    @property
    def learns_by(self) -> str | None:
        """The flag by which examples matter; None if none do."""
        if self.head is not None:
            return "--head"
        return "--examples" if self.examples else "--example" if self.example else None

    @property
    def one_is_enough(self) -> bool:
        """Whether a single label makes sense: it is scored by itself, others may compete, or others are known later."""
        competes = self.none_of_these or self.distractors is not None
        return self.multi_label or competes or self.calibration is not None or self.has_examples


@dataclass(frozen=True)
class Computing:
    """How pictures are decoded and encoded."""

    device: str = "auto"
    threads: int | None = None
    precision: Precision = "auto"
    compile: bool = False
    batch_size: str = "auto"
    max_pixels: int = DEFAULT_MAX_PIXELS
    fast_jpeg: bool = False
    runtime: Runtime = "auto"

    def __post_init__(self) -> None:
        check_device(self.device)
        check_count("--threads", self.threads)
        check_count("--max-pixels", self.max_pixels)
        if self.precision not in (known := get_args(Precision)):
            raise InputError(f"--precision: {self.precision!r} is not a precision; use {', '.join(known)}")
        if self.runtime not in (runtimes := get_args(Runtime)):
            raise InputError(f"--runtime: {self.runtime!r} is not a runtime; use {', '.join(runtimes)}")
        if self.runtime == "onnx" and not self.onnx_can:
            raise InputError("--runtime onnx: needs the CPU, fp32 or int8, and no --compile; use --runtime torch")
        if self.precision == "int8" and (self.runtime == "torch" or not self.onnx_can):
            raise InputError(
                "--precision int8: needs ONNX Runtime on the CPU; leave out --runtime, --device and --compile"
            )
        if self.batch_size != "auto" and not (self.batch_size.isdecimal() and int(self.batch_size) > 0):
            raise InputError(
                f"--batch-size: {self.batch_size!r} is not a batch size; use auto or a whole number, 1 or more"
            )

    @property
    def onnx_can(self) -> bool:
        """Whether ONNX Runtime can do what is asked for."""
        return self.device in ("auto", "cpu") and self.precision in ("auto", "fp32", "int8") and not self.compile

    @property
    def size(self) -> int | None:
        """Pictures in a batch; None lets the model decide."""
        return None if self.batch_size == "auto" else int(self.batch_size)

    @property
    def decoding(self) -> Decoding:
        """How pictures are decoded."""
        return Decoding(self.max_pixels, self.fast_jpeg)

    @property
    def cpus(self) -> int:
        """Threads that decode."""
        from zsclip.pixels.processors import available_cpus

        return self.threads or available_cpus()

    def encoder(self, model: str, offline: bool) -> "Encoder":
        """Find a model, and give what encodes with it; nothing is loaded yet.

        The runtime depends on the options and on what was exported, never on the pictures or on what is stored, as the
        last digits of scores depend on it.

        Raises:
            ModelError: there is no such model, or it cannot run in the runtime that was asked for.
        """
        from zsclip.models.find import find_model
        from zsclip.models.graphs import graphs_to_run, int8_graph_to_run
        from zsclip.models.lazy_torch import LazyTorchEncoder, has_no_gpu

        spec = find_model(model, offline=offline)
        in_torch = LazyTorchEncoder(spec, self.device, self.precision, compiled=self.compile)
        if self.runtime == "torch" or not self.onnx_can:
            return in_torch
        in_int8 = int8_graph_to_run(spec) if self.precision == "int8" else None
        is_wanted = self.runtime == "onnx" or in_int8 is not None
        graphs = graphs_to_run(spec, is_wanted=is_wanted)
        if graphs is None or not (is_wanted or self.device == "cpu" or has_no_gpu() or in_torch.device == "cpu"):
            return in_torch
        from zsclip.models.onnx_encoder import OnnxEncoder

        return OnnxEncoder(spec, graphs, in_int8)


def variable(name: str) -> str:
    """Give an environment variable without the blanks around it; empty if it is not set."""
    return os.environ.get(name, "").strip()


def model_name(given: str) -> str:
    """Give a model's name without the blanks around it, unless that is how its folder is called."""
    return given if os.path.exists(given) else given.strip()


def check_device(device: str) -> None:
    """Refuse what is not the name of a device, whether or not this machine has it."""
    kind, _, number = device.partition(":")
    if device not in ("auto", "cpu", "cuda", "mps") and not (kind == "cuda" and number.isdecimal()):
        raise InputError(f"--device: {device!r} is not a device; use auto, cpu, cuda, cuda:N or mps")


def check_count(flag: str, number: int | None) -> None:
    """Refuse what is neither None nor a whole number, 1 or more."""
    if number is not None and (not isinstance(number, int) or number < 1):
        raise InputError(f"{flag}: must be a whole number, 1 or more, not {number!r}")
