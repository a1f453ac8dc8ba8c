"""Save a trained model as a folder that open_clip and zsclip load."""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from zsclip.errors import OutputError
from zsclip.models.config import CONFIG_FILE
from zsclip.models.find import tokenizer_folder
from zsclip.models.spec import TOKENIZER_FILES, ModelSpec
from zsclip.models.torch_encoder import DTYPES
from zsclip.training.checkpoint import TrainingRun, averaged, write_tensors

WEIGHTS_FILE = "open_clip_model.safetensors"


def write_model(run: TrainingRun, spec: ModelSpec, out: Path, dtype: str) -> None:
    """Save as a folder that open_clip and `find_model` load."""
    # Always with a `text.` prefix. With a softmax loss, a bias has no meaning.
    left_out = ("custom_text", "init_logit_bias", "nonscalar_logit_scale")
    architecture = {key: value for key, value in spec.architecture.items() if key not in left_out}
    preprocess = {
        key: value
        for key, value in asdict(spec.preprocess).items()
        if key != "size"  # the tower's own size counts
    }
    config = {"model_cfg": architecture | {"custom_text": True}, "preprocess_cfg": preprocess}
    with averaged(run):
        tensors = {
            name: tensor.to(DTYPES[dtype]) if tensor.is_floating_point() else tensor
            for name, tensor in run.model.state_dict().items()
        }
        write_tensors(out / WEIGHTS_FILE, tensors, {"format": "pt"})
    try:
        if spec.tokenizer.name is not None:
            for name in TOKENIZER_FILES:
                with suppress(FileNotFoundError, shutil.SameFileError):
                    shutil.copyfile(Path(tokenizer_folder(spec)) / name, out / name)
        part = out / f"{CONFIG_FILE}.part"
        part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(part, out / CONFIG_FILE)
    except OSError as e:
        raise OutputError(f"{out}: cannot be written: {e.strerror}; free some space and run again") from e
