"""What open_clip imports and most models never use, left out: half of the wait before the first answer."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

# Each is optional to open_clip, or only imported by what it imports, for object detection; timm and that bring
# torch._dynamo, which takes a second.
_OPTIONAL = ("transformers", "timm")
_ROI_ALIGN = "torchvision.ops.roi_align"


@contextmanager
def lean_open_clip() -> Iterator[None]:
    """Let open_clip be imported in the block as if these were not there; `complete` brings them to who needs them."""
    left_out = [name for name in (*_OPTIONAL, _ROI_ALIGN) if name not in sys.modules and "open_clip" not in sys.modules]
    for name in left_out:
        sys.modules[name] = None  # type: ignore[assignment]  # which makes the import system say it is not there
    if _ROI_ALIGN in left_out:
        sys.modules[_ROI_ALIGN] = empty = ModuleType(_ROI_ALIGN)
        vars(empty).update(roi_align=None, RoIAlign=None)
    try:
        yield
    finally:
        for name in set(left_out) & set(_OPTIONAL):
            del sys.modules[name]


def complete(room: str, library: str) -> None:
    """Give a room of open_clip the optional library that it was imported without; its classes find it there."""
    module = sys.modules[f"open_clip.{room}"]
    if getattr(module, library, None) is None:
        importlib.reload(module)
