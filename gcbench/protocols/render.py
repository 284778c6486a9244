"""Views of a scene from a pre-trained model, beside its photos (Figure S.5).

The model predicts a scene's Gaussians once; each view is then rendered by itself, so any number of views fits. Batch
norm uses the scene's own statistics, as in the evaluations of the training, so PSNR agrees with the training's log.

Shape legend: V views, H x W pixels, F channels of a Gaussian's feature, D channels of the teacher. Lengths are metres.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gcbench.data.batching import collate
from gcbench.data.frames import FrameSequence, scale_intrinsic
from gcbench.data.samples import PretrainSamples, load_views, split_frames
from gcbench.data.storage import PreparedDataset
from gcbench.data.transforms import GeometricAugmentation
from gcbench.errors import DataError, InputError, RunError
from gcbench.models.pretrainer import Pretrainer
from gcbench.models.sparse_unet import batch_statistics
from gcbench.objectives.pretraining import psnr
from gcbench.protocols.encoders import build_encoder
from gcbench.protocols.jobs import PretrainJob, read_job
from gcbench.protocols.pretraining_model import build_pretrainer
from gcbench.recipe.schema import PretrainRecipe
from gcbench.runs.store import Run
from gcbench.splatting import RenderedViews, render
from gcbench.structures import Float32Array, Float64Array, PosedViews
from gcbench.training.checkpoint import Checkpoints

Which = Literal["heldout", "train", "all"]
HELD_OUT, TRAINED_ON, UNSEEN = "held out", "trained on", "not in training"


@dataclass(frozen=True)
class Pretrained:
    """A pre-training run, read back.

    Attributes:
        folder: the run folder.
        job: what it was asked to do.
        recipe: its recipe.
        model: with the weights of the newest checkpoint that can be read, in evaluation mode.
        step: optimiser steps that checkpoint has behind it.
        weights_hash: 16 hex digits of the SHA-256 of its weights.
        data_fingerprint: of the dataset it trained on, where that is known.
    """

    folder: Path
    job: PretrainJob
    recipe: PretrainRecipe
    model: Pretrainer
    step: int
    weights_hash: str
    data_fingerprint: str | None

    @property
    def has_features(self) -> bool:
        """Whether features were distilled; without a teacher they mean nothing."""
        return self.model.projection is not None


@dataclass(frozen=True)
class SceneView:
    """One rendered view.

    Attributes:
        frame: the frame's number in the recording.
        role: `HELD_OUT`, `TRAINED_ON` or `UNSEEN` (a scene that the run did not train on).
        photo, color: [H, W, 3] in [0, 1].
        depth: [H, W], the depth camera's; 0 is no measurement.
        rendered_depth: [H, W], sum of z alpha T (Eq. 14): not divided by `alpha`.
        alpha: [H, W], 1 minus the transmittance behind the last Gaussian.
        features: [H, W, F], None without a teacher.
        psnr: of `color` against `photo`, dB.
        depth_error: mean |rendered_depth - depth| where there is a measurement; None without any.
    """

    frame: int
    role: str
    photo: Float32Array
    color: Float32Array
    depth: Float32Array
    rendered_depth: Float32Array
    alpha: Float32Array
    features: Float32Array | None
    psnr: float
    depth_error: float | None


def load_pretrained(folder: Path, warn: Callable[[str], None]) -> Pretrained:
    """Rebuild the pre-trainer of a run from its job file and its newest checkpoint. Changes nothing in the run.

    Args:
        folder: a run folder of `gcbench pretrain` or `gcbench reproduce`; it may still be training.
        warn: told about a checkpoint that cannot be read when there is an older one.

    Raises:
        InputError: there is no such run, or it is no pre-training run.
        RunError: there is no checkpoint that can be read, or it does not fit the recipe.
    """
    run = Run(folder)
    if not run.job_path.is_file():
        raise InputError(f"{folder} is not a run folder: it has no {run.job_path.name}.", "Name the OUT of a pretrain.")
    job = read_job(run.job_path)
    if not isinstance(job, PretrainJob):
        raise InputError(f"{folder} is a run of kind '{job.kind}'.", "Only runs of `gcbench pretrain` render views.")
    recipe = _recipe(job, run.job_path)
    state, file = _newest_state(run, warn)
    weights: dict[str, Tensor] = state["model"]
    teacher_dim = next((len(w) for name, w in weights.items() if name == "projection.weight"), None)
    model = build_pretrainer(recipe, build_encoder(recipe.encoder), teacher_dim)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{file} does not fit the recipe in {run.job_path}: {error}", "Pre-train again.") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fingerprint = _data_fingerprint(run, job)
    return Pretrained(folder, job, recipe, model.to(device).eval(), state["step"], _hash(weights), fingerprint)


def open_dataset(pretrained: Pretrained, data: Path | None) -> PreparedDataset:
    """The dataset the run trained on, or another one.

    Raises:
        DataError: it is not there.
    """
    chosen = pretrained.job.data if data is None else data
    if data is None and not chosen.is_dir():
        raise DataError(f"The dataset of this run, {chosen}, is not there.", "Name its new place with --data DIR.")
    return PreparedDataset.open(chosen)


class SceneRenderer:
    """The Gaussians that a model predicts for one scene, rendered from where its frames were taken.

    Args:
        pretrained: the model.
        dataset: where the scene is.
        scene: its name.
        size: (width, height) of the views, pixels; by default the recipe's.
        masked: drop points as in training; else all of them are used, as in evaluation.

    Raises:
        InputError: the dataset has no such scene.
        DataError: the scene has no frames, or fewer than two.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        dataset: PreparedDataset,
        scene: str,
        *,
        size: tuple[int, int] | None = None,
        masked: bool = False,
    ) -> None:
        _check_scene(dataset, scene)
        data = pretrained.recipe.data
        self.pretrained = pretrained
        self.frames = dataset.frames(scene)
        self.size = size or (data.view_width, data.view_height)
        self.device = next(pretrained.model.parameters()).device
        self._heldout = set(split_frames(len(self.frames), data.holdout_every)[1])
        splits = [split for split in data.splits if split in dataset.splits]
        same = (
            dataset.fingerprint == pretrained.data_fingerprint
            or dataset.root.resolve() == pretrained.job.data.resolve()
        )
        self.unseen = not same or scene not in dataset.scene_names(splits)
        samples = PretrainSamples(
            dataset,
            [scene],
            grid_size=data.grid_size,
            mask_ratio=data.mask_ratio,
            mask_block=data.mask_block,
            views=1,
            view_size=(data.view_width, data.view_height),
            holdout_every=max(2, min(data.holdout_every, len(self.frames))),  # which frames are held out moves no point
            augmentation=GeometricAugmentation(**pretrained.recipe.augmentation.model_dump()),
            seed=pretrained.job.seed,
        )
        points = collate([samples.heldout_views(scene, masked=masked, max_views=1).points]).to(self.device)
        # A camera at the origin that sees a wall one metre away tells how metres become the renderer's unit.
        eye, K = torch.eye(4)[None], torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]]])
        probe = PosedViews(torch.zeros(1, 1, 1, 3), torch.ones(1, 1, 1), eye, K, (0,)).to(self.device)
        with torch.no_grad(), self._precision(), batch_statistics(pretrained.model):
            (prediction,) = pretrained.model(points, [probe])
        self.gaussians = prediction.gaussians
        self._units_per_metre = prediction.targets.depths.reshape(()).clone()
        self._world = prediction.targets.viewmats[0]

    def select(self, which: Which, numbers: Sequence[int] = (), max_views: int | None = None) -> list[int]:
        """Positions of the chosen frames, ascending.

        Args:
            which: held-out frames, those to train on, or all.
            numbers: frame numbers to take instead.
            max_views: at most that many, evenly spaced.

        Raises:
            InputError: the scene has no such frame, or none is left.
        """
        indices = self.frames.indices
        unknown = sorted(set(numbers) - set(indices))
        if unknown:
            near = ", ".join(str(n) for n in sorted(sorted(indices, key=lambda n: abs(n - unknown[0]))[:3]))
            raise InputError(
                f"The scene has no frame {unknown[0]} among its {len(indices)} (close: {near}).",
                f"Its frames are {indices[0]} to {indices[-1]}.",
            )
        chosen = [p for p, number in enumerate(indices) if number in set(numbers)]
        if not numbers:
            every = range(len(indices))
            chosen = [p for p in every if which == "all" or (p in self._heldout) == (which == "heldout")]
        if not chosen:
            raise InputError(
                f"Of the scene's {len(indices)} frames none is chosen by --views {which}: the recipe holds out every"
                f" {self.pretrained.recipe.data.holdout_every}th.",
                "Use --views all, or name --frames.",
            )
        if max_views is not None and len(chosen) > max_views:
            chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, max_views).round().astype(int)]
        return chosen

    def background(self, positions: Sequence[int]) -> Tensor | None:
        """[3] colour behind the Gaussians as the recipe has it: None for black, else the mean of the views' photos."""
        if self.pretrained.recipe.losses.background == "black":
            return None
        photos = (load_views(self.frames, [p], self.size, np.eye(4)).colors.mean(dim=(0, 1, 2)) for p in positions)
        return torch.stack(list(photos)).mean(0).to(self.device)

    def views(self, positions: Sequence[int], background: Tensor | None) -> Iterator[SceneView]:
        """The frames at these positions, rendered one by one."""
        for position in positions:
            frame = load_views(self.frames, [position], self.size, np.eye(4))
            rendered = self.render(frame.viewmats, frame.Ks, background)
            depth, measured = _array(rendered.depths[0]), frame.depths[0].numpy() > 0
            error = np.abs(depth - frame.depths[0].numpy())[measured]
            role = HELD_OUT if position in self._heldout else TRAINED_ON
            yield SceneView(
                frame=frame.frame_ids[0],
                role=UNSEEN if self.unseen else role,
                photo=frame.colors[0].numpy(),
                color=_array(rendered.colors[0].clamp(0, 1)),
                depth=frame.depths[0].numpy(),
                rendered_depth=depth,
                alpha=_array(rendered.alphas[0]),
                features=_array(rendered.features[0]) if self.pretrained.has_features else None,
                psnr=float(psnr(rendered.colors, frame.colors.to(rendered.colors))),
                depth_error=float(error.mean()) if error.size else None,
            )

    def render(self, viewmats: Tensor, Ks: Tensor, background: Tensor | None = None) -> RenderedViews:
        """Render from cameras given in metres; depths are metres too.

        Args:
            viewmats: [V, 4, 4] world-to-camera, in the frame of the prepared scene.
            Ks: [V, 3, 3], pixels of the views' size.
            background: [3].
        """
        placed = viewmats.to(self.device, copy=True)
        placed[:, :3, 3] *= self._units_per_metre
        with torch.no_grad():
            rendered = render(
                self.gaussians, placed @ self._world, Ks.to(self.device), *self.size, background=background
            )
        metres = rendered.depths / self._units_per_metre
        return RenderedViews(rendered.colors, metres, rendered.features, rendered.alphas)

    def _precision(self) -> AbstractContextManager[Any]:
        """What the training's networks computed in; half precision (fp16) only where the device has it."""
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        kind = kinds.get(self.pretrained.recipe.run.precision)
        if kind is None or (kind is torch.float16 and self.device.type == "cpu"):
            return nullcontext()
        return torch.autocast(self.device.type, dtype=kind)


