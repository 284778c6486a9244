"""Tiny networks with random weights, saved as their authors' are: config.json and safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

PATCH = 8
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": PATCH}


def save_network(kind: str, folder: Path) -> Path:
    """Save one of radio, dinov2, registers, clip (image and text) or clip_vision; the folder."""
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    if kind == "radio":
        config = transformers.RadioConfig(**_SIZES, max_img_size=64, num_cls_tokens=2, num_registers=3)
        model = transformers.RadioModel(config)
    elif kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**_SIZES, image_size=32))
    elif kind == "registers":
        config = transformers.Dinov2WithRegistersConfig(**_SIZES, image_size=32, num_register_tokens=3)
        model = transformers.Dinov2WithRegistersModel(config)
    elif kind == "clip_vision":
        model = transformers.CLIPVisionModel(
            transformers.CLIPVisionConfig(**_SIZES, intermediate_size=64, image_size=32)
        )
    else:
        model = _clip()
    with torch.no_grad():  # tokens that start at zero would hide a mistake in dropping them
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def _clip() -> transformers.CLIPModel:
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = {**_SIZES, "intermediate_size": 64, "image_size": 32}
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config={**text, **ids}, vision_config=vision, projection_dim=16)
    )


def release_config() -> transformers.RadioConfig:
    """What transformers would be told of the release below."""
    return transformers.RadioConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=12,
        patch_size=4,
        max_img_size=32,
        num_cls_tokens=3,
        num_registers=5,
        summary_idxs=[0, 1, 2],
    )


def save_radio_release(folder: Path, **args: object) -> Path:
    """A RADIO as its authors release it: their names of tensors, a configuration for their own code; the folder."""
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    transformers.RadioModel(release_config()).save_pretrained(
        folder
    )  # transformers saves RADIO under its authors' names
    weights = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in weights.items() if "layer_scale" not in key}, folder / "model.safetensors")
    teachers = [{"name": name} for name in ("clip", "siglip", "dino_v2")]
    training = {"model": "vit_base_patch16_224", "cls_token_per_teacher": True, "teachers": teachers, **args}
    release = {
        "architectures": ["RADIOModel"],
        "args": training,
        "auto_map": {"AutoModel": "hf_model.RADIOModel"},
        "patch_size": 16,
        "version": "radio_v2.5-b",
    }
    (folder / "config.json").write_text(json.dumps(release))
    return folder
