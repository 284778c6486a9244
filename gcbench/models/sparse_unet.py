"""The 3-D backbone: SparseUNet34C, the same network and the same parameter names as Pointcept's `SpUNet-v1m1`.

A submanifold stem, then per encoder stage a strided convolution and residual blocks, then per decoder stage an inverse
convolution, a skip by concatenation and residual blocks. Released checkpoints load by name (PROTOCOLS.md "Backbone").

Shape legend
    N  input voxels of all scenes     B  scenes     C  channels
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcbench.errors import InputError
from gcbench.models import sparse_modules
from gcbench.models.sparse_cpu import convolve
from gcbench.structures import PointBatch

_SHAPE_MARGIN = 96  # voxels added to the largest coordinate, as in Pointcept
T = TypeVar("T")


def _spconv() -> Any:
    """`spconv.pytorch`, or without it what the CPU path needs of it."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # spconv asks what torch now warns about
    try:
        return importlib.import_module("spconv.pytorch")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("spconv", "cumm"):
            raise
        return sparse_modules


class _BatchNorm(nn.BatchNorm1d):
    """Batch norm that takes a single row in training too: it has no variance, so the running statistics serve."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch uses
        if self.training and len(input) == 1:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


def _batch_norm(channels: int) -> nn.BatchNorm1d:
    return _BatchNorm(channels, eps=1e-3, momentum=0.01)


class _ConvNormReLU(nn.Sequential):
    """A sparse convolution, batch norm, ReLU; parameters are named ``0.`` and ``1.``."""

    def __init__(self, conv: nn.Module, channels: int) -> None:
        super().__init__(conv, _batch_norm(channels), nn.ReLU(inplace=True))

    def forward(self, x: Any) -> Any:
        out = convolve(self[0], x)
        return out.replace_feature(self[2](self[1](out.features)))


class _BasicBlock(nn.Module):
    """Two submanifold 3x3x3 convolutions and a skip, which is a 1x1x1 convolution where the widths differ."""

    def __init__(self, in_channels: int, channels: int, indice_key: str) -> None:
        super().__init__()
        sub_m_conv = _spconv().SubMConv3d
        self.proj = nn.Sequential(nn.Identity())
        if in_channels != channels:
            self.proj = nn.Sequential(
                sub_m_conv(in_channels, channels, kernel_size=1, bias=False), _batch_norm(channels)
            )
        self.conv1 = sub_m_conv(in_channels, channels, kernel_size=3, padding=1, bias=False, indice_key=indice_key)
        self.bn1 = _batch_norm(channels)
        self.conv2 = sub_m_conv(channels, channels, kernel_size=3, padding=1, bias=False, indice_key=indice_key)
        self.bn2 = _batch_norm(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Any) -> Any:
        out = convolve(self.conv1, x)
        out = convolve(self.conv2, out.replace_feature(self.relu(self.bn1(out.features))))
        skip = x.features if len(self.proj) == 1 else self.proj[1](convolve(self.proj[0], x).features)
        return out.replace_feature(self.relu(self.bn2(out.features) + skip))


def _stage(in_channels: int, channels: int, blocks: int, indice_key: str) -> nn.ModuleDict:
    """Residual blocks, named ``block0``, ``block1``, ..."""
    return nn.ModuleDict(
        {f"block{i}": _BasicBlock(channels if i else in_channels, channels, indice_key) for i in range(blocks)}
    )


def _run(stage: nn.Module, x: Any) -> Any:
    for block in stage.children():
        x = block(x)
    return x


class SparseUNet(nn.Module):
    """SparseUNet34C (39.2 M parameters at its defaults).

    Args:
        in_channels: channels of a point's input (colour and normal: 6).
        base_channels: width of the stem.
        channels: width of every stage, encoder first, then decoder; an even number of them.
        layers: residual blocks of every stage.
        num_classes: 0 gives the decoder's features, else logits of a 1x1x1 convolution `final`.

    Raises:
        InputError: `channels` and `layers` do not fit each other.
    """

    def __init__(
        self,
        in_channels: int = 6,
        base_channels: int = 32,
        channels: Sequence[int] = (32, 64, 128, 256, 256, 128, 96, 96),
        layers: Sequence[int] = (2, 3, 4, 6, 2, 2, 2, 2),
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        if len(channels) != len(layers) or len(channels) % 2 or not channels:
            raise InputError(
                f"channels {tuple(channels)} and layers {tuple(layers)} of a U-Net must have the same, even length.",
                "The first half is the encoder, the second the decoder.",
            )
        spconv = _spconv()
        stages = len(channels) // 2
        encoder = (base_channels, *channels[:stages])
        decoder = tuple(channels[: stages - 1 : -1])  # by level: decoder[s] is the width at the encoder's level s
        self.level_channels = encoder
        self.conv_input = _ConvNormReLU(
            spconv.SubMConv3d(in_channels, base_channels, kernel_size=5, padding=1, bias=False, indice_key="stem"),
            base_channels,
        )
        self.down, self.up, self.enc, self.dec = (nn.ModuleList() for _ in range(4))
        for s in range(stages):
            key, below = f"spconv{s + 1}", decoder[s + 1] if s + 1 < stages else encoder[-1]
            down = spconv.SparseConv3d(encoder[s], encoder[s + 1], kernel_size=2, stride=2, bias=False, indice_key=key)
            up = spconv.SparseInverseConv3d(below, decoder[s], kernel_size=2, bias=False, indice_key=key)
            self.down.append(_ConvNormReLU(down, encoder[s + 1]))
            self.enc.append(_stage(encoder[s + 1], encoder[s + 1], layers[s], f"subm{s + 1}"))
            self.up.append(_ConvNormReLU(up, decoder[s]))
            self.dec.append(_stage(decoder[s] + encoder[s], decoder[s], layers[len(layers) - 1 - s], f"subm{s}"))
        self.final: nn.Module = nn.Identity()
        if num_classes > 0:
            self.final = spconv.SubMConv3d(decoder[0], num_classes, kernel_size=1, padding=1, bias=True)
        self._out_channels = num_classes if num_classes > 0 else decoder[0]
        self._initialise()

    @property
    def out_channels(self) -> int:
        """Channels of what `forward` returns."""
        return self._out_channels

    def forward(self, batch: PointBatch) -> Tensor:
        """Features (or logits) of every voxel, [N, out_channels]."""
        order, x = _sparse_tensor(batch)
        levels = self._encode(x)
        x = levels.pop()
        for s in reversed(range(len(levels))):
            x = self.up[s](x)
            x = _run(self.dec[s], x.replace_feature(torch.cat((x.features, levels[s].features), dim=1)))
        if not isinstance(self.final, nn.Identity):
            x = convolve(self.final, x)
        return _restore(x.features, order)

    def forward_levels(self, batch: PointBatch) -> Tensor:
        """All encoder levels, the stem first, brought to the input voxels side by side: [N, sum(level_channels)]."""
        order, x = _sparse_tensor(batch)
        levels = self._encode(x)
        parts, cells = [levels[0].features], x.indices.long()
        for level in levels[1:]:
            cells = torch.cat((cells[:, :1], cells[:, 1:] // 2), dim=1)
            parts.append(level.features[_find_rows(level.indices.long(), cells, level.spatial_shape)])
        return _restore(torch.cat(parts, dim=1), order)

    def _encode(self, x: Any) -> list[Any]:
        levels = [self.conv_input(x)]
        for down, stage in zip(self.down, self.enc, strict=True):
            levels.append(_run(stage, down(levels[-1])))
        return levels

    def _initialise(self) -> None:
        """Submanifold weights from a normal of 0.02, cut at +-2; batch norm at (1, 0). Others keep spconv's own."""
        sub_m_conv = _spconv().SubMConv3d
        for module in self.modules():
            if isinstance(module, sub_m_conv):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _sparse_tensor(batch: PointBatch) -> tuple[Tensor, Any]:
    """The batch as spconv's tensor, its voxels in lexicographic order (neighbours lie close in memory), and that order.

    Returns:
        [N] int64, the input row of every row of the tensor; the tensor.
    """
    if not len(batch.feat):
        raise InputError("The batch has no points.", "Drop empty scenes before collating.")
    sizes = torch.diff(batch.offsets, prepend=batch.offsets.new_zeros(1))
    scene = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    indices = torch.cat((scene[:, None].int(), batch.grid_coord.int()), dim=1)
    shape = (batch.grid_coord.amax(dim=0) + _SHAPE_MARGIN).tolist()
    order = torch.argsort(_cell_id(indices.long(), shape), stable=True)
    tensor = _spconv().SparseConvTensor(batch.feat[order], indices[order], shape, len(sizes))
    return order, tensor


