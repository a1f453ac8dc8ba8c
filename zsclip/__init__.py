"""Zero-shot image classification with CLIP: words in, the best-fitting word for every image out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsclip.api import Answers, Classifier

    __version__: str

__all__ = ["Answers", "Classifier", "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("zsclip")
    if name in __all__:
        from zsclip import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
