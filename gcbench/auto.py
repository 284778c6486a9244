"""Any model of gcbench in two lines, from the Hugging Face Hub, a folder or the cache:

    from gcbench import AutoModel

    model = AutoModel.from_pretrained("user/name")
    features = model.encode(coord, color, normal)  # [N, C]

Shape legend: N points of a scene, C feature channels, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from gcbench.data.batching import collate
from gcbench.data.labels import load_label_set
from gcbench.data.samples import evaluation_sample
from gcbench.errors import DataError, InputError
from gcbench.hub.download import Place, fetch_file, fetch_model
from gcbench.hub.layout import GOLDEN, MANIFEST, check_unchanged, read_manifest
from gcbench.models.pretrainer import Pretrainer
from gcbench.models.sparse_unet import SparseUNet
from gcbench.models.weights import few, match_encoder, read_checkpoint
from gcbench.protocols.convert import CERTIFICATE, MIN_SHARE, load_certificate
from gcbench.protocols.encoder_files import CONFIG, WEIGHTS, ModelKind, default_grid_size
from gcbench.protocols.encoders import build_encoder
from gcbench.protocols.golden import GoldenFile, check_golden, read_golden
from gcbench.protocols.model_folders import (
    ENCODER,
    OpenedModel,
    check_architecture,
    open_model_folder,
    read_model_config,
)
from gcbench.protocols.trained_models import ModelConfig
from gcbench.runs.provenance import library_versions
from gcbench.structures import Scene

_FEW_VALUES = 1.0  # colours that never exceed this were scaled to [0, 1]
_Self = TypeVar("_Self", bound="PretrainedModel")


@dataclass(frozen=True)
class ModelSource:
    """Where a model was loaded from.

    Attributes:
        name: the repository, or the folder or file.
        commit: of the repository, 40 digits; None for a folder.
        file: inside it, of a checkpoint that was named.
        folder: where its files lie on this machine.
    """

    name: str
    commit: str | None
    folder: Path
    file: str | None = None

    def __str__(self) -> str:
        return self.name + (f"@{self.commit[:12]}" if self.commit else "") + (f"/{self.file}" if self.file else "")


@dataclass(frozen=True)
class Prediction:
    """What a segmenter says about a scene.

    Attributes:
        label: [N] int16, class indices.
        classes: their names.
        instance: [N] int32, instance ids, -1 where none; None of a segmenter without instances.
    """

    label: NDArray[np.int16]
    classes: tuple[str, ...]
    instance: NDArray[np.int32] | None = None


class PretrainedModel(nn.Module):
    """A loaded model: an encoder, a segmenter, an instance segmenter or a pre-trainer.

    It is in eval mode. `encode` and `predict` never train: they compute without gradients and with the stored
    statistics of batch norm. To train, use `module`, which takes a `PointBatch`.

    Attributes:
        module: the network itself.
        config: `config.json`.
        grid_size: voxel edge, metres.
        source: where it comes from.
    """

    def __init__(self, opened: OpenedModel, source: ModelSource) -> None:
        super().__init__()
        self.module = opened.module
        self.source = source
        self.config: Mapping[str, Any] = opened.config
        self.grid_size = default_grid_size() if opened.grid_size is None else opened.grid_size
        self._opened = opened

    @property
    def kind(self) -> ModelKind:
        """``encoder``, ``segmenter``, ``instance-segmenter`` or ``pretrainer``."""
        return self._opened.kind

    @property
    def encoder(self) -> SparseUNet:
        """The sparse U-Net that gives features."""
        return self._opened.encoder

    @property
    def channels(self) -> int:
        """Channels of a feature, C."""
        return self.encoder.out_channels

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.module.parameters()).device

    def forward(self, *inputs: Any) -> Any:
        """The network's own forward pass."""
        return self.module(*inputs)

    def encode(
        self,
        coord: ArrayLike | Tensor | Sequence[Any],
        color: ArrayLike | Tensor | Sequence[Any],
        normal: ArrayLike | Tensor | Sequence[Any] | None = None,
    ) -> Any:
        """A feature for every point, that of its voxel: the network sees the first point of each.

        Args:
            coord: [N, 3] metres, z up.
            color: [N, 3] RGB, 0 to 255.
            normal: [N, 3], unit length. An encoder that was trained with normals needs them.
                Several scenes: lists of such arrays, one entry for each; they are computed as one batch.

        Returns:
            [N, C] float32 on the model's device; of lists, a list of them.

        Raises:
            InputError: shapes or values that cannot be.
        """
        several = isinstance(coord, list | tuple) and not _is_point(coord)
        coords, colors = (list(value) if several else [value] for value in (coord, color))  # type: ignore[arg-type]
        normals = list(normal) if several and normal is not None else [normal] * len(coords)  # type: ignore[arg-type]
        if not coords or not len(coords) == len(colors) == len(normals):
            raise InputError(
                f"{len(coords)} scenes of coordinates, {len(colors)} of colours, {len(normals)} of normals."
            )
        scenes = [self._scene(*arrays) for arrays in zip(coords, colors, normals, strict=True)]
        samples = [evaluation_sample(scene, grid_size=self.grid_size, label_set="") for scene in scenes]
        batch = collate([self._channels_of(sample.points) for sample in samples]).to(self.device)
        modes = [(module, module.training) for module in self.encoder.modules()]
        try:
            with torch.no_grad():
                features: Tensor = self.encoder.eval()(batch).float()
        finally:
            for module, training in modes:
                module.training = training
        sizes = [len(sample.points.coord) for sample in samples]
        found = [
            part[torch.from_numpy(sample.inverse).to(part.device)]
            for part, sample in zip(features.split(sizes), samples, strict=True)
        ]
        return found if several else found[0]

    def predict(
        self, coord: ArrayLike | Tensor, color: ArrayLike | Tensor, normal: ArrayLike | Tensor | None = None
    ) -> Prediction:
        """Classes, and instances if the model finds them, of every point of a scene; arguments as of `encode`.

        Raises:
            InputError: the model knows no classes, or shapes or values cannot be.
        """
        if isinstance(self.module, SparseUNet | Pretrainer):
            raise InputError(f"{self.source} is an {self.kind}, which knows no classes.", "Load a segmenter.")
        from gcbench.protocols.encode import predict_scene  # brings the machinery of evaluation

        config = ModelConfig.model_validate_json(json.dumps(self.config))
        scene = predict_scene(self._scene(coord, color, normal), self.module.eval(), config, self.device)
        return Prediction(scene.segments[config.label_set], load_label_set(config.label_set).classes, scene.instance)

    def check(self) -> list[str]:
        """Compute the golden features again: what differs and where that comes from; empty when nothing does.

        Raises:
            DataError: the model has none.
        """
        golden = _golden(self.source.folder)
        return check_golden(self.module, golden.outputs, golden.versions, library_versions())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model into a new folder, with golden features and manifest, as `from_pretrained` loads it.

        Raises:
            InputError: the folder has something in it.
        """
        from gcbench.hub.packing import pack

        pack(replace(self._opened, module=self.module), Path(folder))

    def push_to_hub(self, repo: str, *, private: bool = False, token: str | None = None, tag: str | None = None) -> str:
        """Publish the model without results; `gcbench publish` adds the evidence of a run. Returns its address.

        Raises:
            InputError, RunError, DataError: as `gcbench publish`.
        """
        from gcbench.hub.publishing import push

        return push(replace(self._opened, module=self.module), repo, private=private, token=token, tag=tag)

    def _scene(self, coord: Any, color: Any, normal: Any) -> Scene:
        points = _array(coord, "coord", np.float32)
        colors = _array(color, "color", None)
        if not np.issubdtype(colors.dtype, np.integer) and 0 < colors.max(initial=0) <= _FEW_VALUES:
            raise InputError("The colours lie between 0 and 1.", "Give them from 0 to 255: color * 255.")
        if colors.min(initial=0) < 0 or colors.max(initial=0) > 255:
            raise InputError("Colours must lie between 0 and 255.")
        wants_normals = self._in_channels > 3
        if (normal is None) == wants_normals:
            word = "needs normals" if wants_normals else "takes no normals"
            raise InputError(
                f"{self.source} {word}.", "Its input is colour" + (" and normal." if wants_normals else ".")
            )
        normals = np.zeros_like(points) if normal is None else _array(normal, "normal", np.float32)
        if not len(points) == len(colors) == len(normals) or not len(points):
            raise InputError(f"{len(points)} coordinates, {len(colors)} colours, {len(normals)} normals.")
        return Scene("scene", points, np.rint(colors).astype(np.uint8), normals)

    @property
    def _in_channels(self) -> int:
        return int(self.encoder.state_dict()["conv_input.0.weight"].shape[-1])

    def _channels_of(self, points: Any) -> Any:
        """The sample with as many input channels as the encoder takes: 6, or 3 without normals."""
        if self._in_channels not in (3, 6):
            raise InputError(f"{self.source} takes {self._in_channels} channels; a point has 3 of colour, 3 of normal.")
        return points if self._in_channels == 6 else replace(points, feat=points.feat[:, :3])


class AutoModel:
    """Loads any model of gcbench."""

    def __init__(self) -> None:
        raise TypeError("AutoModel is not made but loaded: AutoModel.from_pretrained(...)")

    @staticmethod
    def from_pretrained(
        name: str | Path,
        *,
        revision: str | None = None,
        file: str | None = None,
        device: str | torch.device = "cpu",
        check: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> PretrainedModel:
        """A model from the Hub, its cache, or this machine. Its files are compared with their published hashes.

        Args:
            name: ``user/name`` on the Hub; or a folder: of `save_pretrained`, of a run, of `gcbench convert`.
            revision: branch, tag or commit on the Hub. A commit of 40 digits pins the model for good.
            file: a Pointcept checkpoint in it, such as ``"model/model_last.pth"``: its encoder is taken.
            device: where to compute.
            check: compute the golden features again and refuse the model if they differ (seconds).
            token: None takes that of the client (HF_TOKEN, `hf auth login`).
            cache_dir: None is the client's own cache.
            local_files_only: never ask the Hub.

        Raises:
            InputError: there is no such model, or it is not one of gcbench; nothing of it was run.
            DataError: files are missing, broken or changed, golden features differ, or the Hub cannot be reached.
        """
        place = Place(token, None if cache_dir is None else Path(cache_dir), local_files_only or _is_offline())
        local = Path(name).expanduser()
        if not local.exists() and (str(name).startswith((".", "/", "~")) or str(name).count("/") != 1):
            raise InputError(f"There is no folder '{name}', and it is no repository of the Hub (user/name).")
        if local.exists() and revision is not None:
            raise InputError(f"{local} is a folder, which has no revision '{revision}'.", "Leave revision out.")
        if file is not None:
            opened, source = _checkpoint(name, local, file, revision, place)
        elif local.exists():
            opened, source = _local(local)
        else:
            snapshot = fetch_model(
                str(name), revision, place, check_config=check_architecture, extra=(GOLDEN,) if check else ()
            )
            opened = open_model_folder(snapshot.folder)
            source = ModelSource(str(name), snapshot.commit, snapshot.folder)
        model = PretrainedModel(opened, source)
        model.to(device).eval()
        if check and (differences := model.check()):
            raise DataError(f"{source} does not compute what was published. {'; '.join(differences)}.")
        return model


def _local(path: Path) -> tuple[OpenedModel, ModelSource]:
    if path.is_dir() and (path / MANIFEST).is_file() and (path / WEIGHTS).is_file():
        check_unchanged(path, read_manifest(path), (CONFIG, WEIGHTS), str(path))
    elif path.is_dir() and not (path / "models").is_dir() and not (path / "encoder" / WEIGHTS).is_file():
        read_model_config(path)
    opened = open_model_folder(path)
    return opened, ModelSource(str(path), None, opened.weights.parent)


def _checkpoint(
    name: str | Path, local: Path, file: str, revision: str | None, place: Place
) -> tuple[OpenedModel, ModelSource]:
    """The encoder inside a Pointcept checkpoint; nothing of the file is run."""
    if local.exists():
        source = ModelSource(str(name), None, local, file)
    else:
        snapshot = fetch_file(str(name), file, revision, place)
        source = ModelSource(str(name), snapshot.commit, snapshot.folder, file)
    match = match_encoder(read_checkpoint(source.folder / file))
    if match.share < MIN_SHARE:
        raise InputError(
            f"{source} lacks {len(match.missing)} parameters of its encoder: {few(match.missing)}.",
            "gcbench convert --allow-partial FILE OUT takes it all the same.",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for the few that may be missing
        encoder = build_encoder(match.sizes)
    encoder.load_state_dict(dict(match.state), strict=False)
    origin = {"checkpoint": file, "repository": None if local.exists() else str(name), "commit": source.commit}
    config = {"model_type": ENCODER, **match.sizes.model_dump(mode="json"), "pretraining": origin}
    return OpenedModel(encoder.eval(), config, None, source.folder / file), source


def _golden(folder: Path) -> GoldenFile:
    if (folder / GOLDEN).is_file():
        if (folder / MANIFEST).is_file():
            check_unchanged(folder, read_manifest(folder), (GOLDEN,), str(folder))
        return read_golden(folder / GOLDEN)
    if (folder / CERTIFICATE).is_file():
        certificate = load_certificate(folder)
        return GoldenFile({"features": certificate.golden}, certificate.versions)
    raise DataError(f"{folder} has no golden features to check.", "Load it without check=True.")


def _array(values: Any, what: str, dtype: Any) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.ascontiguousarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is no array of numbers: {error}.") from error
    if array.ndim != 2 or array.shape[1] != 3:
        raise InputError(f"{what} is {list(array.shape)}, it must be [N, 3].")
    if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
        raise InputError(f"{what} has values that are not finite numbers.")
    return array


def _is_point(value: Sequence[Any]) -> bool:
    """Whether a list holds points [[x, y, z], ...] and not scenes."""
    return bool(value) and not hasattr(value[0], "shape") and np.ndim(value[0]) == 1


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