def _restore(features: Tensor, order: Tensor) -> Tensor:
    """Rows back in the order of the batch."""
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return features[inverse]


def _cell_id(indices: Tensor, shape: Sequence[int]) -> Tensor:
    """One number per cell; indices [N, 4] int64 (scene and three coordinates)."""
    scene, i, j, k = indices.unbind(1)
    return ((scene * shape[0] + i) * shape[1] + j) * shape[2] + k


def _find_rows(indices: Tensor, wanted: Tensor, shape: Sequence[int]) -> Tensor:
    """Rows of `indices` [M, 4] that hold the cells `wanted` [N, 4], each of which is there."""
    ids, order = torch.sort(_cell_id(indices, shape))
    return order[torch.searchsorted(ids, _cell_id(wanted, shape))]


def reestimate_batchnorm(model: nn.Module, forward: Callable[[T], object], batches: Iterable[T]) -> None:
    """Replace the running statistics of every batch norm by their plain average over `batches`.

    A random encoder has never seen data: without this its eval mode means nothing (ROOMS.md, last rule). Momentum and
    train or eval mode are left as they were.

    Args:
        model: the network; changed in place.
        forward: runs the network on one batch; its result is dropped.
        batches: what `forward` takes; at least one.

    Raises:
        InputError: there is no batch.
    """
    remaining = iter(batches)
    try:
        first = next(remaining)
    except StopIteration:
        raise InputError("There is no batch to estimate batch-norm statistics from.") from None
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the cumulative average
        norm.train()
    try:
        with torch.no_grad():
            for batch in chain((first,), remaining):
                forward(batch)
    finally:
        for norm, (momentum, training) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.train(training)


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, batch norm uses the statistics of the batch, as in training, and leaves its running ones as they are.

    Early in a training the running statistics (momentum 0.01) say more about the start than about the network.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm.momentum, norm.training, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
        norm.train()
    try:
        yield
    finally:
        for norm, (momentum, training, tracked) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
            norm.train(training)
