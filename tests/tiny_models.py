"""Small seeded models in the form open_clip saves them, built without a download: `python tests/tiny_models.py DIR`.

Their weights are random and their answers mean nothing; their towers, tokenizers and files are the real thing.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

_VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
_TEXT = {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
_SIGLIP_TEXT = {
    "context_length": 16,
    "vocab_size": 200,
    "hf_tokenizer_name": "tests/tokenizer",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "width": 64,
    "heads": 2,
    "layers": 2,
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
}
_HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}

# kind -> (model_cfg, preprocess_cfg): one of every sort of tower that zsclip treats differently.
CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"embed_dim": 32, "vision_cfg": _VISION, "text_cfg": _TEXT}, {}),
    "custom-text": ({"embed_dim": 32, "custom_text": True, "vision_cfg": _VISION, "text_cfg": _TEXT}, {}),
    # Sees its padding although it pools at the end mark: the short context would be wrong.
    "bidirectional": (
        {"embed_dim": 32, "custom_text": True, "vision_cfg": _VISION, "text_cfg": _TEXT | {"no_causal_mask": True}},
        {},
    ),
    "quick-gelu": ({"embed_dim": 32, "quick_gelu": True, "vision_cfg": _VISION, "text_cfg": _TEXT}, {}),
    "siglip": (
        {
            "embed_dim": 64,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": _VISION | {"image_size": [24, 24], "no_ln_pre": True, "pool_type": "avg"},
            "text_cfg": _SIGLIP_TEXT,
        },
        _HALF | {"resize_mode": "squash", "interpolation": "bicubic"},
    ),
    "resnet": (
        {
            "embed_dim": 32,
            "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
            "text_cfg": _TEXT,
        },
        {},
    ),
    "timm": (
        {
            "embed_dim": 32,
            "vision_cfg": {"image_size": 32, "timm_model_name": "resnet10t", "timm_pool": "", "timm_proj": "linear"},
            "text_cfg": _TEXT | {"pool_type": "eos", "eos_id": 49407, "proj_type": "none", "width": 32},
            "custom_text": True,
        },
        _HALF | {"resize_mode": "longest", "interpolation": "bilinear", "fill_color": 128},
    ),
    # MobileCLIP's blocks: several branches in training, one convolution afterwards.
    "mobileclip": (
        {
            "embed_dim": 32,
            "vision_cfg": {
                "image_size": 64,
                "timm_model_name": "fastvit_t8",
                "timm_pool": "avg",
                "timm_proj": "linear",
            },
            "text_cfg": _TEXT,
            "custom_text": True,
        },
        {},
    ),
    # Rotary position tables are buffers that no checkpoint holds.
    "rotary": (
        {
            "embed_dim": 32,
            "vision_cfg": {
                "image_size": 224,
                "timm_model_name": "eva02_tiny_patch14_224",
                "timm_pool": "token",
                "timm_proj": None,
            },
            "text_cfg": _TEXT,
            "custom_text": True,
        },
        {},
    ),
    "coca": (
        {
            "embed_dim": 32,
            "custom_text": True,
            "vision_cfg": _VISION | {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
            "text_cfg": _TEXT | {"context_length": 16, "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": {"context_length": 16, "width": 64, "heads": 2, "layers": 1, "attn_pooler_heads": 4},
        },
        {},
    ),
}
CONFIGS["rotary"][0]["embed_dim"] = 192  # without a projection the tower's own width


def save_tiny_model(kind: str, folder: Path) -> Path:
    """Build a model with fixed random weights and save it as a `local-dir:` folder."""
    model_cfg, preprocess_cfg = CONFIGS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if "hf_tokenizer_name" in model_cfg["text_cfg"]:
        save_tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        logging.disable(logging.WARNING)  # open_clip warns that there are no weights yet
        model = open_clip.create_model(f"local-dir:{folder}")
        logging.disable(logging.NOTSET)
        for parameter in model.parameters():  # many start at zero, which would hide a tensor that is not loaded
            parameter.data += 0.02 * torch.randn_like(parameter)
        image_size = model.visual.image_size
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        with torch.no_grad():  # batch norms learn what their inputs look like, else every picture looks the same
            for _ in range(20):
                model.train().visual(torch.nn.functional.interpolate(torch.randn(8, 3, 2, 2), size))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def save_tokenizer(folder: Path) -> None:
    """Save a small word tokenizer of the Hugging Face form: padding 0, unknown 1, end 2, a few letters and words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [
        "<pad>",
        "<unk>",
        "</s>",
        "a",
        "photo",
        "of",
        "the",
        "cat",
        "dog",
        "bird",
        "red",
        "green",
        "blue",
        "sketch",
    ]
    words += [f"w{i}" for i in range(100)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(special | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 16})
    )


if __name__ == "__main__":
    print(save_tiny_model("plain", Path(sys.argv[1])))
