"""What the names of the paper stand for."""

from __future__ import annotations

import pytest

from gcbench.errors import InputError
from gcbench.reproduce.targets import load_target


def test_a_table_is_its_cells_and_all_is_every_table() -> None:
    (one,) = load_target("table3", rows=["gaussiancross"], columns=["scannet"]).selections
    assert (one.table.id, one.rows, one.columns) == ("table3", ("gaussiancross",), ("scannet",))
    everything = load_target("all")
    assert {one.table.id for one in everything.selections} == {*(f"table{k}" for k in range(1, 8)), "fig3"}
    assert everything.figures == ("figS1", "figS2", "figS3", "figS4", "figS5")
    overview = load_target("fig1")
    assert {one.table.id: one.rows for one in overview.selections} == {
        "table1": ("spunet-scratch", "gaussiancross"),
        "table3": ("spunet-scratch", "gaussiancross"),
        "table4": ("pointgroup-scratch", "gaussiancross"),
    }
    assert load_target("figS2").figures == ("figS2",) and not load_target("figS2").selections


def test_a_wrong_name_says_the_right_ones() -> None:
    with pytest.raises(InputError, match="table1, table2"):
        load_target("table9")
    with pytest.raises(InputError, match="choose from one table"):
        load_target("all", rows=["gaussiancross"])
