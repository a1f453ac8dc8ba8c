"""What an installation has and what it lacks. Nothing is imported that may be broken but where that is looked at."""

import importlib
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from zsclip.errors import first_line
from zsclip.models.lazy_torch import has_no_gpu
from zsclip.pixels.processors import available_cpus

State = Literal["ok", "missing", "wrong"]

# What each optional extra is for; what it needs is in the metadata of the package.
EXTRAS = {
    "heic": "HEIC photos from phones",
    "video": "videos",
    "parquet": "Parquet files",
    "http": "https:// URLs",
    "s3": "s3:// URLs",
    "gcs": "gs:// URLs",
    "hf": "models whose text tower or tokenizer needs transformers",
    "onnx": "answers on a CPU without torch",
    "ray": "--engine ray",
    "train": "TensorBoard for `zsclip train --log-dir`",
    "wordnet": "`zsclip prompts suggest`",
}
# Libraries in machine code that may be installed and still not load; the others are not imported, which takes seconds.
_NATIVE = {"pillow-heif": "pillow_heif", "av": "av", "pyarrow": "pyarrow", "onnxruntime": "onnxruntime"}
_DECODERS = {
    "jpg": "JPEG", "zlib": "PNG", "webp": "WebP", "avif": "AVIF", "jpg_2000": "JPEG 2000", "libtiff": "TIFF",
    "littlecms2": "colour profiles",
}  # fmt: skip
_SHOWN = ("torch", "open_clip_torch", "timm", "pillow", "numpy")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    state: `missing` is for what is optional. detail: what was found. fix: what to type or do; empty if nothing.
    """

    about: str
    state: State
    detail: str
    fix: str = ""


def check_packages(needed: Sequence[str]) -> Iterator[Check]:
    """Check the packages that zsclip needs, and those of its optional extras.

    Args:
        needed: requirements, as `importlib.metadata.requires` gives them.
    """
    from packaging.requirements import Requirement  # comes with huggingface_hub

    parsed = [Requirement(each) for each in needed]
    core = [each for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""})]
    yield Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    shown = ", ".join(f"{name} {version(name)}" for name in _SHOWN if _is_installed(name))
    faults = [(each, fault) for each in core if (fault := _fault(each))]
    if not faults:
        yield Check("packages", "ok", shown)
    for each, fault in faults:
        yield Check("packages", "wrong", fault, f"pip install '{each.name}{each.specifier}'")
    for extra, purpose in EXTRAS.items():
        own = [each for each in parsed if each not in core and each.marker and each.marker.evaluate({"extra": extra})]
        if own:
            yield _check_extra(extra, purpose, own)


def check_decoders() -> Check:
    """Check which kinds of images Pillow was built for."""
    fix = "pip install --force-reinstall pillow"
    try:
        import PIL
        from PIL import features
    except Exception as e:  # a library in machine code that does not load raises anything
        return Check("decoders", "wrong", f"Pillow does not load: {first_line(e)}", fix)
    absent = [name for feature, name in _DECODERS.items() if not features.check(feature)]
    if absent:
        return Check("decoders", "missing", f"Pillow {PIL.__version__} was built without {', '.join(absent)}", fix)
    return Check("decoders", "ok", f"{', '.join(_DECODERS.values())} (Pillow {PIL.__version__})")


def check_device() -> Check:
    """Check whether torch loads, and which device a run uses by default."""
    try:
        import torch

        if torch.cuda.is_available():
            cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
            return Check("device", "ok", f"cuda: {', '.join(cards)}; CUDA {torch.version.cuda or torch.version.hip}")
        if torch.backends.mps.is_available():
            return Check("device", "ok", "mps: the GPU of a Mac")
    except Exception as e:  # a library of a driver that does not load raises anything
        return Check("device", "wrong", f"torch does not load: {first_line(e)}", "pip install --force-reinstall torch")
    cpu = f"cpu: {available_cpus()} cores"
    if sys.platform == "linux" and not has_no_gpu():
        fix = "install a torch that was built for it, see pytorch.org; check its driver"
        return Check("device", "missing", f"{cpu}; there is a GPU, but torch {torch.__version__} cannot use it", fix)
    return Check("device", "ok", cpu)


def _check_extra(extra: str, purpose: str, needed: Sequence[Any]) -> Check:
    """Check an extra; needed: its `packaging.requirements.Requirement`s."""
    absent = [each.name for each in needed if not _is_installed(each.name)]
    if absent:
        return Check(extra, "missing", f"{purpose}: no {', '.join(absent)}", f"pip install 'zsclip[{extra}]'")
    faults = [fault for each in needed if (fault := _fault(each))]
    if faults:
        return Check(extra, "wrong", f"{purpose}: {faults[0]}", f"pip install --upgrade 'zsclip[{extra}]'")
    return Check(extra, "ok", f"{purpose}: {', '.join(f'{each.name} {version(each.name)}' for each in needed)}")


def _fault(needed: Any) -> str | None:
    """Say what is wrong with an installed package; None if nothing is."""
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return f"{needed.name} is not installed"
    if not needed.specifier.contains(found, prereleases=True):
        return f"{needed.name} {found} is installed, but {needed.specifier} is needed"
    try:
        if needed.name in _NATIVE:
            importlib.import_module(_NATIVE[needed.name])
    except Exception as e:  # a library in machine code that does not load raises anything
        return f"{needed.name} {found} does not load: {first_line(e)}"
    return None


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
