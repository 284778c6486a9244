from __future__ import annotations

import builtins
import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from gcbench.errors import DataError, InputError, MissingExtraError
from gcbench.models.network_teachers import NetworkTeacher, resized
from gcbench.models.teachers import Teacher, load_teacher
from tests.models.tiny_networks import PATCH, release_config, save_network, save_radio_release

NAMES = {"radio": "radio", "dinov2": "dinov2", "registers": "dinov2", "clip": "clip", "clip_vision": "clip"}
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
OPENAI = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_network(kind, tmp_path_factory.mktemp(kind)) for kind in NAMES}


def load(folder: Path, name: str, rows: int = 4, precision: Any = "no", revision: str | None = None) -> NetworkTeacher:
    teacher = load_teacher(
        name, model=str(folder), revision=revision, rows=rows, precision=precision, device=torch.device("cpu")
    )
    assert isinstance(teacher, NetworkTeacher)
    return teacher


def photos(count: int = 2, height: int = 30, width: int = 50) -> Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(0))


def normalised(images: Tensor, rows: int, columns: int, mean: list[float], deviation: list[float]) -> Tensor:
    pixels = resized(images.permute(0, 3, 1, 2), (rows * PATCH, columns * PATCH))
    return (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(deviation).view(1, 3, 1, 1)


def by_hand(kind: str, folder: Path, images: Tensor, rows: int, columns: int) -> Tensor:
    """The maps, from the whole sequence of tokens: what is not a patch is counted off from the front."""
    if kind == "radio":
        pixels = resized(images.permute(0, 3, 1, 2), (rows * PATCH, columns * PATCH))
        tokens, before = transformers.RadioModel.from_pretrained(folder).eval()(pixels).last_hidden_state, 2 + 3
    elif kind == "dinov2":
        pixels = normalised(images, rows, columns, *IMAGENET)
        tokens, before = transformers.Dinov2Model.from_pretrained(folder).eval()(pixels).last_hidden_state, 1
    elif kind == "registers":
        pixels = normalised(images, rows, columns, *IMAGENET)
        model = transformers.Dinov2WithRegistersModel.from_pretrained(folder).eval()
        tokens, before = model(pixels).last_hidden_state, 1 + 3
    else:
        pixels = normalised(images, rows, columns, *OPENAI)
        model = transformers.CLIPVisionModel.from_pretrained(folder).eval()
        tokens, before = model(pixels, interpolate_pos_encoding=True).last_hidden_state, 1
    return tokens[:, before:].reshape(len(images), rows, columns, -1)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(("height", "width", "columns"), [(30, 50, 7), (32, 32, 4), (50, 30, 2)])
def test_maps_are_the_patch_tokens(networks: dict[str, Path], kind: str, height: int, width: int, columns: int) -> None:
    teacher = load(networks[kind], NAMES[kind])
    images = photos(2, height, width)
    maps = teacher(images)
    assert teacher.grid(height, width) == (4, columns)
    assert maps.shape == (2, 4, columns, teacher.dim) and maps.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(maps, by_hand(kind, networks[kind], images, 4, columns), rtol=1e-5, atol=1e-5)


def test_a_photo_of_the_right_size_is_not_resampled() -> None:
    images = photos(1, 32, 48).permute(0, 3, 1, 2)
    assert resized(images, (32, 48)) is images
    smaller = resized(images, (8, 12))
    assert float(smaller.min()) >= 0 and float(smaller.max()) <= 1


@pytest.mark.parametrize("kind", NAMES)
def test_a_batch_equals_its_photos_one_by_one(networks: dict[str, Path], kind: str) -> None:
    teacher, images = load(networks[kind], NAMES[kind]), photos(19)  # more than fit in one forward pass
    torch.testing.assert_close(
        teacher(images), torch.cat([teacher(image[None]) for image in images]), atol=1e-5, rtol=0
    )
    assert teacher(images[:0]).shape == (0, 4, 7, teacher.dim)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", ["radio", "registers", "clip"])
def test_low_precision_is_close_and_comes_out_in_float32(networks: dict[str, Path], kind: str, precision: str) -> None:
    exact = load(networks[kind], NAMES[kind])(photos())
    rough = load(networks[kind], NAMES[kind], precision=precision)(photos())
    assert rough.dtype == torch.float32 and not torch.equal(rough, exact)
    assert float(torch.nn.functional.cosine_similarity(rough, exact, dim=-1).min()) > 0.99


def test_an_autocast_around_it_does_not_reach_in(networks: dict[str, Path]) -> None:
    teacher = load(networks["radio"], "radio")
    with torch.autocast("cpu", torch.bfloat16):
        inside = teacher(photos())
    assert torch.equal(inside, teacher(photos()))


@pytest.mark.parametrize("kind", NAMES)
def test_frozen(networks: dict[str, Path], kind: str) -> None:
    teacher = load(networks[kind], NAMES[kind])
    before = copy.deepcopy(teacher._model.state_dict())
    images = photos().requires_grad_()
    maps = teacher(images)
    weight = torch.ones(teacher.dim, requires_grad=True)
    (maps * weight).sum().backward()  # a loss may keep the maps for its backward pass
    assert not maps.requires_grad and images.grad is None and weight.grad is not None
    assert not teacher._model.training
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in teacher._model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher._model.state_dict().items())
    assert not isinstance(teacher, torch.nn.Module)  # so that no optimiser and no checkpoint finds it


