"""Scans in a depth buffer: what hides what, and what is cut away."""

from __future__ import annotations

import numpy as np

from gcbench.reporting.scan_image import HEIGHT, WIDTH, ScanImage, project_scan
from gcbench.structures import Float32Array

ABOVE = {"elevation": 90.0, "azimuth": 0.0, "cut_height": 2.0}
OBLIQUE = {"elevation": 45.0, "azimuth": 0.0, "cut_height": 2.0}


def plate(
    z: float, normal: tuple[float, float, float], side: float = 2.0, points: int = 40
) -> tuple[Float32Array, Float32Array]:
    """A level square of so many points along each side around the origin, metres."""
    line = np.linspace(-side / 2, side / 2, points)
    x, y = (axis.ravel() for axis in np.meshgrid(line, line))
    coord = np.stack([x, y, np.full_like(x, z)], axis=1).astype(np.float32)
    return coord, np.tile(np.float32(normal), (len(coord), 1))


def see(*plates: tuple[Float32Array, Float32Array], **view: float) -> ScanImage:
    coord, normal = (np.concatenate(parts) for parts in zip(*plates, strict=True))
    return project_scan(coord, normal, **{**ABOVE, **view})


def test_nearer_points_hide_farther_ones() -> None:
    floor, table = plate(0, (0, 0, 1)), plate(1, (0, 0, 1), side=1.0)
    middle = see(floor, table).index[HEIGHT, WIDTH]  # of the buffer, twice as large
    assert middle >= 1600
    assert see(table, floor).index[HEIGHT, WIDTH] < 1600, "the order of the points must not count"


def test_a_ceiling_is_cut_by_the_way_it_faces_and_by_its_height() -> None:
    floor = plate(0, (0, 0, 1))
    facing_down, facing_up = plate(1.5, (0, 0, -1)), plate(2.5, (0, 0, 1))
    assert see(floor, facing_down).shown.max() < 1600
    assert see(floor, facing_up).shown.max() < 1600
    assert see(floor, plate(1.5, (0, 0, 0))).shown.max() >= 1600, "without a normal a point faces everywhere"


def test_where_nothing_is_kept_all_points_are_shown() -> None:
    assert len(see(plate(0, (0, 0, -1))).shown) == 1600


def test_the_picture_keeps_proportions_and_says_where_points_are() -> None:
    scan = see(plate(0, (0, 0, 1)))
    colors = np.zeros((1600, 3), dtype=np.uint8)
    colors[0] = 255, 0, 0
    picture = scan.paint(colors)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    rows, columns = np.flatnonzero((picture < 1).any((1, 2))), np.flatnonzero((picture < 1).any((0, 2)))
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 2, "a square is a square"
    assert np.ptp(rows) > 0.85 * HEIGHT
    x, y = np.floor(scan.pixel[0]).astype(int)
    assert picture[y, x, 0] > 0.9 > 0.1 > picture[y, x, 1]
    assert (picture[0, 0] == 1).all(), "the ground is white"


def test_a_dense_plate_has_no_holes_from_obliquely_above() -> None:
    scan = see(plate(0, (0, 0, 1), points=100), **OBLIQUE)
    rows, columns = np.nonzero(scan.index >= 0)
    inside = scan.index[rows.min() + 8 : rows.max() - 8, columns.min() + 8 : columns.max() - 8]
    assert (inside >= 0).all()


def test_a_single_point_is_drawn() -> None:
    scan = project_scan(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32), **OBLIQUE)
    assert scan.shown.tolist() == [0]
