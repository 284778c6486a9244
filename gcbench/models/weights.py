"""Reading a Pointcept checkpoint: which of its tensors are the sparse U-Net's, in our names and layout.

A checkpoint is untrusted: `torch.load` runs with `weights_only=True`, and every shape is compared with the shape of the
network before a value is used.

Layouts of a convolution's weight (K output, C input channels, R S the kernel):
    KRSC  [K, k, k, k, C]  spconv 2.2 and later, and 2.0 to 2.1 with implicit GEMM; the layout of `SparseUNet`
    RSKC  [k, k, k, K, C]  spconv 2.0 and 2.1 with the native algorithm
    RSCK  [k, k, k, C, K]  spconv 1.x
A 1x1x1 weight is read by every version as memory [C, K], whatever its shape says, so its memory stays as it is.
Source: spconv, docs/SPCONV_2_BREAKING_CHANGEs.md and `SparseConvolution.forward` of 1.1, 2.0, 2.1 and 2.3.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gcbench.errors import InputError
from gcbench.models.sparse_unet import SparseUNet
from gcbench.recipe.schema import Encoder

LAYOUTS = ("KRSC", "RSKC", "RSCK")
_CONTAINERS = ("state_dict", "model", "model_state_dict")
_HEADS = ("seg_head", "bias_head", "head", "final", "cls_head")
_STEM_KERNEL = 5**3
_PARAMETER = re.compile(
    r"(?:^|(?<=\.))"
    r"(?:conv_input\.[01]|(?:down|up)\.\d{1,2}\.[01]|(?:enc|dec)\.\d{1,2}\.block\d{1,2}\.(?:conv[12]|bn[12]|proj\.[01]))"
    r"\.(?:weight|bias|running_mean|running_var|num_batches_tracked)\Z"
)
_GLOBAL = re.compile(r"GLOBAL (\S+)")


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights as it is.

    Attributes:
        path: where it lies.
        tensors: its tensors under the file's own names.
        epoch: the epoch it says it was written after, if it does.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    epoch: int | None = None


@dataclass(frozen=True)
class Match:
    """The encoder inside a checkpoint.

    Attributes:
        state: matched tensors with the names, shapes and types of `SparseUNet.state_dict()`.
        sizes: sizes of the network they belong to.
        prefix: what stood before the names, e.g. ``"module.backbone."``.
        layout: one of `LAYOUTS`.
        share: matched part of the encoder, by number of values (weights and batch-norm statistics), 0 to 1.
        total: number of those values in the whole encoder.
        missing: the encoder's names that the file lacks.
        heads: name -> shape of the tensors that belong to a head; an encoder has none.
        extra: all other names that were not used.
    """

    state: Mapping[str, Tensor]
    sizes: Encoder
    prefix: str
    layout: str
    share: float
    total: int
    missing: tuple[str, ...]
    heads: Mapping[str, tuple[int, ...]]
    extra: tuple[str, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a `.pth`, `.pt` or `.safetensors` file; nothing of it runs.

    Of a PyTorch file the entry `state_dict` or `model` is taken, or the whole file where it is a mapping of tensors.

    Raises:
        InputError: the file is missing, empty, broken, holds no tensors, or needs code of a pickle.
    """
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {kind}.", "Give the file of weights, e.g. model/model_last.pth.")
    with path.open("rb") as stream:
        head = stream.read(64)
    if not head:
        raise InputError(f"{path} is empty.", "Download or copy it again.")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a pointer of Git LFS, not the file itself.", "Fetch it with: git lfs pull")
    content: object = _load_safetensors(path) if head[8:9] == b"{" else _load_torch(path, head)
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path} holds a {type(content).__name__}, not named tensors.", "Save the model's state_dict() instead."
        )
    inner: Mapping[Any, Any] = next(
        (content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), content
    )
    tensors = {
        name: value
        for name, value in inner.items()
        if isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
    }
    if not tensors:
        raise InputError(
            f"{path} holds no tensors under {few(repr(key) for key in inner)}.",
            f"A checkpoint has them under one of {', '.join(_CONTAINERS)}, or at the top.",
        )
    epoch = content.get("epoch")
    return Checkpoint(path, tensors, epoch if type(epoch) is int else None)


