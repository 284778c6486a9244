"""Protocol files: what they say about the label sets, and what is refused in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gcbench.data.labels import load_label_set
from gcbench.errors import InputError
from gcbench.resources import resource_path
from gcbench.scoring import protocols
from gcbench.scoring.protocols import load_protocol, protocol_names
from gcbench.structures import LabelSet


def test_there_are_two_families() -> None:
    assert protocol_names() == ["pointcept", "scannet-official"]


@pytest.mark.parametrize("name", protocol_names())
def test_instance_thresholds_and_classes(name: str) -> None:
    policy = load_protocol(name).instance
    # The fourth and later ones are not the nearest floats of 0.65, 0.7, ...; a match at such an IoU depends on it.
    exact = [0.5, 0.55, 0.6000000000000001, 0.6500000000000001, 0.7000000000000002, 0.7500000000000002]
    exact += [0.8000000000000003, 0.8500000000000003, 0.9000000000000004, 0.25]
    assert policy.thresholds().tolist() == exact
    for label_set in (load_label_set("scannet20"), load_label_set("scannet200")):
        classes = [label_set.classes[k] for k in policy.evaluated_classes(label_set)]
        assert classes == [name for name in label_set.classes if name not in ("wall", "floor")]


def test_label_sets_a_protocol_does_not_know() -> None:
    policy = load_protocol("pointcept").instance
    with pytest.raises(InputError, match=r"'s3dis' count as instances\. It knows: scannet20, scannet200"):
        policy.evaluated_classes(load_label_set("s3dis"))
    with pytest.raises(InputError, match="'wall', which is no class of 'scannet20'"):
        policy.evaluated_classes(LabelSet("scannet20", "scannet", ("floor", "chair"), (2, 5)))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("semantic", "epsilon", "1e-10", r"mine.yaml: key 'semantic.epsilon'.*'1e-10'"),
        ("semantic", "absent_class", "skip", "key 'semantic.absent_class'"),
        ("instance", "minimum_vertices", 0, "key 'instance.minimum_vertices'"),
        ("instance", "unevaluated", {"scannet20": "wall"}, "key 'instance.unevaluated.scannet20'"),
        ("instance", "envelope", True, "key 'instance.envelope'"),
    ],
)
def test_values_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, key: str, value: object, message: str
) -> None:
    content = yaml.safe_load(resource_path("evaluation", "protocols", "pointcept.yaml").read_text())
    content["name"] = "mine"
    content[section][key] = value
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content).replace("'1e-10'", "1e-10"))
    monkeypatch.setattr(protocols, "resource_path", lambda *parts: tmp_path.joinpath(*parts[2:]))
    with pytest.raises(InputError, match=message):
        load_protocol("mine")


def test_names_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="Known: pointcept, scannet-official"):
        load_protocol("nobody")
    text = resource_path("evaluation", "protocols", "pointcept.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(protocols, "resource_path", lambda *parts: tmp_path.joinpath(*parts[2:]))
    with pytest.raises(InputError, match=r"key 'name' is 'pointcept', but the file is called 'mine.yaml'"):
        load_protocol("mine")
