from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gcbench.data.s3dis_facts import s3dis_facts
from gcbench.data.s3dis_release import check_rooms, find_release, read_angles, rotation
from gcbench.errors import DataError, InputError
from tests.data.mutations import assert_survives
from tests.data.raw_folders import write_room

WHOLE = {area: sorted(s3dis_facts().rooms.names(area)) for area in s3dis_facts().rooms.areas}


def write_angles(raw: Path, area: str, **angles: float) -> Path:
    lines = [f"## Global alignment angle per disjoint space in {area} ##", "## Disjoint Space Name Angle ##"]
    file = raw / area / f"{area}_alignmentAngle.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([*lines, *(f"{room} {angle:g}" for room, angle in angles.items())]) + "\n")
    return file


def write_wide_room(raw: Path, name: str, degrees: float) -> None:
    """A room of 8 x 2 m that stands turned by `degrees`."""
    folder = raw / name / "Annotations"
    folder.mkdir(parents=True)
    points = np.random.default_rng(0).uniform(0, 1, (500, 3)) * (8, 2, 3) @ rotation(-degrees).T
    np.savetxt(folder / "clutter_1.txt", np.concatenate([points, np.full((500, 3), 9)], axis=1), fmt="%.3f")


@pytest.mark.parametrize(
    ("folder", "listed", "release", "expected"),
    [
        ("Stanford3dDataset_v1.2_Aligned_Version", True, "auto", "aligned"),
        ("Stanford3dDataset_v1.2", False, "auto", "aligned"),
        ("Stanford3dDataset_v1.2", True, "auto", "unaligned"),
        ("s3dis_unaligned", True, "auto", "unaligned"),
        ("Stanford3dDataset_v1.2_Aligned_Version", True, "unaligned", "unaligned"),
        ("Stanford3dDataset_v1.2", True, "aligned", "aligned"),
    ],
)
def test_which_release(tmp_path: Path, folder: str, listed: bool, release: str, expected: str) -> None:
    raw = tmp_path / folder
    for name in ("Area_2/office_2", "Area_1/office_1", "Area_1/WC_1"):
        write_room(raw, name)
    (raw / "__MACOSX").mkdir()
    if listed:
        write_angles(raw, "Area_1", office_1=90, WC_1=0)
        write_angles(raw, "Area_2", office_2=180)
    found = find_release(raw, release)
    assert found.name == expected
    rooms = {area: [room.name for room in rooms] for area, rooms in found.areas.items()}
    assert rooms == {"Area_1": ["WC_1", "office_1"], "Area_2": ["office_2"]}
    angles = {"Area_1/WC_1": 0.0, "Area_1/office_1": 90.0, "Area_2/office_2": 180.0}
    assert found.angles == (angles if expected == "unaligned" else {})
    assert found.notes == ()


def test_a_room_without_an_angle_is_an_error_and_an_angle_without_a_room_a_note(tmp_path: Path) -> None:
    write_room(tmp_path, "Area_1/office_1")
    write_angles(tmp_path, "Area_1", office_1=0, office_2=90)
    assert find_release(tmp_path).notes == ("1 rooms have an angle but no folder: Area_1/office_2",)
    write_room(tmp_path, "Area_1/office_3")
    with pytest.raises(DataError, match=r"Area_1_alignmentAngle\.txt lists no angle for office_3"):
        find_release(tmp_path)
    write_room(tmp_path, "Area_2/office_1")
    write_angles(tmp_path, "Area_1", office_1=0, office_3=90)
    with pytest.raises(DataError, match=r"Area_2_alignmentAngle\.txt is missing"):
        find_release(tmp_path)


