"""RADIO as its authors release it: weights that transformers reads, beside a configuration made for their own code.

The releases of RADIOv2.5 (nvidia/RADIO-B, -L, -H) say in `config.json` how they were trained and name Python files to
run. The network's sizes are all in its weights but one, the number of attention heads, which follows from the name of
the vision transformer. So `RadioModel` of transformers runs them, and no foreign code does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gcbench.errors import DataError, InputError
from gcbench.models.teacher_weights import ModelFiles

_HEADS = {"vit_base_patch16_224": 12, "vit_large_patch16_224": 16, "vit_huge_patch16_224": 16}  # as timm defines them
_PREFIX = "radio_model.model."
_PREFIX_TOKENS = f"{_PREFIX}patch_generator.cls_token.token"
_POSITIONS = f"{_PREFIX}patch_generator.pos_embed"
_EMBEDDER = f"{_PREFIX}patch_generator.embedder.weight"
_MLP = f"{_PREFIX}blocks.0.mlp.fc1.weight"
_QKV_BIAS = f"{_PREFIX}blocks.0.attn.qkv.bias"
_SUMMARY = "radio_model.summary_idxs"
_CHANGES_FEATURES = "radio_model.feature_normalizer."


def is_radio_release(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is one of RADIO's own releases."""
    names = config.get("architectures") or []
    return not config.get("model_type") and "RADIOModel" in names and isinstance(config.get("args"), dict)


def radio_options(model: str, files: ModelFiles) -> dict[str, Any]:
    """The arguments of transformers' `RadioConfig` for a release.

    Raises:
        InputError: a RADIO that is no plain vision transformer (E-RADIO, the g sizes), or has a further step.
        DataError: the weights cannot be read, or are not those of a RADIO.
    """
    name = str(files.config["args"].get("model"))
    shapes, summary = _tensors(files)
    further = sorted(key for key in shapes if key.startswith(_CHANGES_FEATURES))
    if name not in _HEADS or further:
        raise InputError(
            f"'{model}' is a RADIO that transformers does not have built in ({further[0] if further else name}).",
            f"Choose one that is made of {', '.join(_HEADS)}, such as nvidia/RADIO-L.",
        )
    try:
        prefix, hidden = shapes[_PREFIX_TOKENS]
        patch = math.isqrt(shapes[_EMBEDDER][1] // 3)
        blocks = {
            key.removeprefix(f"{_PREFIX}blocks.").split(".")[0] for key in shapes if key.startswith(f"{_PREFIX}blocks.")
        }
        classes = _class_tokens(files.config["args"])
        return {
            "hidden_size": hidden,
            "num_hidden_layers": len(blocks),
            "num_attention_heads": _HEADS[name],
            "mlp_ratio": shapes[_MLP][0] / hidden,
            "patch_size": patch,
            "max_img_size": math.isqrt(shapes[_POSITIONS][1]) * patch,
            "num_cls_tokens": classes,
            "num_registers": prefix - classes,  # together they are the tokens before the patches
            "qkv_bias": _QKV_BIAS in shapes,
            "summary_idxs": summary,
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"The weights of '{model}' are not those of a RADIO (tensor {error}).", "Choose another model."
        ) from error


def _class_tokens(args: Mapping[str, Any]) -> int:
    """One per teacher that RADIO was distilled from, or one."""
    if not args.get("cls_token_per_teacher", True):
        return 1
    return len({teacher["name"] for teacher in args["teachers"]})


def _tensors(files: ModelFiles) -> tuple[dict[str, list[int]], list[int] | None]:
    """The shape of every tensor, and the indices of the class tokens of the summary."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, list[int]] = {}
    summary = None
    try:
        for path in files.weights:
            with safe_open(path, framework="pt") as stream:
                names = list(stream.keys())
                shapes |= {name: list(stream.get_slice(name).get_shape()) for name in names}
                if _SUMMARY in names:
                    summary = [int(index) for index in stream.get_tensor(_SUMMARY)]
    except (SafetensorError, OSError) as error:
        raise DataError(f"A safetensors file in {files.folder} is broken ({error}).", "Download it again.") from error
    return shapes, summary