def match_encoder(
    checkpoint: Checkpoint, sizes: Encoder | None = None, *, prefix: str | None = None, layout: str | None = None
) -> Match:
    """Find the sparse U-Net in a checkpoint.

    Args:
        checkpoint: what `read_checkpoint` returned.
        sizes: what the network must have; None takes the sizes that the shapes in the file tell.
        prefix: what stands before its names; None takes the prefix under which most of its parameters lie.
        layout: one of `LAYOUTS`; None takes the one that the shapes fit.

    Raises:
        InputError: nothing of the network is there, its sizes or shapes differ, prefix or layout are not clear, or a
            value is not finite.
    """
    prefix = _choose_prefix(checkpoint) if prefix is None else prefix
    named = {name: name[len(prefix) :] for name in checkpoint.tensors if name.startswith(prefix)}
    ours = {short: checkpoint.tensors[name] for name, short in named.items() if _PARAMETER.match(short)}
    if not ours:
        raise InputError(
            f"{checkpoint.path} has no parameter of a sparse U-Net after the prefix '{prefix}'.",
            f"Its first names: {few(checkpoint.tensors)}.",
        )
    sizes = _agree(checkpoint.path, _sizes_in(checkpoint.path, ours), sizes)
    with torch.device("meta"):
        expected = SparseUNet(sizes.in_channels, sizes.base_channels, sizes.channels, sizes.layers).state_dict()
    found = {name: ours[name] for name in expected if name in ours}
    layout = layout or _choose_layout(checkpoint.path, found, expected)
    state = {name: _converted(checkpoint.path, name, found[name], expected[name], layout) for name in found}
    used = {prefix + name for name in state}
    rest = [name for name in checkpoint.tensors if name not in used]
    heads = [name for name in rest if _is_head(name)]
    counted = {name: tensor.numel() for name, tensor in expected.items() if tensor.is_floating_point()}
    return Match(
        state=state,
        sizes=sizes,
        prefix=prefix,
        layout=layout,
        share=sum(counted.get(name, 0) for name in state) / sum(counted.values()),
        total=sum(counted.values()),
        missing=tuple(name for name in expected if name not in state),
        heads={name: tuple(checkpoint.tensors[name].shape) for name in heads},
        extra=tuple(name for name in rest if name not in heads),
    )


def few(words: Iterable[str], joint: str = ", ", most: int = 6) -> str:
    """The first words, and how many more there are; `none` without any."""
    listed = list(words)
    more = f"{joint}and {len(listed) - most} more" if len(listed) > most else ""
    return joint.join(listed[:most]) + more or "none"


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} cannot be read as safetensors: {error}.", "It may be cut short: download it again."
        ) from error