def test_a_preprocessors_mean_and_deviation_are_used(networks: dict[str, Path], tmp_path: Path) -> None:
    folder = save_network("dinov2", tmp_path / "model")
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.25, 0.5]}')
    teacher = load(folder, "dinov2")
    model = transformers.Dinov2Model.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(normalised(photos(), 4, 7, [0.5] * 3, [0.5, 0.25, 0.5])).last_hidden_state[:, 1:]
    torch.testing.assert_close(teacher(photos()).flatten(1, 2), expected, rtol=1e-5, atol=1e-5)
    assert teacher.key != load(networks["dinov2"], "dinov2").key
    for broken in ('{"image_mean": [0.5], "image_std": [0.5, 0.5, 0.5]}', '{"image_mean": [0, 0, 0]}'):
        (folder / "preprocessor_config.json").write_text(broken)
        with pytest.raises(DataError, match="three numbers"):
            load(folder, "dinov2")
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 0, 1]}')
    with pytest.raises(DataError, match="not above 0"):
        load(folder, "dinov2")


def test_a_release_of_radio_runs_without_its_code(tmp_path: Path) -> None:
    folder = save_radio_release(tmp_path / "release")
    teacher = load(folder, "radio")
    model = transformers.RadioModel.from_pretrained(folder, config=release_config()).eval()
    images = photos(2, 16, 28)
    assert teacher.grid(16, 28) == (4, 7)
    with torch.no_grad():
        tokens = model(images.permute(0, 3, 1, 2)).last_hidden_state
    assert tokens.shape[1] == 3 + 5 + 4 * 7
    torch.testing.assert_close(teacher(images).flatten(1, 2), tokens[:, 8:])
    assert teacher._model.config.num_cls_tokens == 3 and teacher._model.config.num_registers == 5
    assert float(tokens.std()) > 0.1