def camera_path(frames: FrameSequence, count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cameras [count, 4, 4] along a scene's frames in the order of their numbers, and their Ks [count, 3, 3].

    Centres follow a curve without overshoot through the frames' centres, rotations turn evenly from one frame's to the
    next one's. Intrinsics are the first frame's, for views of (width, height) `size`.

    Raises:
        InputError: the scene has one frame only, or the path would have fewer than two views.
    """
    from scipy.interpolate import PchipInterpolator
    from scipy.spatial.transform import Rotation, Slerp

    poses, intrinsics, sizes = frames.cameras()
    if len(poses) < 2 or count < 2:
        raise InputError(
            f"A path of {count} views along {len(poses)} frames is none.", "It needs at least two of each."
        )
    times = np.linspace(0, len(poses) - 1, count)
    knots = np.arange(len(poses))
    between: Float64Array = np.tile(np.eye(4), (count, 1, 1))
    between[:, :3, :3] = Slerp(knots, Rotation.from_matrix(poses[:, :3, :3]))(times).as_matrix()
    between[:, :3, 3] = PchipInterpolator(knots, poses[:, :3, 3])(times)
    viewmats = np.linalg.inv(between)
    K = scale_intrinsic(intrinsics[0], (int(sizes[0, 0]), int(sizes[0, 1])), size)
    return torch.from_numpy(viewmats.astype(np.float32)), torch.from_numpy(K.astype(np.float32)).repeat(count, 1, 1)


def _recipe(job: PretrainJob, file: Path) -> PretrainRecipe:
    try:
        recipe = job.recipe.build()
    except InputError as error:  # another version of this package wrote it
        raise RunError(f"The recipe in {file} cannot be used: {error.message}", "Pre-train again.") from error
    if not isinstance(recipe, PretrainRecipe):
        raise RunError(f"{file} pre-trains, but its recipe is of kind '{recipe.kind}'.", "Pre-train again.")
    return recipe


def _newest_state(run: Run, warn: Callable[[str], None]) -> tuple[Mapping[str, Any], Path]:
    """The newest undamaged checkpoint. Unlike a training that goes on, this removes none."""
    checkpoints = Checkpoints(run.checkpoints, warn=warn)
    steps = checkpoints.steps()
    if not steps:
        raise RunError(f"{run.folder} has no checkpoint yet.", "Let it train until it has saved one.")
    state = checkpoints.load_last(remove=False)
    if state is None:
        raise RunError(f"All {len(steps)} checkpoints in {run.checkpoints} are damaged.", "Pre-train again.")
    return state, checkpoints.file(state["step"])


def _data_fingerprint(run: Run, job: PretrainJob) -> str | None:
    """The result knows it; the key of a job that prepared the data itself is not one."""
    if run.is_done:
        return str(run.output()["provenance"]["data_fingerprint"])
    return job.data_key


def _hash(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _check_scene(dataset: PreparedDataset, scene: str) -> None:
    known = list(dataset.manifest["scenes"])
    if scene in known:
        return
    near = difflib.get_close_matches(scene, known, n=3)
    with_frames = [name for name in known if dataset.frame_count(name)]
    raise InputError(
        f"{dataset.root} has no scene '{scene}'" + (f" (close: {', '.join(near)})." if near else "."),
        f"It has {len(known):,} scenes, {len(with_frames):,} of them with frames"
        + (f", e.g. {with_frames[0]}." if with_frames else "."),
    )


def _array(values: Tensor) -> Float32Array:
    array: Float32Array = values.float().cpu().numpy()
    return array
