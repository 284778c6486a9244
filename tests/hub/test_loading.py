"""AutoModel: from the Hub, folders and the cache; what it computes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import gcbench
from gcbench import AutoModel
from gcbench.data.labels import load_label_set
from gcbench.errors import DataError, GcbenchError, InputError
from gcbench.hub.client import UnreachableError
from gcbench.protocols.encode import encode_scene, load_any_encoder
from gcbench.structures import Scene
from tests.hub.hub_server import HubServer
from tests.hub.small_models import SIZES, reproduction, scene, small_encoder, write_encoder, write_segmenter

REPO = "user/small"


@pytest.fixture
def published(hub: HubServer, tmp_path: Path) -> HubServer:
    """The server with an encoder in `user/small`."""
    AutoModel.from_pretrained(write_encoder(tmp_path / "encoder")).push_to_hub(REPO, tag="v1")
    return hub


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "encoder")


def test_it_is_there_without_torch_being_imported() -> None:
    code = "import gcbench, sys; assert 'torch' not in sys.modules; gcbench.AutoModel; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'AutoModels'"):
        _ = gcbench.AutoModels  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="from_pretrained"):
        AutoModel()


def test_loading_an_encoder_imports_only_what_it_needs(encoder: Path) -> None:
    code = f"""
import sys
from gcbench import AutoModel
AutoModel.from_pretrained({str(encoder)!r})
heavy = {{"accelerate", "transformers", "datasets", "matplotlib", "tensorboard", "gsplat", "jinja2", "rich", "typer"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_without_spconv_the_features_are_the_same_to_the_bit(encoder: Path, tmp_path: Path) -> None:
    """The base install: a model loads and computes on the CPU."""
    for name, array in zip("abc", scene(), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    code = f"""
import sys, numpy as np
sys.modules["spconv"] = None
from gcbench import AutoModel
coord, color, normal = (np.load(f"{tmp_path}/{{name}}.npy") for name in "abc")
np.save({str(tmp_path / "out.npy")!r}, AutoModel.from_pretrained({str(encoder)!r}).encode(coord, color, normal).numpy())
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert np.array_equal(np.load(tmp_path / "out.npy"), AutoModel.from_pretrained(encoder).encode(*scene()).numpy())


def test_features_are_those_of_encode(encoder: Path) -> None:
    coord, color, normal = scene()
    features = AutoModel.from_pretrained(encoder).encode(coord, color, normal)
    expected, _ = encode_scene(Scene("s", coord, color, normal), load_any_encoder(encoder), torch.device("cpu"))
    assert features.shape == (600, 16)
    assert torch.equal(features, torch.from_numpy(expected))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 80), min_size=1, max_size=3))
def test_a_batch_is_its_scenes_and_order_does_not_matter(encoder: Path, sizes: list[int]) -> None:
    """With one point in each voxel: else the first of them stands for the others."""
    model = AutoModel.from_pretrained(encoder)
    scenes = [one_point_per_voxel(size, number, model.grid_size) for number, size in enumerate(sizes)]
    together = model.encode(*(list(arrays) for arrays in zip(*scenes, strict=True)))
    for arrays, features in zip(scenes, together, strict=True):
        torch.testing.assert_close(features, model.encode(*arrays), atol=1e-5, rtol=1e-5)
        order = np.random.default_rng(7).permutation(len(features))
        moved = model.encode(*(array[order] for array in arrays))
        torch.testing.assert_close(moved, features[order], atol=1e-5, rtol=1e-5)


def one_point_per_voxel(size: int, seed: int, grid_size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points well inside voxels, wherever the scene is centred: a corner at 0, the others at 0.3 of an edge."""
    cells = 1 + np.random.default_rng(seed).permutation(999)[:size]
    coord = (np.stack(np.unravel_index(cells, (10, 10, 10)), axis=1) + 0.3) * grid_size
    coord[0] = 0.0
    _, color, normal = scene(size, seed)
    return coord.astype(np.float32), color, normal


def test_it_takes_tensors_lists_and_integers(encoder: Path) -> None:
    model = AutoModel.from_pretrained(encoder)
    coord, color, normal = scene(50)
    expected = model.encode(coord, color, normal)
    assert torch.equal(model.encode(*map(torch.from_numpy, (coord, color, normal))), expected)
    assert torch.equal(model.encode(coord.tolist(), color.tolist(), normal.tolist()), expected)
    assert torch.equal(model.encode(coord.astype(np.float64), color.astype(np.int64), normal), expected)
    assert torch.equal(model.encode([coord], [color], [normal])[0], expected)


def test_it_never_trains(encoder: Path) -> None:
    model = AutoModel.from_pretrained(encoder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model.encode(*scene())
    model.train()
    assert torch.equal(model.encode(*scene()), expected)
    assert model.module.training and not expected.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color": lambda c: c / 255.0}, "between 0 and 1"),
        ({"color": lambda c: c.astype(float) + 100}, "between 0 and 255"),
        ({"color": lambda c: c[:5]}, "600 coordinates, 5 colours"),
        ({"coord": lambda c: c[:, :2]}, r"coord is \[600, 2\]"),
        ({"coord": lambda c: np.where(c > 1, np.nan, c)}, "not finite"),
        ({"coord": lambda c: c[:0], "color": lambda c: c[:0], "normal": lambda c: c[:0]}, "0 coordinates"),
        ({"normal": lambda _: None}, "needs normals"),
        ({"normal": lambda _: "up"}, "normal is no array of numbers"),
    ],
)
def test_bad_points_are_named(encoder: Path, change: dict[str, Any], message: str) -> None:
    names = ("coord", "color", "normal")
    arrays = {name: change.get(name, lambda c: c)(value) for name, value in zip(names, scene(), strict=True)}
    with pytest.raises(InputError, match=message):
        AutoModel.from_pretrained(encoder).encode(**arrays)


def test_scenes_must_be_as_many_as_colours(encoder: Path) -> None:
    coord, color, normal = scene(5)
    with pytest.raises(InputError, match="2 scenes of coordinates, 1 of colours"):
        AutoModel.from_pretrained(encoder).encode([coord, coord], [color], [normal, normal])
    with pytest.raises(InputError, match="0 scenes"):
        AutoModel.from_pretrained(encoder).encode([], [], [])


def test_an_encoder_without_normals(tmp_path: Path) -> None:
    from gcbench.protocols.encoders import export_encoder

    sizes = SIZES.model_copy(update={"in_channels": 3})
    export_encoder(small_encoder(0, sizes), sizes, tmp_path / "encoder", {"grid_size": 0.05})
    model = AutoModel.from_pretrained(tmp_path / "encoder")
    coord, color, normal = scene()
    assert model.encode(coord, color).shape == (600, 16)
    with pytest.raises(InputError, match="takes no normals"):
        model.encode(coord, color, normal)


def test_every_kind_is_saved_published_and_loaded(hub: HubServer, tmp_path: Path) -> None:
    run = reproduction(tmp_path / "out")
    sources: dict[str, Path] = {
        "encoder": run.folder,
        "segmenter": write_segmenter(tmp_path / "semantic" / "last.safetensors"),
        "instance-segmenter": write_segmenter(tmp_path / "instance" / "last.safetensors", instances=True),
    }
    for kind, source in sources.items():
        model = AutoModel.from_pretrained(source)
        assert model.kind == kind
        model.save_pretrained(tmp_path / kind)
        model.push_to_hub(f"user/{kind}")
        for name in (tmp_path / kind, f"user/{kind}"):
            again = AutoModel.from_pretrained(name, check=True)
            assert (again.kind, again.channels, again.grid_size) == (kind, 16, model.grid_size)
            assert torch.equal(again.encode(*scene()), model.encode(*scene()))
            if kind != "encoder":
                predicted, expected = again.predict(*scene()), model.predict(*scene())
                assert predicted.classes == load_label_set("scannet20").classes
                assert predicted.label.shape == (600,) and (predicted.label == expected.label).all()
                assert (predicted.instance is None) == (kind == "segmenter")
    with pytest.raises(InputError, match="knows no classes"):
        AutoModel.from_pretrained(run.folder).predict(*scene())


def test_what_was_fine_tuned_is_what_is_saved(encoder: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(encoder)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.01)
    model.save_pretrained(tmp_path / "tuned")
    assert torch.equal(AutoModel.from_pretrained(tmp_path / "tuned").encode(*scene()), model.encode(*scene()))
    with pytest.raises(InputError, match="is already there"):
        model.save_pretrained(tmp_path / "tuned")


def test_revisions_pin_a_model(published: HubServer, tmp_path: Path) -> None:
    first = published.repositories[REPO].head.oid
    AutoModel.from_pretrained(write_encoder(tmp_path / "second", seed=1)).push_to_hub(REPO)
    old, new = AutoModel.from_pretrained(REPO, revision="v1"), AutoModel.from_pretrained(REPO)
    assert (old.source.commit, new.source.commit) == (first, published.repositories[REPO].head.oid)
    assert not torch.equal(old.encode(*scene()), new.encode(*scene()))
    assert torch.equal(AutoModel.from_pretrained(REPO, revision=first).encode(*scene()), old.encode(*scene()))
    with pytest.raises(InputError, match="does not have this revision"):
        AutoModel.from_pretrained(REPO, revision="v2")
    with pytest.raises(InputError, match="has no revision 'v1'"):
        AutoModel.from_pretrained(tmp_path / "second", revision="v1")


FRESH = """
import sys, numpy as np
from gcbench import AutoModel
coord, color, normal = (np.load(name) for name in sys.argv[2:5])
features = AutoModel.from_pretrained("user/small", check=True).encode(coord, color, normal)
np.save(sys.argv[1], features.numpy())
"""


def test_a_fresh_process_with_an_empty_cache_and_then_offline(
    published: HubServer, hub_environment: dict[str, str], encoder: Path, tmp_path: Path
) -> None:
    names = [str(tmp_path / f"{name}.npy") for name in ("coord", "color", "normal")]
    for name, array in zip(names, scene(), strict=True):
        np.save(name, array)
    expected = AutoModel.from_pretrained(encoder).encode(*scene()).numpy()
    asked = 0
    for number, extra in enumerate(({}, {"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"})):
        out = tmp_path / f"features{number}.npy"
        command = [sys.executable, "-c", FRESH, str(out), *names]
        done = subprocess.run(command, env={**hub_environment, **extra}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert np.array_equal(np.load(out), expected)
        asked = asked or len(published.requests)
    assert len(published.requests) == asked  # nothing was asked for after the first time


def test_offline_without_a_cache(hub: HubServer) -> None:
    with pytest.raises(UnreachableError, match="is not in the cache"):
        AutoModel.from_pretrained(REPO, local_files_only=True)
    assert hub.requests == []


def test_a_hub_that_is_down_is_not_needed_for_what_is_cached(published: HubServer) -> None:
    expected = AutoModel.from_pretrained(REPO).encode(*scene())
    published.fail("GET", "/api/models", status=503, times=1000)
    published.fail("HEAD", "/resolve/", status=503, times=1000)
    assert torch.equal(AutoModel.from_pretrained(REPO).encode(*scene()), expected)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["status", "cut", "refuse", "corrupt"])
def test_faults_while_downloading(published: HubServer, encoder: Path, name: str, kind: Any) -> None:
    oid = published.repositories[REPO].head.files[name].oid
    path = f"/objects/{oid}" if name.endswith(".safetensors") else f"/resolve/.*/{name}"
    published.fail("GET", path, kind, times=1)
    expected = AutoModel.from_pretrained(encoder).encode(*scene())
    if kind == "corrupt" and name == "config.json":
        with pytest.raises(GcbenchError):  # what arrives is no model of gcbench; nothing is computed with it
            AutoModel.from_pretrained(REPO)
        return
    assert torch.equal(AutoModel.from_pretrained(REPO).encode(*scene()), expected)
    assert published.faults_left == 0


def test_a_tampered_file_is_refused(published: HubServer, tmp_path: Path) -> None:
    head = published.repositories[REPO].head
    weights = bytearray(head.files["model.safetensors"].content)
    weights[-1] ^= 1
    published.put(REPO, {"model.safetensors": bytes(weights)}, "tampered")
    with pytest.raises(DataError, match=r"model\.safetensors is not what was published"):
        AutoModel.from_pretrained(REPO)
    model = AutoModel.from_pretrained(REPO, revision=head.oid)
    (blob,) = [path for path in (tmp_path / "hub-cache").rglob("model.safetensors") if head.oid in str(path)]
    blob.resolve().write_bytes(bytes(weights))  # in the cache
    with pytest.raises(DataError, match=r"model\.safetensors is not what was published"):
        AutoModel.from_pretrained(REPO, revision=head.oid, local_files_only=True)
    again = AutoModel.from_pretrained(REPO, revision=head.oid)  # the Hub still has the right one
    assert torch.equal(again.encode(*scene()), model.encode(*scene()))


def test_another_model_with_a_fitting_manifest_fails_the_golden_features(published: HubServer, tmp_path: Path) -> None:
    """Whoever changes weights and manifest together is found by the golden features."""
    AutoModel.from_pretrained(write_encoder(tmp_path / "other", seed=3)).save_pretrained(tmp_path / "model")
    files = {name: (tmp_path / "model" / name).read_bytes() for name in ("model.safetensors", "manifest.json")}
    golden = published.read(REPO, "golden.json")
    manifest = json.loads(files["manifest.json"])
    manifest["files"]["golden.json"] = json.loads(published.read(REPO, "manifest.json"))["files"]["golden.json"]
    published.put(REPO, {**files, "manifest.json": json.dumps(manifest).encode(), "golden.json": golden})
    AutoModel.from_pretrained(REPO)
    with pytest.raises(DataError, match=r"does not compute what was published.*too large for rounding") as raised:
        AutoModel.from_pretrained(REPO, check=True)
    assert "all library versions are the same" in str(raised.value)


def test_half_precision_is_told(encoder: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(encoder).save_pretrained(tmp_path / "model")
    model = AutoModel.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(value.half().float())
    (*_, reason, versions) = model.check()
    assert reason.startswith("precision") and versions.startswith("all library versions")


@pytest.mark.parametrize(
    ("files", "message", "way_out"),
    [
        ({"pytorch_model.bin": b"x"}, "has pickle files only", 'file="pytorch_model.bin"'),
        ({"config.json": b"{}"}, "is no whole model of gcbench: model.safetensors, manifest.json is missing", "page"),
        ({"README.md": b""}, "config.json, model.safetensors, manifest.json is missing", "page"),
        ({"manifest.json": None}, "has no manifest.json", "load the folder"),
        ({"model.safetensors": None}, "model.safetensors is missing", "page"),
        ({"config.json": b'{"model_type": "bert", "architectures": []}'}, "is a 'bert'", "transformers.AutoModel"),
        ({"config.json": b'{"auto_map": {"AutoModel": "m.M"}}'}, "code of the repository to be run", "never|file="),
        ({"config.json": b"[]"}, "is not a JSON object", "Ask"),
        ({"config.json": b"{"}, "is not JSON", "Ask"),
        ({"manifest.json": b"{}"}, "cannot be read", "Download"),
    ],
)
def test_what_is_no_model_of_ours_is_refused_before_the_weights_come(
    published: HubServer, files: dict[str, bytes | None], message: str, way_out: str
) -> None:
    import re

    whole = "model.safetensors" in files or ("config.json" in files and files["config.json"] != b"{}")
    repo = REPO if whole or "manifest.json" in files else "user/other"
    published.put(repo, files)
    with pytest.raises(GcbenchError, match=message) as raised:
        AutoModel.from_pretrained(repo)
    assert re.search(way_out, raised.value.way_out)
    assert not [path for method, path, _ in published.requests if method == "GET" and path.startswith("/objects/")] or (
        "manifest" in message or "cannot be read" in message
    )


def test_a_pointcept_checkpoint_by_name(hub: HubServer, tmp_path: Path) -> None:
    encoder = small_encoder()
    state = {f"module.backbone.{name}": value for name, value in encoder.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 800}, tmp_path / "model_last.pth")
    hub.put("user/official", {"pretrain/model/model_last.pth": (tmp_path / "model_last.pth").read_bytes()})
    with pytest.raises(InputError, match="has pickle files only") as raised:
        AutoModel.from_pretrained("user/official")
    assert 'file="pretrain/model/model_last.pth"' in raised.value.way_out
    model = AutoModel.from_pretrained("user/official", file="pretrain/model/model_last.pth")
    assert all(torch.equal(value, model.encoder.state_dict()[name]) for name, value in encoder.state_dict().items())
    assert (model.grid_size, model.kind) == (0.02, "encoder")
    local = AutoModel.from_pretrained(tmp_path, file="model_last.pth")
    assert torch.equal(local.encode(*scene()), model.encode(*scene()))
    for bad in ("../model_last.pth", "/etc/passwd"):
        with pytest.raises(InputError, match="is no path in a repository"):
            AutoModel.from_pretrained("user/official", file=bad)
    with pytest.raises(InputError, match="lacks a file"):
        AutoModel.from_pretrained("user/official", file="other.pth")


def test_a_pickle_with_code_is_never_run(hub: HubServer, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Harmful()}, tmp_path / "bad.pth")
    hub.put("user/bad", {"bad.pth": (tmp_path / "bad.pth").read_bytes()})
    with pytest.raises(InputError, match="needs code to be opened"):
        AutoModel.from_pretrained("user/bad", file="bad.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["nowhere/at/all", "./nowhere", "nowhere", "~/nowhere"])
def test_a_folder_that_is_not_there(hub: HubServer, name: str) -> None:
    with pytest.raises(InputError, match="There is no folder"):
        AutoModel.from_pretrained(name)
    assert hub.requests == []


def test_broken_folders_are_named(encoder: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(encoder).save_pretrained(tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    changes = {
        "is missing": {name: value for name, value in tensors.items() if name != "conv_input.0.weight"},
        "is not of this model": {**tensors, "extra": torch.zeros(1)},
        "float16": {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()},
        "not finite": {**tensors, "conv_input.1.weight": torch.full((8,), torch.nan)},
    }
    for message, changed in changes.items():
        save_file(changed, tmp_path / "model" / "model.safetensors")
        with pytest.raises(DataError, match="was damaged or changed"):
            AutoModel.from_pretrained(tmp_path / "model")
        (tmp_path / "bare" / message.replace(" ", "-")).mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            content = (tmp_path / "model" / name).read_bytes()
            (tmp_path / "bare" / message.replace(" ", "-") / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            AutoModel.from_pretrained(tmp_path / "bare" / message.replace(" ", "-"))


def test_a_config_that_asks_for_a_huge_network_is_refused_before_it_is_built(encoder: Path, tmp_path: Path) -> None:
    config = json.loads((encoder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "layers": [1, 10**9, 1, 1]}))
    (tmp_path / "model.safetensors").write_bytes((encoder / "model.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"too few for a network of 1,000,000,003 blocks"):
        AutoModel.from_pretrained(tmp_path)


def test_a_source_is_said_shortly(published: HubServer) -> None:
    source = AutoModel.from_pretrained(REPO).source
    assert str(source) == f"{REPO}@{published.repositories[REPO].head.oid[:12]}"
    assert str(replace(source, commit=None, file="a.pth")) == f"{REPO}/a.pth"


@pytest.mark.gpu
def test_a_gpu_gives_the_same_features(encoder: Path) -> None:
    on_cpu, on_gpu = AutoModel.from_pretrained(encoder), AutoModel.from_pretrained(encoder, device="cuda")
    features = on_gpu.encode(*scene())
    assert features.is_cuda
    torch.testing.assert_close(features.cpu(), on_cpu.encode(*scene()), atol=1e-3, rtol=1e-3)
