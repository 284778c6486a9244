"""Instances as text and as arrays: what is written comes back, and what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcbench.errors import InputError
from gcbench.scoring.instance_files import parse_instance_list, read_instances, read_target, write_instances


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(-5, 2000), st.floats(allow_nan=False), st.integers(0, 2**32)), max_size=4),
    st.sampled_from(["scene0000_00", "Area_1/office_1"]),
)
def test_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, vertices: int, listed: list[tuple[int, float, int]], scene: str
) -> None:
    folder = tmp_path_factory.mktemp("predictions")
    masks = np.array([np.random.default_rng(seed).random(vertices) < 0.5 for _, _, seed in listed], np.bool_)
    masks = masks.reshape(len(listed), vertices)
    label_ids, scores = np.array([row[0] for row in listed], np.int64), np.array([row[1] for row in listed], np.float64)
    write_instances(folder, scene, label_ids, scores, masks)
    again = read_instances(folder / f"{scene}.txt", folder, vertices)
    assert again.label_ids.tolist() == label_ids.tolist()
    assert again.scores.tolist() == scores.tolist()
    assert [mask.tolist() for mask in again.masks] == masks.tolist()


def test_arrays_are_the_same_as_text(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    masks = np.array([[1, 0, 7], [0, 0, 1]], np.uint8)
    arrays = {"masks": masks, "labels": np.array([3, 39]), "scores": np.array([0.25, 0.5], np.float32)}
    np.savez(tmp_path / "a.npz", **arrays)
    save_file(arrays, tmp_path / "a.safetensors")
    write_instances(tmp_path, "a", arrays["labels"], arrays["scores"], masks)
    for suffix in (".npz", ".safetensors", ".txt"):
        read = read_instances(tmp_path / f"a{suffix}", tmp_path, 3)
        assert read.label_ids.tolist() == [3, 39]
        assert read.scores.tolist() == [0.25, 0.5]
        assert [np.flatnonzero(mask).tolist() for mask in read.masks] == [[0, 2], [2]]


def test_the_last_line_about_a_mask_counts_in_place_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("m.txt 3 0.5\nn.txt 4 0.25\n./x/../m.txt 5 1\n")
    read = read_instances(tmp_path / "a.txt", tmp_path)
    assert read.label_ids.tolist() == [5, 4]
    assert read.scores.tolist() == [1.0, 0.25]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("m.txt 3", "has 2 fields instead of 3"),
        ("m.txt  3 0.5", "has 4 fields instead of 3"),
        ("m.txt\t3\t0.5", "has 1 fields instead of 3"),
        ("", "it is empty"),
        (" 3 0.5", "'' is no path of a mask"),
        ("/etc/passwd 3 0.5", "the mask '/etc/passwd' is no relative path"),
        ("m\0.txt 3 0.5", "is no path of a mask"),
        ("m.txt chair 0.5", "the label id 'chair' is no integer"),
        ("m.txt 3.5 0.5", "the label id '3.5' is no integer"),
        ("m.txt 99999999999 0.5", "is no integer"),
        ("m.txt 3 high", "the confidence 'high' is no number"),
        ("m.txt 3 0_5", "the confidence '0_5' is no number"),
        ("m.txt 3 nan", "the confidence is nan"),
    ],
)
def test_a_line_that_is_no_prediction_is_named(line: str, said: str, tmp_path: Path) -> None:
    content = f"ok.txt 3.0 0.5\n{line}\n".encode()
    with pytest.raises(InputError) as caught:
        list(parse_instance_list(content, "a.txt"))
    assert caught.value.message.startswith("a.txt, line 2: ")
    assert said in caught.value.message


def test_no_mask_is_read_from_outside(tmp_path: Path) -> None:
    folder = tmp_path / "predictions"
    folder.mkdir()
    (tmp_path / "outside.txt").write_text("1\n")
    (tmp_path / "predictions2").mkdir()
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "linked").symlink_to(tmp_path)
    for mask in ("../outside.txt", "x/../../outside.txt", "../predictions2/m.txt", "link.txt", "linked/outside.txt"):
        (folder / "a.txt").write_text(f"{mask} 3 0.5\n")
        with pytest.raises(InputError, match=r"a\.txt, line 1: the mask .* lies outside"):
            read_instances(folder / "a.txt", folder)


def test_links_in_a_circle_are_an_error_of_reading(tmp_path: Path) -> None:
    (tmp_path / "m.txt").symlink_to(tmp_path / "m.txt")
    (tmp_path / "a.txt").write_text("m.txt 3 0.5\n")
    with pytest.raises(InputError, match="cannot be read: Too many levels"):
        _ = read_instances(tmp_path / "a.txt", tmp_path).masks[0]


def test_masks_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("missing.txt 3 0.5\nshort.txt 3 0.5\nwrong.txt 3 0.5\n")
    (tmp_path / "short.txt").write_text("1\n")
    (tmp_path / "wrong.txt").write_text("1\n1\nx\n")
    masks = read_instances(tmp_path / "a.txt", tmp_path, 3).masks
    for number, said in enumerate(("missing.txt cannot be read", "1 values, its scene 3", "wrong.txt, line 3")):
        with pytest.raises(InputError, match=said):
            masks[number]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"masks": np.zeros((2, 4), np.bool_)}, "has 4 values, its scene 3 vertices"),
        ({"masks": np.zeros((1, 3), np.bool_)}, "labels (2,)"),
        ({"masks": np.zeros((2, 3))}, "masks of float64"),
        ({"masks": np.zeros(3, np.bool_)}, "with shape (3,)"),
        ({"labels": np.zeros(2)}, "labels: an array of float64"),
        ({"scores": np.zeros(3)}, "scores (3,)"),
        ({"scores": np.array([0.5, np.nan])}, "a score is not a number"),
        ({"scores": np.zeros(2, np.bool_)}, "a score is not a number"),
        ({"extra": np.zeros(2)}, "has the arrays extra, labels, masks, scores"),
    ],
)
def test_arrays_that_are_no_predictions(change: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    arrays = {"masks": np.zeros((2, 3), np.bool_), "labels": np.array([3, 4]), "scores": np.zeros(2)}
    np.savez(tmp_path / "a.npz", **{**arrays, **change})
    with pytest.raises(InputError) as caught:
        read_instances(tmp_path / "a.npz", tmp_path, 3)
    assert said in caught.value.message


def test_one_array_cannot_hold_instances(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(InputError, match="cannot hold masks"):
        read_instances(tmp_path / "a.npy", tmp_path)


def test_ground_truth_in_every_format(tmp_path: Path) -> None:
    ids = np.array([3001, 0, 39012])
    (tmp_path / "a.txt").write_text("3001\n0\n39012\n")
    np.save(tmp_path / "a.npy", ids)
    np.savez(tmp_path / "one.npz", ids=ids)
    for name in ("a.txt", "a.npy", "one.npz"):
        read = read_target(tmp_path / name)
        assert isinstance(read, np.ndarray)
        assert read.tolist() == ids.tolist()
    np.savez(tmp_path / "two.npz", segment=np.array([3, 0, 39]), instance=np.array([0, -1, 11]))
    assert [part.tolist() for part in read_target(tmp_path / "two.npz")] == [[3, 0, 39], [0, -1, 11]]
    np.savez(tmp_path / "wrong.npz", segment=np.array([3, 0, 39]), instance=np.array([0, -1]))
    with pytest.raises(InputError, match="3 labels, but 2 instances"):
        read_target(tmp_path / "wrong.npz")
    np.savez(tmp_path / "other.npz", segment=ids, other=ids)
    with pytest.raises(InputError, match="has the arrays other, segment"):
        read_target(tmp_path / "other.npz")
