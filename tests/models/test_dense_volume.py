from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gcbench.errors import InputError
from gcbench.models.dense_volume import DenseVolume, Voxels, dilate, scatter_features


def points(count: int = 200, seed: int = 0) -> Tensor:
    """A flat, long room somewhere in the world, metres."""
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, generator=draw, dtype=torch.float64) * torch.tensor([5.0, 3.0, 2.0]) - 1.0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_scatter_is_a_loop_over_points(reduction: str) -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(50, 4, generator=draw, dtype=torch.float64)
    index = torch.randint(0, 20, (50,), generator=draw)
    values, cells = scatter_features(features, index, reduction)  # type: ignore[arg-type]
    assert cells.tolist() == sorted(set(index.tolist()))
    for cell, value in zip(cells.tolist(), values, strict=True):
        members = [features[i] for i in range(50) if index[i] == cell]
        torch.testing.assert_close(value, torch.stack(members).sum(0) / (len(members) if reduction == "mean" else 1))


def test_scatter_sums_half_precision_in_float32() -> None:
    features = torch.full((5000, 1), 1.01, dtype=torch.bfloat16)
    values, _ = scatter_features(features, torch.zeros(5000, dtype=torch.int64), "mean")
    assert values.dtype == torch.float32 and float(values) == pytest.approx(float(features[0]), rel=1e-5)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_volume_is_a_dense_network_over_scattered_features(norm: str) -> None:
    """Values and gradients against conv3d, norm and ReLU on the whole grid, with zeros where there is no point."""
    torch.manual_seed(0)
    volume = DenseVolume(3, (9, 7, 5), (16, 8), norm=norm, crop=False).double()  # type: ignore[arg-type]
    coord, features = points(), torch.randn(200, 3, dtype=torch.float64, requires_grad=True)
    ((cube, anchors),) = volume(coord, features, torch.tensor([200]))
    weights = torch.randn_like(anchors.features)
    (anchors.features * weights).sum().backward()
    results = [anchors.features, features.grad, *(value.grad for value in volume.parameters())]
    features.grad = None
    volume.zero_grad()

    values, cells = scatter_features(features, Voxels.of(cube.points(coord), (9, 7, 5), None).index, "mean")
    grid = torch.zeros(9 * 7 * 5, 3, dtype=torch.float64).index_copy(0, cells, values).view(1, 9, 7, 5, 3)
    grid = grid.permute(0, 4, 1, 2, 3)
    for convolution, normalise, relu in volume.blocks:
        grid = relu(normalise(convolution(grid)))
    expected = grid[0].flatten(1).T
    (expected * weights).sum().backward()
    for got, wanted in zip(
        results, [expected, features.grad, *(value.grad for value in volume.parameters())], strict=True
    ):
        torch.testing.assert_close(got, wanted)


def test_anchors_lie_where_their_points_are() -> None:
    torch.manual_seed(0)
    volume = DenseVolume(3, (12, 10, 6), (8,), margin=2)
    coord = points().float()
    ((cube, scene),) = volume(coord, torch.randn(200, 3), torch.tensor([200]))
    mapped = cube.points(coord)
    gap = ((mapped[:, None] - scene.centers).abs() / scene.edges).amax(-1)  # [N, A], in voxels
    assert float(gap.amin(1).max()) <= 0.5 + 1e-4  # every point is inside some voxel
    assert torch.equal(scene.inside, gap.amin(0) < 1.5)  # as long as no point lies on a voxel's face
    assert scene.features.shape == (scene.centers.shape[0], volume.out_channels)
    torch.testing.assert_close(scene.edges, torch.tensor([1 / 12, 1 / 10, 1 / 6]))


