"""What the CPU path needs of spconv, for where spconv is not installed: three layers that hold a weight, and a tensor.

They have the attributes, the weight layout (KRSC) and the start of spconv's, so a network that is built of them is the
same network, to the bit. Nothing here computes: `sparse_cpu.convolve` does, on the CPU. On another device these layers
say which extra brings spconv.

Shape legend
    N  voxels     C, D  input, output channels     k  kernel edge
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from gcbench.errors import MissingExtraError


class SparseConvTensor:
    """Features of occupied voxels.

    Args:
        features: [N, C].
        indices: [N, 4] int32: scene and three coordinates.
        spatial_shape: voxels along each axis.
        batch_size: number of scenes.
    """

    def __init__(self, features: Tensor, indices: Tensor, spatial_shape: Sequence[int], batch_size: int) -> None:
        self.features, self.indices = features, indices
        self.spatial_shape, self.batch_size = list(spatial_shape), batch_size
        self.indice_dict: dict[str, Any] = {}

    def replace_feature(self, features: Tensor) -> SparseConvTensor:
        """The same voxels with other features."""
        other = copy.copy(self)
        other.features = features
        return other


class _Layer(nn.Module):
    """A convolution of three axes, weight [D, k, k, k, C]."""

    subm, inverse = False, False
    transposed, act_type = False, SimpleNamespace(name="None_")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = [kernel_size] * 3, [stride] * 3
        self.padding, self.dilation = [padding] * 3, [dilation] * 3
        self.conv1x1 = kernel_size == 1 and (self.subm or stride == 1)
        self.indice_key = indice_key
        self.weight = nn.Parameter(torch.empty(out_channels, *self.kernel_size, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self._start()

    def _start(self) -> None:
        fan = self.in_channels * self.kernel_size[0] ** 3
        bound = math.sqrt(3.0) * (nn.init.calculate_gain("leaky_relu", math.sqrt(5)) / math.sqrt(fan))
        with torch.no_grad():
            self.weight.uniform_(-bound, bound)
            if self.bias is not None:
                self.bias.uniform_(-1 / math.sqrt(fan), 1 / math.sqrt(fan))

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        raise MissingExtraError(
            f"A sparse convolution on '{x.features.device.type}' needs spconv, which is not installed.",
            "Install it: pip install 'gcbench[cu126]' (see CONTRIBUTING.md), or compute on the CPU.",
        )


class SubMConv3d(_Layer):
    """Submanifold: output voxels are the input voxels."""

    subm = True


class SparseConv3d(_Layer):
    """Output voxels are those that the kernel reaches."""


class SparseInverseConv3d(_Layer):
    """Back to the input voxels of the layer with the same `indice_key`."""

    inverse = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, indice_key: str, bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias=bias, indice_key=indice_key)
