"""An animation -> the frame that stands for it."""

from PIL import Image

from zsclip.pixels.samples import bands_of

MAX_EMPTY_FRAMES = 100  # of an animation, searched for one that shows something


def _is_empty(image: Image.Image) -> bool:
    mode = "LA" if image.mode == "La" else "RGBA"
    return all(band.convert(mode).getchannel("A").getbbox() is None for _, band in bands_of(image))


def show_a_frame(image: Image.Image) -> None:
    """Seek to the first frame of an animation that is not empty; to the first one if all are."""
    if not getattr(image, "is_animated", False) or image.format == "TIFF" or image.tell() != 0:
        return
    try:
        while image.has_transparency_data and _is_empty(image):
            if image.tell() >= MAX_EMPTY_FRAMES:
                raise EOFError
            image.seek(image.tell() + 1)
            image.load()
    except EOFError:
        image.seek(0)
        image.load()