@pytest.mark.parametrize(
    ("stands", "release", "note"),
    [(30, "unaligned", None), (0, "unaligned", "--release aligned"), (30, "aligned", "--release unaligned"),
     (0, "aligned", None)],
)  # fmt: skip
def test_the_boxes_tell_the_other_release(tmp_path: Path, stands: float, release: str, note: str | None) -> None:
    for name in ("hallway_1", "hallway_2"):
        write_wide_room(tmp_path, f"Area_1/{name}", stands)
    write_wide_room(tmp_path, "Area_1/office_1", 0)
    write_angles(tmp_path, "Area_1", hallway_1=30, hallway_2=30, office_1=90)
    notes = find_release(tmp_path, release).notes
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_desktop_files_are_one_note(tmp_path: Path) -> None:
    room = write_room(tmp_path, "Area_1/office_1")
    for folder, name in ((tmp_path, ".DS_Store"), (room.parent, ".DS_Store"), (room, "Icon\r")):
        (folder / name).write_bytes(b"")
    assert find_release(tmp_path).notes == ("3 files of desktops (.DS_Store and the like) passed over",)


def test_a_folder_without_areas_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder Area_1"):
        find_release(tmp_path)
    write_room(tmp_path / "Stanford3dDataset_v1.2", "Area_1/office_1")
    with pytest.raises(DataError, match=r"Give .*Stanford3dDataset_v1\.2 as RAW"):
        find_release(tmp_path)
    with pytest.raises(DataError, match="nowhere cannot be read"):
        find_release(tmp_path / "nowhere")
    with pytest.raises(InputError, match="'turned' is not one of auto, aligned, unaligned"):
        find_release(tmp_path, "turned")


@pytest.mark.parametrize("line", ["office_1", "office_1 x", "office_1 nan", "office_1 90 5", "office_1 0\noffice_1 90"])
def test_a_broken_line_of_angles_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "Area_1_alignmentAngle.txt"
    file.write_text(f"## angles ##\n{line}\n")
    with pytest.raises(DataError, match=r"Area_1_alignmentAngle\.txt, line [23]"):
        read_angles(file)


def test_damaged_angles(tmp_path: Path) -> None:
    file = write_angles(tmp_path, "Area_1", **{f"office_{number}": 90 * (number % 4) for number in range(30)})
    assert assert_survives(lambda: read_angles(file), file, file.read_bytes(), count=300) > 50


def test_a_whole_release_has_272_rooms_or_271() -> None:
    assert sum(map(len, WHOLE.values())) == s3dis_facts().rooms.total == 272
    assert check_rooms(WHOLE) == []
    fewer = {**WHOLE, "Area_5": [room for room in WHOLE["Area_5"] if room != "hallway_6"]}
    assert check_rooms(fewer) == ["Area_5 lacks hallway_6, as many copies do (67 of 68 rooms)."]


def test_an_incomplete_download_is_called_so() -> None:
    notes = check_rooms({**WHOLE, "Area_1": WHOLE["Area_1"][:23]})
    assert len(notes) == 1
    assert notes[0].startswith("Area_1 has 23 of 44 rooms: the download or the unpacking stopped early. Get the whole")
    assert check_rooms({**WHOLE, "Area_1": []})[0].startswith("Area_1 has 0 of 44 rooms")


def test_what_is_missing_or_too_much_is_named() -> None:
    assert check_rooms({**WHOLE, "Area_6": WHOLE["Area_6"][1:]}) == ["Area_6 lacks 1 of 48 rooms: conferenceRoom_1."]
    assert check_rooms({**WHOLE, "Area_2": [*WHOLE["Area_2"], "kitchen_1"]}) == [
        "Area_2 has 1 rooms that are not in the release: kitchen_1."
    ]
    assert check_rooms({**WHOLE, "Area_7": ["office_1"]}) == ["Area_7 is no area of S3DIS."]
    without = {area: rooms for area, rooms in WHOLE.items() if area != "Area_4"}
    assert check_rooms(without) == ["Area_4 is missing: 49 of the release's 272 rooms."]
    assert check_rooms({**WHOLE, "Area_1": WHOLE["Area_3"]}) == [
        "Area_1 holds the rooms of Area_3: its folder is a copy under a wrong name. Unpack the release again."
    ]
