from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gcbench.errors import InputError
from gcbench.objectives.supervised import lovasz_softmax, segmentation_loss


def lovasz_by_the_definition(probabilities: Tensor, labels: Tensor) -> Tensor:
    """One class, one point at a time: each error times the rise of the Jaccard loss as its point turns wrong too."""
    losses = []
    for cls in range(probabilities.shape[1]):
        members = {i for i, label in enumerate(labels.tolist()) if label == cls}
        if not members:
            continue
        errors = [1 - p if i in members else p for i, p in enumerate(probabilities[:, cls])]
        wrong: set[int] = set()
        loss = probabilities.new_zeros(())
        before = 0.0
        for i in sorted(range(len(errors)), key=lambda i: -float(errors[i].detach())):
            wrong.add(i)
            jaccard_loss = len(wrong) / len(members | wrong)  # the mispredicted over the union of both sets
            loss = loss + errors[i] * (jaccard_loss - before)
            before = jaccard_loss
        losses.append(loss)
    return torch.stack(losses).mean()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), points=st.integers(1, 25), classes=st.integers(1, 6))
def test_lovasz_is_its_definition(seed: int, points: int, classes: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(points, classes, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, classes, (points,), generator=draw)
    ours, twin = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = lovasz_softmax(ours.softmax(1), labels), lovasz_by_the_definition(twin.softmax(1), labels)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours.grad, twin.grad, rtol=1e-10, atol=1e-14)


def test_many_classes_are_its_definition_too() -> None:
    """More than are computed at once, some of which do not occur."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 50, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, 40, (60,), generator=draw)
    assert len(labels.unique()) > 16
    ours, twin = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = lovasz_softmax(ours.softmax(1), labels), lovasz_by_the_definition(twin.softmax(1), labels)
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours.grad, twin.grad, rtol=1e-10, atol=1e-14)


def test_lovasz_of_hard_predictions_is_the_jaccard_loss() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    predicted = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1]), 3).double()
    # Class 0: 2 of 3; class 1: 1 of 2; class 2 does not occur.
    assert float(lovasz_softmax(predicted, labels)) == pytest.approx(1 - (2 / 3 + 1 / 2) / 2)


def test_unlabelled_points_count_nowhere() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([0, -1, 2, 1, -1, 0])
    loss = segmentation_loss(logits, labels)
    loss.total.backward()
    labelled = [0, 2, 3, 5]
    alone = segmentation_loss(logits.detach()[labelled], labels[labelled])
    torch.testing.assert_close(loss.total.detach(), alone.total)
    assert not logits.grad[[1, 4]].any() and bool(logits.grad[labelled].any(dim=1).all())


def test_total_is_the_weighted_sum_of_the_terms() -> None:
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, -1])
    loss = segmentation_loss(logits, labels, cross_entropy_weight=2.0, lovasz_weight=0.5)
    torch.testing.assert_close(loss.total, 2.0 * loss.cross_entropy + 0.5 * loss.lovasz)
    torch.testing.assert_close(loss.cross_entropy, torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1))


def test_no_labels_is_zero_loss_with_zero_gradient() -> None:
    logits = torch.randn(4, 3).requires_grad_()
    segmentation_loss(logits, torch.full((4,), -1)).total.backward()
    assert torch.equal(logits.grad, torch.zeros(4, 3))


@pytest.mark.parametrize("label", [3, -2])
def test_label_out_of_range_is_refused(label: int) -> None:
    with pytest.raises(InputError, match="but there are 3 classes"):
        segmentation_loss(torch.randn(2, 3), torch.tensor([0, label]))


def test_shapes_are_checked() -> None:
    with pytest.raises(InputError, match=r"\[2, 3\] do not fit labels of shape \[3\]"):
        segmentation_loss(torch.randn(2, 3), torch.tensor([0, 1, 2]))
