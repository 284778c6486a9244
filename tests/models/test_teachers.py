from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gcbench.errors import InputError
from gcbench.models import classical_features as classical
from gcbench.models.teachers import ClassicalTeacher


def photos(count: int = 2, height: int = 48, width: int = 64) -> Tensor:
    """Overlapping rectangles of random colour, all of one size, [V, H, W, 3]."""
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, 1, 3, generator=draw).expand(count, height, width, 3).clone()
    for image in images:
        for _ in range(30):
            y, x = int(torch.randint(0, height, (), generator=draw)), int(torch.randint(0, width, (), generator=draw))
            image[y : y + 12, x : x + 9] = torch.rand(3, generator=draw)
    return images


@pytest.mark.parametrize(("height", "width"), [(48, 64), (60, 80), (50, 40)])
def test_maps_lie_on_the_grid(height: int, width: int) -> None:
    teacher = ClassicalTeacher(rows=12)
    maps = teacher(photos(2, height, width))
    assert maps.shape == (2, *teacher.grid(height, width), teacher.dim)
    assert teacher.name == "classical" and bool(torch.isfinite(maps).all())


def test_maps_are_centred_and_tell_places_apart() -> None:
    each = ClassicalTeacher()(photos(6))
    torch.testing.assert_close(each.mean(dim=(1, 2)), torch.zeros(6, each.shape[-1]), atol=1e-4, rtol=0)
    maps = each.flatten(0, 2)
    directions = torch.nn.functional.normalize(maps, dim=1)
    assert float((directions @ directions.T).mean().abs()) < 0.2  # a cosine is not ruled by what all places share
    assert 0.3 < float(maps.norm(dim=1).mean()) < 3.0


def test_two_teachers_are_the_same() -> None:
    assert torch.equal(ClassicalTeacher()(photos()), ClassicalTeacher()(photos()))


def test_a_photo_has_one_map_whatever_is_beside_it() -> None:
    teacher, images = ClassicalTeacher(), photos(3)
    torch.testing.assert_close(teacher(images)[1:2], teacher(images[1:2]), rtol=1e-4, atol=1e-5)


def test_frozen() -> None:
    images = photos().requires_grad_()
    assert not ClassicalTeacher()(images).requires_grad


def test_a_uniform_photo_has_a_finite_map() -> None:
    assert bool(torch.isfinite(ClassicalTeacher()(torch.full((1, 48, 64, 3), 0.3))).all())


def test_self_similarity_outlines_the_region_whatever_its_colour() -> None:
    def box(inside: list[float], outside: list[float]) -> Tensor:
        image = torch.tensor(outside).view(1, 3, 1, 1).expand(1, 3, 40, 40).clone()
        image[:, :, 10:30, 10:30] = torch.tensor(inside).view(3, 1, 1)
        return classical.self_similarity(image, (40, 40), (10, 10), (8,))

    # Colours differ by far more than the tolerance in each, so similarity is 0 or 1 alike.
    torch.testing.assert_close(box([1.0, 0, 0], [0, 0, 1.0]), box([0, 0.9, 0.9], [0.9, 0, 0]), atol=0.02, rtol=0)


def test_orientation_energy_knows_the_direction_of_an_edge() -> None:
    image = torch.zeros(1, 3, 20, 20)
    image[..., 10:] = 1.0  # a vertical edge: its gradient points right, orientation 0
    energy = classical.orientation_energy(image, 6).sum(dim=(0, 2, 3))
    assert float(energy[0]) > 0 and float(energy[1:].max()) < 1e-3 * float(energy[0])
    turned = classical.orientation_energy(image.transpose(2, 3), 6).sum(dim=(0, 2, 3))
    assert int(turned.argmax()) == 3


def test_box_mean_is_the_mean_of_what_lies_inside() -> None:
    image = torch.rand(1, 1, 6, 7, generator=torch.Generator().manual_seed(0))
    got = classical.box_mean(image, 5)
    torch.testing.assert_close(got[0, 0, 3, 3], image[0, 0, 1:6, 1:6].mean())
    torch.testing.assert_close(got[0, 0, 0, 0], image[0, 0, :3, :3].mean())


@pytest.mark.parametrize("size", [1, 3, 5, 31])
def test_box_mean_equals_pooling(size: int) -> None:
    image = torch.randn(2, 3, 13, 9, generator=torch.Generator().manual_seed(0))
    expected = image
    for kernel, padding in (((size, 1), (size // 2, 0)), ((1, size), (0, size // 2))):
        expected = torch.nn.functional.avg_pool2d(_padded(expected, padding), kernel, 1, 0)
        expected = expected / torch.nn.functional.avg_pool2d(_padded(torch.ones(1, 1, 13, 9), padding), kernel, 1, 0)
    torch.testing.assert_close(classical.box_mean(image, size), expected, rtol=1e-5, atol=1e-6)  # order of the sums


def _padded(image: Tensor, padding: tuple[int, int]) -> Tensor:
    return torch.nn.functional.pad(image, (padding[1], padding[1], padding[0], padding[0]))


def test_neighbours_repeat_the_border() -> None:
    image = torch.rand(1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    offsets = [(0, 0), (2, -1), (-7, 9)]
    for (down, right), got in zip(offsets, classical.neighbours(image, offsets), strict=True):
        for row in range(5):
            for column in range(4):
                there = image[..., min(max(row + down, 0), 4), min(max(column + right, 0), 3)]
                assert torch.equal(got[..., row, column], there)


def test_the_key_says_what_the_maps_depend_on() -> None:
    assert ClassicalTeacher(12).key == ClassicalTeacher(12).key != ClassicalTeacher(13).key
    assert ClassicalTeacher(12).describe()["rows"] == 12 and len(ClassicalTeacher(12).key) == 16


def test_mistakes_are_named() -> None:
    teacher = ClassicalTeacher()
    with pytest.raises(InputError, match="too small for 15 rows"):
        teacher(torch.zeros(1, 8, 8, 3))
    with pytest.raises(InputError, match=r"\[V, H, W, 3\]"):
        teacher(torch.zeros(1, 3, 48, 64))