def _load_torch(path: Path, head: bytes) -> Any:
    damaged = " (cut short or damaged)" if head.startswith(b"PK") else ""
    broken = InputError(
        f"{path} cannot be read as a PyTorch file{damaged}.",
        "Compare its size with the original and download it again.",
    )
    try:
        with torch.serialization.safe_globals(_numbers_of_numpy()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        needed = _GLOBAL.search(str(error))
        if needed is None:
            raise broken from error
        raise InputError(
            f"{path} needs code to be opened: '{needed[1]}'. Such a file can do anything to your computer, so it "
            "is not opened.",
            "If you trust where it comes from, save its state_dict as safetensors; docs/weights.md has the lines.",
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged file; every one means "not readable"
        raise broken from error


def _numbers_of_numpy() -> list[Any]:
    """What numpy needs to restore a single number, such as the best metric in a checkpoint. It is data, not code."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = {type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")}
    return [*((scalar, name) for name in names), (np.dtype, "numpy.dtype"), *kinds]


def _choose_prefix(checkpoint: Checkpoint) -> str:
    """The prefix under which most values of a sparse U-Net lie."""
    values: Counter[str] = Counter()
    for name, tensor in checkpoint.tensors.items():
        found = _PARAMETER.search(name)
        if found:
            values[name[: found.start()]] += tensor.numel()
    if not values:
        raise InputError(
            f"{checkpoint.path} holds no encoder: none of its {len(checkpoint.tensors)} tensors has the name of a "
            f"sparse U-Net's parameter (Pointcept's SpUNet-v1m1). Its first names: {few(checkpoint.tensors)}.",
            "Give a checkpoint of that network, or of a model with it as backbone.",
        )
    most = max(values.values())
    best = [prefix for prefix, count in values.items() if count == most]
    if len(best) > 1:
        raise InputError(
            f"{checkpoint.path} holds {len(best)} encoders of one size, after {few(repr(prefix) for prefix in best)}.",
            f"Say which, e.g. --prefix {best[0] or repr('')}",
        )
    return best[0]


def _sizes_in(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """What the shapes tell, under the keys of `_flat`, whatever the layout is."""
    found: dict[str, int] = {}
    for name, tensor in tensors.items():
        part, stage, block = name.split(".")[:3]
        side = {"down": "enc", "up": "dec"}.get(part, part)
        if tensor.ndim == 1:
            found.setdefault("base channels" if part == "conv_input" else f"channels of {side}.{stage}", len(tensor))
        if part == side != "conv_input":
            key = f"blocks of {side}.{stage}"
            found[key] = max(found.get(key, 0), int(block.removeprefix("block")) + 1)
    stem, base = tensors.get("conv_input.0.weight"), found.get("base channels")
    if stem is not None and base:
        channels, remainder = divmod(stem.numel(), _STEM_KERNEL * base)
        if remainder:
            raise InputError(
                f"conv_input.0.weight of {path} is {list(stem.shape)}: no kernel of 5 to {base} channels.",
                "It is the stem of another network than SpUNet-v1m1.",
            )
        found["input channels"] = channels
    return found


def _flat(sizes: Encoder) -> dict[str, int]:
    """One number per key; `enc.s` and `dec.s` are the stages by level."""
    flat = {"input channels": sizes.in_channels, "base channels": sizes.base_channels}
    for stage in range(len(sizes.channels) // 2):
        for side, position in (("enc", stage), ("dec", -1 - stage)):
            flat[f"channels of {side}.{stage}"] = sizes.channels[position]
            flat[f"blocks of {side}.{stage}"] = sizes.layers[position]
    return flat


def _agree(path: Path, found: Mapping[str, int], sizes: Encoder | None) -> Encoder:
    """The expected sizes if the file does not speak against them, or those of the file."""
    if sizes is None:
        return _complete(path, found)
    expected = _flat(sizes)
    # Fewer blocks than expected are missing parameters, which the share counts; more are another network.
    wrong = {
        key: value
        for key, value in found.items()
        if value > expected.get(key, 0) or (value < expected.get(key, 0) and not key.startswith("blocks"))
    }
    if wrong:
        words = [f"{key}: {value} in the file, {expected.get(key, 'none')} expected" for key, value in wrong.items()]
        raise InputError(
            f"{path} belongs to an encoder of another size ({few(words, '; ')}).",
            "Name a recipe with its sizes (--sizes RECIPE), or take the file's own (--sizes file).",
        )
    return sizes


def _complete(path: Path, found: Mapping[str, int]) -> Encoder:
    stages = 1 + max((int(key.rpartition(".")[2]) for key in found if "." in key), default=0)
    sides = [(side, stage) for side, order in (("enc", 1), ("dec", -1)) for stage in range(stages)[::order]]
    keys = ["input channels", "base channels"]
    keys += [f"{what} of {side}.{stage}" for what in ("channels", "blocks") for side, stage in sides]
    absent = [key for key in keys if not found.get(key)]
    if absent:
        raise InputError(
            f"{path} does not tell all sizes of its encoder: {few(absent)} cannot be seen.",
            "Parts are missing. Name a recipe with its sizes: --sizes pretrain/gaussiancross",
        )
    values = [found[key] for key in keys]
    return Encoder(
        in_channels=values[0],
        base_channels=values[1],
        channels=tuple(values[2 : 2 + 2 * stages]),
        layers=tuple(values[2 + 2 * stages :]),
    )


def _stored_shape(official: torch.Size, layout: str) -> tuple[int, ...]:
    """The shape that a parameter has in a file of this layout."""
    if len(official) != 5 or layout == "KRSC":
        return tuple(official)
    K, *kernel, C = official
    return (*kernel, K, C) if layout == "RSKC" else (*kernel, C, K)


def _choose_layout(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The layout that most convolutions fit; those that fit none are named when they are converted."""
    kernels = [name for name in found if expected[name].ndim == 5]
    fits = {
        layout: {name for name in kernels if found[name].shape == _stored_shape(expected[name].shape, layout)}
        for layout in LAYOUTS
    }
    most = max(len(names) for names in fits.values())
    best = [layout for layout in LAYOUTS if len(fits[layout]) == most]
    if len(best) > 1 and most:
        name = next(name for name in kernels if name in fits[best[0]])
        raise InputError(
            f"{path}: {name} with shape {list(found[name].shape)} fits the layouts {' and '.join(best)}, and no other "
            "parameter decides.",
            f"Say which (--layout): {LAYOUTS[0]} is spconv 2.x, {LAYOUTS[1]} 2.0 and 2.1 (native), {LAYOUTS[2]} 1.x.",
        )
    return best[0]


def _converted(path: Path, name: str, tensor: Tensor, expected: Tensor, layout: str) -> Tensor:
    """One parameter as `SparseUNet` has it."""
    stored = _stored_shape(expected.shape, layout)
    if tensor.shape != stored or tensor.is_floating_point() != expected.is_floating_point():
        raise InputError(
            f"{name} of {path} is {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}; "
            f"in the layout {layout} it must be {str(expected.dtype).removeprefix('torch.')} {list(stored)}.",
            "It is a parameter of another network than SpUNet-v1m1 of these sizes.",
        )
    if expected.ndim == 5 and layout != "KRSC":
        if expected.shape[1:4] == (1, 1, 1):
            tensor = tensor.reshape(expected.shape)
        else:
            tensor = tensor.permute(3, 0, 1, 2, 4) if layout == "RSKC" else tensor.permute(4, 0, 1, 2, 3)
    tensor = tensor.to(expected.dtype).contiguous()
    if not bool(torch.isfinite(tensor).all()):
        count = int((~torch.isfinite(tensor)).sum())
        raise InputError(
            f"{name} of {path} has {count} values that are not finite.",
            "The training it comes from failed; take an earlier checkpoint.",
        )
    return tensor


def _is_head(name: str) -> bool:
    return any(part in _HEADS for part in name.split("."))
