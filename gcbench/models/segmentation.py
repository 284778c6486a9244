"""A segmenter: an encoder and one linear layer; and the frozen encoder of a linear probe.

Shape legend: N points, F feature channels, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gcbench.models.sparse_unet import SparseUNet
from gcbench.structures import PointBatch

BatchNormMode = Literal["track", "frozen", "reestimated"]
Level = Literal["decoder", "encoder-levels"]


class Segmenter(nn.Module):
    """Encoder [N, F] and `nn.Linear(F, K)` (Table 1's probe, and training in full).

    Args:
        encoder: maps a `PointBatch` to [N, F].
        num_classes: K.
        level: the decoder's output, or all encoder levels side by side (the multi-scale encoder probe).
        frozen: the encoder gets no gradient.
        batchnorm: for a frozen encoder: `track` leaves it in train mode, so that batch norm uses batch statistics and
            its running statistics move, as in the official code; the others put it in eval mode.
    """

    def __init__(
        self,
        encoder: SparseUNet,
        num_classes: int,
        *,
        level: Level = "decoder",
        frozen: bool = False,
        batchnorm: BatchNormMode = "track",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.out_channels if level == "decoder" else sum(encoder.level_channels)
        self.head = nn.Linear(width, num_classes)
        self.level = level
        self.frozen = frozen
        self.batchnorm = batchnorm
        if frozen:
            encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Segmenter:
        """Train or eval mode; a frozen encoder follows only with `batchnorm="track"`."""
        super().train(mode)
        if self.frozen and self.batchnorm != "track":
            self.encoder.eval()
        return self

    def features(self, batch: PointBatch) -> Tensor:
        """What the linear layer sees, [N, F]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encoder(batch) if self.level == "decoder" else self.encoder.forward_levels(batch)

    def forward(self, batch: PointBatch) -> Tensor:
        """Class logits [N, K]."""
        logits: Tensor = self.head(self.features(batch))
        return logits


@dataclass(frozen=True)
class EncoderState:
    """Hashes of an encoder at one moment, 16 hex digits of SHA-256 each.

    Equal `parameters` before and after a linear probe are the proof that the encoder stayed frozen. Its `buffers`, the
    running statistics of batch norm, move under ``track`` and ``reestimated``.
    """

    parameters: str
    buffers: str

    @classmethod
    def of(cls, module: nn.Module) -> EncoderState:
        """The state of a module now."""
        return cls(_hash(module.named_parameters()), _hash(module.named_buffers()))


def _hash(named: Iterable[tuple[str, Tensor]]) -> str:
    """Over all values, in name order."""
    digest = hashlib.sha256()
    for name, value in sorted(named, key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
