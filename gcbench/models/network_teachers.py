"""Frozen image networks as teachers: RADIO, DINOv2 (with and without registers) and CLIP, through transformers.

A photo is resized to rows x columns patches, so that the photo's shape is kept and nothing is cut off; the networks
interpolate their position embeddings. The map is the patch tokens of the last layer, without the tokens before them:

- RADIO: `RadioModel` gives them as `.features`; before them come class and register tokens, as many as its
  configuration says. The network has no final norm, and normalises its input itself.
- DINOv2: after the class token and `num_register_tokens` registers, and after the final layer norm, which are the
  `x_norm_patchtokens` of DINOv2's own code.
- CLIP: after the class token, of `last_hidden_state`. The norm behind that is made for the class token, and
  transformers applies it to that alone.

Shape legend
    V  images      H, W  pixels      h, w  patches      D  channels of the network (d*)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcbench.errors import DataError, InputError, require
from gcbench.models.radio_weights import is_radio_release, radio_options
from gcbench.models.teacher_weights import ModelFiles, find_model
from gcbench.models.teachers import description_key

Precision: TypeAlias = Literal["no", "bf16", "fp16"]

# What the networks' own preprocessors do: "resample": 3 of preprocessor_config.json is Pillow's antialiased bicubic.
_FILTER = "bicubic"
_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_IMAGES_AT_ONCE = 16  # in one forward pass: bounds the memory


@dataclass(frozen=True)
class _Network:
    """What differs between the networks.

    Attributes:
        kinds: `model_type` of config.json to the class of transformers.
        patch_tokens: the patch tokens [V, h * w, D] of pixels [V, 3, H, W].
        normalisation: mean and standard deviation per channel where preprocessor_config.json has none; None where the
            network normalises its input itself.
        optional: parameters that the patch tokens do not depend on.
    """

    kinds: Mapping[str, str]
    patch_tokens: Callable[[nn.Module, Tensor], Tensor]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None
    optional: frozenset[str]


def _radio_tokens(model: nn.Module, pixels: Tensor) -> Tensor:
    return model(pixel_values=pixels).features  # type: ignore[no-any-return]


def _dinov2_tokens(model: Any, pixels: Tensor) -> Tensor:
    before = 1 + getattr(model.config, "num_register_tokens", 0)
    return model(pixel_values=pixels).last_hidden_state[:, before:]  # type: ignore[no-any-return]


def _clip_tokens(model: nn.Module, pixels: Tensor) -> Tensor:
    return model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]  # type: ignore[no-any-return]


_NETWORKS = {
    "radio": _Network({"radio": "RadioModel"}, _radio_tokens, None, frozenset({"summary_idxs"})),
    "dinov2": _Network(
        {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"},
        _dinov2_tokens,
        (
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
        ),  # ImageNet's, as facebook/dinov2-large's preprocessor_config.json
        frozenset({"embeddings.mask_token"}),
    ),
    "clip": _Network(
        {"clip": "CLIPVisionModel", "clip_vision_model": "CLIPVisionModel"},
        _clip_tokens,
        # CLIP's own, as openai/clip-vit-large-patch14's preprocessor_config.json
        ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        frozenset({"post_layernorm.weight", "post_layernorm.bias"}),
    ),
}


class NetworkTeacher:
    """One of the networks above, frozen: in evaluation mode, without gradients, outside the trained model.

    Made by `load_network_teacher`.

    Attributes:
        name: `radio`, `dinov2` or `clip`.
        dim: D.
        key: what its maps depend on (`describe`), in 16 characters.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None,
        *,
        rows: int,
        precision: Precision,
        device: torch.device,
        description: Mapping[str, Any],
    ) -> None:
        self.name = name
        self.dim = int(model.config.hidden_size)
        self._model: nn.Module = model.eval().requires_grad_(False).to(device)
        self._patch = int(model.config.patch_size)
        self._rows, self._precision, self._device = rows, precision, device
        self._normalisation = normalisation and tuple(
            torch.tensor(values, device=device).view(1, 3, 1, 1) for values in normalisation
        )
        self._description = dict(description)
        # The path of a folder says nothing about the maps; its files' digest does.
        self.key = description_key({key: value for key, value in self._description.items() if key != "model"})

    def describe(self) -> dict[str, Any]:
        """What it is and how photos are prepared for it, for results."""
        return dict(self._description)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) in patches for photos of this size: square patches, the photo's shape kept."""
        return self._rows, max(1, round(self._rows * width / height))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Feature maps [V, h, w, D] float32 of photos [V, H, W, 3] in [0, 1].

        Raises:
            InputError: not such images.
        """
        if images.ndim != 4 or images.shape[-1] != 3:
            raise InputError(f"The teacher needs images of shape [V, H, W, 3], not {list(images.shape)}.")
        grid = self.grid(*images.shape[1:3])
        if not len(images):
            return images.new_empty((0, *grid, self.dim))
        photos = images.permute(0, 3, 1, 2).to(self._device, torch.float32)
        maps = [self._maps(part, grid) for part in photos.split(_IMAGES_AT_ONCE)]
        return torch.cat(maps).to(images.device)

    def _maps(self, photos: Tensor, grid: tuple[int, int]) -> Tensor:
        pixels = resized(photos, (grid[0] * self._patch, grid[1] * self._patch))
        if self._normalisation is not None:
            mean, deviation = self._normalisation
            pixels = (pixels - mean) / deviation
        # Switched off where not wanted, so that an autocast around the training step does not reach in.
        with torch.autocast(self._device.type, _DTYPES[self._precision], enabled=self._precision != "no"):
            tokens = _NETWORKS[self.name].patch_tokens(self._model, pixels)
        assert tokens.shape[1] == grid[0] * grid[1], "a prefix token was taken for a patch, or a patch for a prefix"
        return tokens.float().reshape(len(photos), *grid, self.dim)


def resized(photos: Tensor, size: tuple[int, int]) -> Tensor:
    """Photos [V, 3, H, W] in [0, 1] at another size (rows, columns), in [0, 1].

    Antialiased bicubic, and clipped as an 8-bit image is: what the networks saw in training and what their own
    preprocessors do.
    """
    if photos.shape[2:] == size:
        return photos
    return functional.interpolate(photos, size, mode=_FILTER, align_corners=False, antialias=True).clamp(0, 1)


def load_network_teacher(
    name: str, model: str, revision: str | None, *, rows: int, precision: Precision, device: torch.device | str
) -> NetworkTeacher:
    """Load a network of the Hub or of a local folder; only safetensors are opened, and no code of the model is run.

    Args:
        name: `radio`, `dinov2` or `clip`.
        model: an id on the Hub, or a local folder.
        revision: a commit, tag or branch on the Hub; None is its main branch.
        rows: h, rows of patches a photo is resized to.
        precision: of the forward pass; the weights stay in float32.
        device: where it runs.

    Raises:
        MissingExtraError: transformers is not installed.
        InputError: the model does not exist, or is not what the name says.
        DataError: the Hub cannot be reached, or a file is broken.
    """
    if rows < 1:
        raise InputError(f"teacher.rows is {rows}.", "Give at least 1 row of patches.")
    network = _NETWORKS[name]
    transformers = require("transformers", "teachers", f"The teacher '{name}'")
    files = find_model(model, revision)
    kind = _kind(name, model, files)
    loaded = _load(transformers, network, kind, model, files)
    normalisation = network.normalisation and _normalisation(model, files, network.normalisation)
    description = {
        "name": name,
        "model": model,
        "revision": files.revision,
        "architecture": kind,
        "rows": rows,
        "resize": f"antialiased {_FILTER}",
        "normalisation": [list(values) for values in normalisation] if normalisation else "inside the network",
        "precision": precision,
    }
    return NetworkTeacher(
        name,
        loaded,
        normalisation,
        rows=rows,
        precision=precision,
        device=torch.device(device),
        description=description,
    )


def _kind(name: str, model: str, files: ModelFiles) -> str:
    """The `model_type`, if it is one that goes by this name."""
    kind = files.config.get("model_type") or ""
    if is_radio_release(files.config):
        kind = "radio"
    if kind in _NETWORKS[name].kinds:
        return str(kind)
    other = next((other for other, network in _NETWORKS.items() if kind in network.kinds), None)
    if other is not None:
        raise InputError(f"teacher.name is '{name}', but '{model}' is a {kind}.", f"Set teacher.name={other}.")
    if files.config.get("auto_map"):
        raise InputError(
            f"'{model}' needs Python code of its own to run, and such code is never run.",
            "Choose a model that transformers has built in.",
        )
    raise InputError(
        f"'{model}' is of type '{kind}', which cannot be a teacher of the name '{name}'.",
        f"Choose a model of one of the types: {', '.join(_NETWORKS[name].kinds)}.",
    )


def _load(transformers: ModuleType, network: _Network, kind: str, model: str, files: ModelFiles) -> Any:
    options: dict[str, Any] = {}
    if is_radio_release(files.config):
        options["config"] = transformers.RadioConfig(**radio_options(model, files))
    with _quiet(transformers):
        try:
            loaded, found = getattr(transformers, network.kinds[kind]).from_pretrained(
                files.folder,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
        except Exception as error:  # of safetensors, of pydantic-like checks of the configuration, of shapes
            raise DataError(
                f"The weights of '{model}' cannot be loaded: {' '.join(str(error).split())[:300]}",
                "Download the model again, or choose another.",
            ) from error
    missing = sorted(set(found["missing_keys"]) - network.optional)
    if missing:
        raise DataError(
            f"'{model}' lacks {len(missing)} of the network's tensors, among them {missing[0]}: they would be random.",
            "Choose a model whose weights are whole.",
        )
    return loaded


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Without progress bars and reports on standard error: what is wrong is raised instead."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _normalisation(
    model: str, files: ModelFiles, default: tuple[tuple[float, ...], tuple[float, ...]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of the preprocessor's own file where there is one."""
    mean, deviation = (files.preprocessor.get(key) for key in ("image_mean", "image_std"))
    if mean is None and deviation is None:
        return default
    values = _three_numbers(model, "image_mean", mean), _three_numbers(model, "image_std", deviation)
    if min(values[1]) <= 0:
        raise DataError(f"image_std in preprocessor_config.json of '{model}' is not above 0.")
    return values


def _three_numbers(model: str, key: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, (int, float)) for v in values):
        raise DataError(f"{key} in preprocessor_config.json of '{model}' is not three numbers.")
    return tuple(map(float, values))
