"""An open_clip CLIP as a folder for transformers: `convert.py MODEL_FOLDER OUT`. The same numbers, other names."""

import json
import sys
from pathlib import Path

import open_clip
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

source, out = map(Path, sys.argv[1:])
clip = open_clip.create_model(f"local-dir:{source}").eval()
about = json.loads((source / "open_clip_config.json").read_text())["model_cfg"]
vision, text = about["vision_cfg"], about["text_cfg"]
common = {"hidden_act": "gelu", "projection_dim": about["embed_dim"]}
config = CLIPConfig(
    vision_config=common
    | {
        "hidden_size": vision["width"],
        "intermediate_size": 4 * vision["width"],
        "num_hidden_layers": vision["layers"],
        "num_attention_heads": vision["width"] // 64,
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
    },
    text_config=common
    | {
        "hidden_size": text["width"],
        "intermediate_size": 4 * text["width"],
        "num_hidden_layers": text["layers"],
        "num_attention_heads": text["heads"],
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["context_length"],
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 0,
    },
    projection_dim=about["embed_dim"],
)
NAMES = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "ln_final": "final_layer_norm",
    "transformer.resblocks": "encoder.layers",
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
state: dict[str, torch.Tensor] = {}
for name, tensor in clip.state_dict().items():
    if name == "logit_scale":
        state[name] = tensor
    elif name in ("visual.proj", "text_projection"):
        state["visual_projection.weight" if name == "visual.proj" else "text_projection.weight"] = tensor.T.contiguous()
    elif name != "attn_mask":
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        theirs = name.removeprefix("visual.")
        for old, new in NAMES.items():
            theirs = theirs.replace(old, new)
        if "attn.in_proj_" in theirs:
            kind = theirs.rsplit("_", 1)[1]
            for part, values in zip("qkv", tensor.chunk(3), strict=True):
                place = theirs.replace(f"attn.in_proj_{kind}", f"self_attn.{part}_proj.{kind}")
                state[f"{tower}.{place}"] = values.contiguous()
        else:
            state[f"{tower}.{theirs}"] = tensor
model = CLIPModel(config).eval()
missing, unexpected = model.load_state_dict(state, strict=False)
assert not unexpected, unexpected
assert all("position_ids" in name for name in missing), missing

tokenizer = open_clip.SimpleTokenizer()
out.mkdir()
marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
(out / "vocab.json").write_text(json.dumps({marks.get(word, word): i for word, i in tokenizer.encoder.items()}))
ranks = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
(out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, ranks)) + "\n")
theirs = CLIPTokenizer(str(out / "vocab.json"), str(out / "merges.txt"), model_max_length=77)
processor = CLIPProcessor(CLIPImageProcessor(), theirs)
processor.save_pretrained(out)
model.save_pretrained(out)

prompts = ["a photo of a cat.", "two dogs"]
images = torch.randn(2, 3, vision["image_size"], vision["image_size"])
with torch.no_grad():
    for expected, given in (
        (
            clip.encode_text(tokenizer(prompts)),
            model.get_text_features(**theirs(prompts, padding="max_length", return_tensors="pt")),
        ),
        (clip.encode_image(images), model.get_image_features(images)),
    ):
        features = given if isinstance(given, torch.Tensor) else given.pooler_output
        assert (features - expected).abs().max() < 1e-4 * expected.abs().max()