def test_a_release_of_radio_that_is_not_built_in_is_refused(tmp_path: Path) -> None:
    folder = save_radio_release(tmp_path / "release", model="eradio_v2")
    with pytest.raises(InputError, match=r"eradio_v2.*nvidia/RADIO-L"):
        load(folder, "radio")
    folder = save_radio_release(tmp_path / "normalised")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "radio_model.feature_normalizer.mean": torch.zeros(24)}, folder / "model.safetensors")
    with pytest.raises(InputError, match="feature_normalizer"):
        load(folder, "radio")
    save_file({"other": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(DataError, match="not those of a RADIO"):
        load(folder, "radio")


def test_the_key_says_what_the_maps_depend_on(networks: dict[str, Path], tmp_path: Path) -> None:
    teacher = load(networks["dinov2"], "dinov2")
    moved = save_network("dinov2", tmp_path / "moved")
    assert load(moved, "dinov2").key == teacher.key  # the same files elsewhere
    assert teacher.describe()["revision"].startswith("sha256:") and teacher.describe()["rows"] == 4
    json.dumps(teacher.describe())
    weights = load_file(moved / "model.safetensors")
    save_file({key: value + 1 for key, value in weights.items()}, moved / "model.safetensors")
    others = [
        load(networks["dinov2"], "dinov2", rows=5),
        load(networks["dinov2"], "dinov2", precision="bf16"),
        load(moved, "dinov2"),
        load(networks["registers"], "dinov2"),
    ]
    assert len({teacher.key, *(other.key for other in others)}) == 5


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def with_config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def lacking(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layer.1.mlp.fc1.weight")
    save_file(weights, folder / "model.safetensors")


def leading_out(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "one.safetensors"}}')


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (without("config.json"), InputError, r"no config\.json"),
        (without("model.safetensors"), InputError, r"no weights at all"),
        (only_pickle, InputError, r"only pytorch_model\.bin.*safetensors"),
        (with_config(model_type="vit"), InputError, r"'vit'.*dinov2, dinov2_with_registers"),
        (with_config(model_type="clip"), InputError, r"teacher\.name=clip"),
        (with_config(model_type="mine", auto_map={"AutoModel": "code.Model"}), InputError, r"never run"),
        (truncated, DataError, r"cannot be loaded"),
        (lacking, DataError, r"lacks 1 .*fc1\.weight"),
        (with_config(hidden_size=64), DataError, r"cannot be loaded"),
        (leading_out, DataError, r"not a list of safetensors"),
        (missing_shard, DataError, r"one\.safetensors, which is missing"),
        (not_json, DataError, r"JSON"),
    ],
)
def test_a_folder_that_will_not_do_is_named(
    networks: dict[str, Path], tmp_path: Path, change: Callable[[Path], None], kind: type[Exception], message: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in networks["dinov2"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    load(folder, "dinov2")
    change(folder)
    with pytest.raises(kind, match=message):
        load(folder, "dinov2")


def test_mistakes_in_the_options_are_named(networks: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"teacher\.revision is 'main'"):
        load(networks["radio"], "radio", revision="main")
    with pytest.raises(InputError, match="no such folder"):
        load(tmp_path / "nothing", "radio")
    with pytest.raises(InputError, match="0"):
        load(networks["radio"], "radio", rows=0)
    with pytest.raises(InputError, match=r"\[V, H, W, 3\]"):
        load(networks["radio"], "radio")(torch.zeros(2, 3, 16, 16))
    with pytest.raises(InputError, match="neither a folder nor an id"):
        load(Path("owner/na me"), "radio")
    options: dict[str, Any] = {"revision": None, "rows": 4, "precision": "no", "device": "cpu"}
    with pytest.raises(InputError, match="radio, dinov2, clip and classical"):
        load_teacher("dino", model="x", **options)
    with pytest.raises(InputError, match="needs a model"):
        load_teacher("radio", model=None, **options)
    with pytest.raises(InputError, match="has no model"):
        load_teacher("classical", model="x", **options)
    teacher: Teacher = load_teacher("classical", model=None, **options)
    assert teacher.name == "classical"


def test_without_transformers_the_extra_is_named(networks: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "transformers":
            raise ImportError("not installed")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "transformers")
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"gcbench\[teachers\]"):
        load(networks["radio"], "radio")


def test_loading_says_nothing_on_the_terminal(networks: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    load(networks["clip"], "clip")  # its text half is left out, which transformers would report
    assert capfd.readouterr() == ("", "")


def test_transformers_is_imported_late() -> None:
    check = "import gcbench.models.teachers, sys; print('transformers' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
