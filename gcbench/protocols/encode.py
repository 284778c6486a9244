"""Features and predictions of one scene with a model from files.

Shape legend: N points of the scene, M voxels, F feature channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from gcbench.data.batching import collate
from gcbench.data.labels import load_label_set
from gcbench.data.samples import evaluation_sample
from gcbench.errors import InputError
from gcbench.files import short_sha256, write_atomic
from gcbench.models.pointgroup import PointGroup
from gcbench.models.segmentation import Segmenter
from gcbench.models.sparse_unet import SparseUNet
from gcbench.protocols.encoder_files import DEFAULT_RECIPE, default_grid_size
from gcbench.protocols.instance import InstanceInference
from gcbench.protocols.model_folders import open_model_folder
from gcbench.protocols.semantic_inference import nearest_voxel
from gcbench.protocols.trained_models import ModelConfig
from gcbench.scoring.protocols import load_protocol
from gcbench.structures import Float32Array, Scene


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder in eval mode.

    Attributes:
        encoder: the network.
        grid_size: voxel edge, metres.
        why: where the voxel edge comes from, in words.
        weights: the file.
    """

    encoder: SparseUNet
    grid_size: float
    why: str
    weights: Path


def load_any_encoder(model: Path, grid_size: float | None = None) -> LoadedEncoder:
    """The encoder of a model's folder (`model_folders`), of a run, or of a trained model's file.

    Args:
        model: the folder, a run's folder, or a trained model's file.
        grid_size: voxel edge, metres; None takes the one it was trained with.

    Raises:
        InputError: it is neither.
        DataError: its weights cannot be read.
    """
    opened = open_model_folder(model)
    return _loaded(opened.encoder, grid_size, opened.grid_size, opened.weights)


def _loaded(encoder: SparseUNet, asked: float | None, said: float | None, weights: Path) -> LoadedEncoder:
    if asked is not None:
        size, why = asked, "as asked"
    elif said is not None:
        size, why = said, "as it was trained"
    else:
        size, why = default_grid_size(), f"of {DEFAULT_RECIPE}, as the encoder does not say"
    return LoadedEncoder(encoder.eval(), size, why, weights)


def encode_scene(scene: Scene, loaded: LoadedEncoder, device: torch.device) -> tuple[Float32Array, int]:
    """Features [N, F] of every point, those of its own voxel, and the number of voxels.

    The first point of each voxel stands for it, as in evaluation.

    Raises:
        InputError: the encoder takes other channels than colour and normal.
    """
    sample = evaluation_sample(replace(scene, segments={}, instance=None), grid_size=loaded.grid_size, label_set="")
    batch = collate([sample.points]).to(device)
    channels = loaded.encoder.conv_input[0].in_channels
    if channels != batch.feat.shape[1]:
        raise InputError(f"{loaded.weights} takes {channels} channels; a scene has 6, colour and normal.")
    with torch.no_grad():
        features = loaded.encoder.to(device)(batch).float().cpu().numpy()
    return features[sample.inverse], len(batch.feat)


def write_features(file: Path, features: Float32Array, loaded: LoadedEncoder, source: str, *, half: bool) -> None:
    """Write `features` [N, F] as safetensors, whole or not at all; float16 if `half`."""
    values = torch.from_numpy(features)
    metadata = {
        "format": "pt",
        "scene": source,
        "grid_size": f"{loaded.grid_size:g}",
        "weights": loaded.weights.name,
        "weights_sha256": short_sha256(loaded.weights),
    }
    write_atomic(file, save({"features": values.half() if half else values}, metadata))


def predict_scene(scene: Scene, model: Segmenter | PointGroup, config: ModelConfig, device: torch.device) -> Scene:
    """The scene with predicted classes, and instances if the model finds them, in place of true ones.

    Every point takes what is predicted for the nearest of the points that stand for a voxel, as in evaluation.
    """
    label_set = load_label_set(config.label_set)
    scene = replace(scene, segments={}, instance=None)
    sample = evaluation_sample(scene, grid_size=config.grid_size, label_set=label_set.name)
    nearest = nearest_voxel(sample)
    model.to(device)
    with torch.no_grad():
        output = model(collate([sample.points]).to(device))
    instance = None
    if isinstance(model, PointGroup):
        assert config.grouping is not None, "a PointGroup's file has it"
        inference = InstanceInference(config.grouping, config.grid_size, label_set, load_protocol(config.evaluation))
        logits, offsets = output
        instance = inference.group(sample, logits, offsets).at(nearest).of_point.astype(np.int32)
    else:
        logits = output
    classes = logits.argmax(dim=1).cpu().numpy()[nearest].astype(np.int16)
    return replace(scene, segments={label_set.name: classes}, instance=instance)