def test_crop_is_a_window_of_the_whole_cube() -> None:
    coord, features = points().float(), torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    whole = DenseVolume(3, (12, 12, 12), (4,), crop=False).eval()
    cropped = DenseVolume(3, (12, 12, 12), (4,), crop=True, margin=1).eval()
    cropped.load_state_dict(whole.state_dict())
    offsets = torch.tensor([200])
    (_, all_of_it), (_, part) = whole(coord, features, offsets)[0], cropped(coord, features, offsets)[0]
    assert len(all_of_it.centers) == 12**3 > len(part.centers)
    nearest = torch.cdist(part.centers.double(), all_of_it.centers.double()).min(1)
    assert float(nearest.values.max()) < 1e-6
    # One 3x3x3 convolution reads one voxel around an occupied one, which the margin holds.
    assert int(part.inside.sum()) == int(all_of_it.inside.sum())
    torch.testing.assert_close(part.features[part.inside], all_of_it.features[all_of_it.inside])


def test_scenes_of_a_batch_do_not_mix() -> None:
    first, second = points(seed=1).float(), points(seed=2).float() * 2
    volume = DenseVolume(3, (8, 8, 8), (4, 4), norm="group")
    features = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    both = volume(torch.cat((first, second)), features, torch.tensor([200, 400]))
    alone = volume(second, features[200:], torch.tensor([200]))[0]
    assert len(both) == 2
    torch.testing.assert_close(both[1][1].features, alone[1].features)
    assert float(both[1][0].scale) == float(alone[0].scale)


def test_checkpointing_changes_memory_not_gradients() -> None:
    coord, features = points().float(), torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        volume = DenseVolume(3, (8, 8, 8), (4, 4), norm="group", checkpointing=checkpointing)
        leaf = features.clone().requires_grad_()
        volume(coord, leaf, torch.tensor([200]))[0][1].features.square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_one_point_has_a_volume(norm: str) -> None:
    volume = DenseVolume(3, (8, 8, 8), (8, 8), norm=norm, margin=0)  # type: ignore[arg-type]
    features = torch.ones(2, 3, requires_grad=True)
    ((cube, scene),) = volume(torch.full((2, 3), 1.7), features, torch.tensor([2]))
    assert len(scene.centers) == 1
    assert float(((cube.points(torch.full((3,), 1.7)) - scene.centers[0]).abs() / scene.edges).max()) <= 0.5
    scene.features.sum().backward()
    assert bool(torch.isfinite(scene.features).all()) and bool(torch.isfinite(features.grad).all())


def test_paper_size_crops_to_the_room() -> None:
    """(128, 128, 32) voxels, checkpointed: a corner of a room with few points costs only its own box."""
    volume = DenseVolume(96, (128, 128, 32), (128, 128), norm="group", checkpointing=True, margin=2)
    draw = torch.Generator().manual_seed(0)
    coord = torch.cat((torch.rand(60, 3, generator=draw) * 0.4, torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.4, 0.4]])))
    features = torch.randn(62, 96, generator=draw).requires_grad_()
    ((_, scene),) = volume(coord, features, torch.tensor([62]))
    assert len(scene.centers) <= 128 * (12 + 2 * 2) * (3 + 2) and scene.features.shape == (len(scene.centers), 128)
    torch.testing.assert_close(scene.edges, torch.tensor([1 / 128, 1 / 128, 1 / 32]))
    scene.features.sum().backward()
    assert bool(torch.isfinite(features.grad).all()) and bool(features.grad.any())


def test_dilate_reaches_all_26_neighbours_and_no_further() -> None:
    expected = torch.zeros(5, 6, 7, dtype=torch.bool)
    expected[1:4, 2:5, 3:6] = True
    expected[:2, 4:, :2] = True  # a neighbour at the edge of the grid
    cells = torch.tensor([(2 * 6 + 3) * 7 + 4, (0 * 6 + 5) * 7 + 0])
    assert torch.equal(dilate(cells, (5, 6, 7)), expected.view(-1))


def test_arguments_are_checked() -> None:
    with pytest.raises(InputError, match="resolution"):
        DenseVolume(3, (8, 0, 8), (4,))
    with pytest.raises(InputError, match="norm 'layer'"):
        DenseVolume(3, (8, 8, 8), (4,), norm="layer")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="running statistics"):
        DenseVolume(3, (8, 8, 8), (4,), norm="batch", checkpointing=True)
