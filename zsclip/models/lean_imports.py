"""Import open_clip without libraries that most models never use, which take half of the start-up time."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

# Both are optional to open_clip, and bring torch._dynamo, which takes a second.
_OPTIONAL = ("transformers", "timm")
_DYNAMO = "torch._dynamo"
_DYNAMO_UTILS = "torch._dynamo.utils"


@contextmanager
def lean_open_clip() -> Iterator[None]:
    """Hide these libraries while the block imports open_clip; `complete` adds them for models that need them."""
    left_out = [name for name in _OPTIONAL if name not in sys.modules and "open_clip" not in sys.modules]
    _import_torchvision()
    for name in left_out:
        sys.modules[name] = None  # type: ignore[assignment]  # which makes the import system say it is not there
    try:
        yield
    finally:
        for name in left_out:
            del sys.modules[name]


def _import_torchvision() -> None:
    """Import open_clip's dependencies without torch._dynamo.

    One function of torchvision, `roi_align` for object detection, imports a function of torch._dynamo, but calls it
    only when it runs itself. It gets a stand-in that imports the real one at that time.
    """
    if "torchvision" in sys.modules or _DYNAMO in sys.modules:
        return

    def is_compile_supported(device_type: str) -> bool:
        real = importlib.import_module(_DYNAMO_UTILS).is_compile_supported
        vars(sys.modules["torchvision.ops.roi_align"])["is_compile_supported"] = real
        return bool(real(device_type))

    package, utils = ModuleType(_DYNAMO), ModuleType(_DYNAMO_UTILS)
    vars(utils)["is_compile_supported"] = is_compile_supported
    sys.modules[_DYNAMO], sys.modules[_DYNAMO_UTILS] = package, utils
    try:
        importlib.import_module("torchvision")
    finally:
        del sys.modules[_DYNAMO], sys.modules[_DYNAMO_UTILS]


def complete(module: str, library: str) -> None:
    """Give a module of open_clip the optional library that it was imported without."""
    imported = sys.modules[f"open_clip.{module}"]
    if getattr(imported, library, None) is None:
        importlib.reload(imported)
