"""The losses of semantic segmentation: cross-entropy and Lovasz-softmax.

Shape legend
    N  points      K  classes      P  classes that occur in the labels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gcbench.errors import InputError
from gcbench.structures import IGNORE_INDEX

_CLASSES_AT_ONCE = 16  # of Lovasz: bounds memory at [16, N]


@dataclass(frozen=True)
class SegmentationLoss:
    """The weighted `total` and its unweighted terms, all []."""

    total: Tensor
    cross_entropy: Tensor
    lovasz: Tensor


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    cross_entropy_weight: float = 1.0,
    lovasz_weight: float = 1.0,
    share: float = 1.0,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> SegmentationLoss:
    """Cross-entropy plus Lovasz-softmax over the labelled points; zero, with gradient zero, if there are none.

    Of a batch that several processes share each computes its part. Cross-entropy is a mean over points, which add up
    by their `share`; Lovasz ranks the points of a batch, so it needs those of all processes.

    Args:
        logits: [N, K].
        labels: [N] int64, class indices; IGNORE_INDEX is not labelled.
        cross_entropy_weight: its weight in the total.
        lovasz_weight: its weight in the total.
        share: the labelled points of this part over their mean in all parts; cross-entropy is multiplied by it.
        gather: from rows of this process to those of all; None where it is alone.

    Raises:
        InputError: shapes differ, or a label is not below K.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise InputError(f"Logits of shape {list(logits.shape)} do not fit labels of shape {list(labels.shape)}.")
    labelled = (labels != IGNORE_INDEX).nonzero().squeeze(1)
    logits, labels = logits.index_select(0, labelled), labels.index_select(0, labelled)
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]):
        raise InputError(
            f"Labels range from {int(labels.min())} to {int(labels.max())}, but there are {logits.shape[1]} classes.",
            f"Unlabelled points have {IGNORE_INDEX}.",
        )
    zero = logits.sum() if not len(labels) else logits.new_zeros(())
    cross_entropy = share * functional.cross_entropy(logits, labels) if len(labels) else zero
    probabilities = logits.softmax(dim=1)
    if gather is not None:
        probabilities, labels = gather(probabilities), gather(labels)
    lovasz = lovasz_softmax(probabilities, labels) if len(labels) else zero
    return SegmentationLoss(cross_entropy_weight * cross_entropy + lovasz_weight * lovasz, cross_entropy, lovasz)


def lovasz_softmax(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Lovasz-softmax, mean over the classes that occur (Berman, Rannen Triki, Blaschko, CVPR 2018, Eq. 7-12).

    For one class the errors m = |[label is the class] - probability| are sorted, largest first; the loss is their dot
    product with the steps of the Jaccard loss as points turn wrong in that order.

    Args:
        probabilities: [N, K].
        labels: [N] int64 in 0 .. K - 1.
    """
    loss: Tensor = _Lovasz.apply(probabilities, labels)  # type: ignore[no-untyped-call]
    return loss


class _Lovasz(torch.autograd.Function):
    """The gradient by an error is its step, which costs nothing beside the sort; so no [N, P] graph is kept."""

    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, labels: Tensor) -> Tensor:
        present = torch.unique(labels)
        gradient = torch.zeros_like(probabilities)
        total = probabilities.new_zeros(())
        for classes in present.split(_CLASSES_AT_ONCE):  # [C] of the P
            belongs = labels == classes[:, None]  # [C, N]
            differences = belongs.to(probabilities) - probabilities.index_select(1, classes).T
            errors, order = differences.abs().sort(dim=1, descending=True)
            hits = belongs.gather(1, order).to(errors)
            size = hits.sum(dim=1, keepdim=True)
            jaccard = 1.0 - (size - hits.cumsum(1)) / (size + (1.0 - hits).cumsum(1))
            steps = torch.diff(jaccard, dim=1, prepend=torch.zeros_like(jaccard[:, :1]))
            total += (errors * steps).sum()
            gradient[:, classes] = (-differences.sign() * torch.empty_like(steps).scatter_(1, order, steps)).T
        ctx.save_for_backward(gradient / len(present))
        return total / len(present)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None
