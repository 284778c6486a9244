from __future__ import annotations

import os
from pathlib import Path

import pytest

from gcbench.data.s3dis_annotations import annotation_files, read_annotation
from gcbench.errors import DataError
from tests.data.mutations import assert_survives

ROW = b"22.350 6.692 3.048 185 187 182\n"


@pytest.mark.parametrize(
    ("found", "meant"),
    [  # the defects that people reported: the bit 0x20 is lost
        (b"22.350 6.692 3.048 185\x00187 182\n", [22.35, 6.692, 3.048, 185, 187, 182]),
        (b"1.000000 2.000000 3.000000 101.000000 102.000000 103.0\x100000\n", [1, 2, 3, 101, 102, 103]),
        (b"19.302 -9.1\x160 1.785 146 137 106\n", [19.302, -9.16, 1.785, 146, 137, 106]),
        (
            b"0.577500 -12.407500 2.604000 167.\x1000000 175.000000 177.000000\n",
            [0.5775, -12.4075, 2.604, 167, 175, 177],
        ),
        (b"1.0 2.0 3\x0e5 4.0 5.0 211\n", [1, 2, 3.5, 4, 5, 211]),
        (b"1.0 2.0 3.0\xc2\xa04.0 5.0 6.0\n", [1, 2, 3, 4, 5, 6]),  # a space that is no ASCII
        (b"\xef\xbb\xbf1.0 2.0 3.0 4.0 5.0 6.0\n", [1, 2, 3, 4, 5, 6]),  # a byte order mark
        (b"1.0\x7f 2.0 3.0 4.0 5.0 6.0\n", [1, 2, 3, 4, 5, 6]),
    ],
)
def test_stray_bytes_are_mended_and_noted(tmp_path: Path, found: bytes, meant: list[float]) -> None:
    file = tmp_path / "Area_1" / "office_1" / "Annotations" / "ceiling_1.txt"
    file.parent.mkdir(parents=True)
    file.write_bytes(ROW + found + ROW)
    values, notes = read_annotation(file)
    assert values[1].tolist() == meant
    assert values[0].tolist() == values[2].tolist() == [22.35, 6.692, 3.048, 185, 187, 182]
    assert len(notes) == 1
    assert notes[0].endswith("mended, the first in line 2")


def test_a_known_defect_is_called_so(tmp_path: Path) -> None:
    file = tmp_path / "Area_5" / "hallway_6" / "Annotations" / "ceiling_1.txt"
    file.parent.mkdir(parents=True)
    file.write_bytes(ROW.replace(b"185 ", b"185\x00"))
    assert read_annotation(file)[1] == ["1 stray byte mended, the first in line 1, as known of the release"]


def test_spacing_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "even.txt").write_text("1 2 3 4 5 6\n-1.5 2e-1 3 255 0 6.0\n")
    (tmp_path / "odd.txt").write_bytes(b"1  2\t3 4 5 6 \r\n\r\n -1.5 2e-1 3 255 0 6.0\n\n\n")
    (even, plain), (odd, notes) = (read_annotation(tmp_path / name) for name in ("even.txt", "odd.txt"))
    assert even.tolist() == odd.tolist() == [[1, 2, 3, 4, 5, 6], [-1.5, 0.2, 3, 255, 0, 6]]
    assert (plain, notes) == ([], ["line ends of Windows", "empty lines"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"1 2 3 4 5 6\n1 2 x 4 5 6\n", "'x'"),
        (b"1 2 3 4 5 6\n1 2 3 4 5\n", "from 6 to 5"),
        (b"1 2 3 4 5\n1 2 3 4 5\n", "5 columns"),
        (b"1 2 3 4 5 256\n", "colour outside"),
        (b"1 2 3 4 5 -1\n", "colour outside"),
        (b"1 2 nan 4 5 6\n", "not finite"),
        (b"1 2 1e39 4 5 6\n", "not finite"),
        (ROW + bytes(4096) + ROW, "damaged: 4096 bytes"),
    ],
)
def test_a_broken_annotation_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "chair_1.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"chair_1\.txt") as caught:
        read_annotation(tmp_path / "chair_1.txt")
    assert expected in str(caught.value)


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "chair_1.txt").mkdir()
    with pytest.raises(DataError, match=r"chair_1\.txt cannot be read"):
        read_annotation(tmp_path / "chair_1.txt")


def test_odd_files_are_passed_over_and_noted(tmp_path: Path) -> None:
    folder = tmp_path / "Area_1" / "office_1" / "Annotations"
    folder.mkdir(parents=True)
    for name in ("wall_1.txt", "._wall_1.txt", ".DS_Store", "Icon\r", "wall_1.txt~"):
        (folder / name).write_bytes(ROW)
    (folder / os.fsdecode(b"wall_\xff.txt")).write_bytes(ROW)
    files, notes = annotation_files(folder.parent)
    assert [os.fsencode(file.name) for file in files] == [b"wall_1.txt", b"wall_\xff.txt"]
    assert sum("passed over" in note for note in notes) == 4
    assert "office_1/wall_\\xff.txt: the name has characters that are not ASCII" in notes
    "".join(notes).encode()  # a note can be stored as UTF-8


def test_damaged_annotations(tmp_path: Path) -> None:
    content = b"".join(b"%.3f %.3f %.3f %d %d %d\n" % (k / 7, -k / 3, 2.5, k, 2 * k, 255 - k) for k in range(40))
    file = tmp_path / "wall_1.txt"
    assert assert_survives(lambda: read_annotation(file), file, content, count=400) > 100
