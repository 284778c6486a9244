"""The sparse U-Net: structure and names of Pointcept's SpUNet-v1m1, and the laws of a convolution."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gcbench.errors import InputError, MissingExtraError
from gcbench.models import sparse_modules
from gcbench.models.sparse_unet import SparseUNet, reestimate_batchnorm
from gcbench.structures import PointBatch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads; `test_sparse_cpu` tests those."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def points(count: int, seed: int = 0, extent: int = 24) -> PointBatch:
    """One scene: distinct voxels on a bumpy floor."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(extent * extent, generator=generator)[:count]
    x, y = cells // extent, cells % extent
    z = 4 + (2 * torch.sin(x / 3) + torch.randint(0, 2, (count,), generator=generator)).long()
    grid = torch.stack((x, y, z), dim=1).int()
    feat = torch.randn(count, 6, generator=generator)
    return PointBatch(grid * 0.02, grid, feat, torch.tensor([count]))


def join(*batches: PointBatch) -> PointBatch:
    return PointBatch(
        torch.cat([b.coord for b in batches]),
        torch.cat([b.grid_coord for b in batches]),
        torch.cat([b.feat for b in batches]),
        torch.cumsum(torch.tensor([len(b.feat) for b in batches]), 0),
    )


def tiny(num_classes: int = 0) -> SparseUNet:
    torch.manual_seed(0)
    model = SparseUNet(6, 8, (8, 16, 24, 16), (1, 2, 1, 1), num_classes)
    for module in model.modules():  # weights of a size that makes every layer matter
        if hasattr(module, "indice_key"):
            nn.init.normal_(module.weight, std=0.2)
    return model


def test_parameter_count_at_paper_size() -> None:
    with torch.device("meta"):
        bare, headed = SparseUNet(), SparseUNet(num_classes=20)
    assert sum(p.numel() for p in bare.parameters()) == 39_155_904
    assert sum(p.numel() for p in headed.parameters()) == 39_155_904 + 96 * 20 + 20


def test_names_and_shapes_are_pointcepts() -> None:
    with torch.device("meta"):
        state = SparseUNet(num_classes=20).state_dict()
    wanted = {
        "conv_input.0.weight": (32, 5, 5, 5, 6),
        "conv_input.1.running_mean": (32,),
        "down.0.0.weight": (32, 2, 2, 2, 32),
        "down.3.0.weight": (256, 2, 2, 2, 128),
        "down.3.1.num_batches_tracked": (),
        "enc.0.block1.conv2.weight": (32, 3, 3, 3, 32),
        "enc.3.block5.bn2.bias": (256,),
        "up.0.0.weight": (96, 2, 2, 2, 96),
        "up.3.0.weight": (256, 2, 2, 2, 256),
        "dec.0.block0.proj.0.weight": (96, 1, 1, 1, 128),
        "dec.0.block0.proj.1.weight": (96,),
        "dec.0.block0.conv1.weight": (96, 3, 3, 3, 128),
        "dec.1.block0.conv1.weight": (96, 3, 3, 3, 128),
        "dec.2.block0.conv1.weight": (128, 3, 3, 3, 192),
        "dec.3.block0.conv1.weight": (256, 3, 3, 3, 384),
        "dec.3.block1.bn1.weight": (256,),
        "final.weight": (20, 1, 1, 1, 96),
        "final.bias": (20,),
    }
    assert {name: tuple(state[name].shape) for name in wanted} == wanted
    heads = {name.split(".")[0] for name in state}
    assert heads == {"conv_input", "down", "enc", "up", "dec", "final"}
    assert not any("proj" in name for name in state if name.startswith("enc"))


def test_initial_values() -> None:
    model = SparseUNet(6, 16, (16, 32, 32, 16), (1, 1, 1, 1), 5)
    state = model.state_dict()
    assert state["enc.0.block0.conv1.weight"].std() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(state["final.bias"], torch.zeros(5))
    norm = model.enc[0]["block0"].bn1  # type: ignore[index]
    assert (norm.eps, norm.momentum, float(norm.weight.detach().min())) == (1e-3, 0.01, 1.0)


def test_output_shapes() -> None:
    batch = join(points(200), points(150, 1))
    assert tiny()(batch).shape == (350, 16)
    assert tiny().out_channels == 16
    logits = tiny(5)
    assert logits(batch).shape == (350, 5)
    assert logits.out_channels == 5
    assert tiny().forward_levels(batch).shape == (350, 8 + 8 + 16)


@pytest.mark.parametrize("method", ["forward", "forward_levels"])
@pytest.mark.parametrize("train", [True, False])
def test_permuting_points_permutes_features(method: str, train: bool) -> None:
    model = tiny().train(train)
    batch = join(points(200), points(150, 1))
    order = torch.cat((torch.randperm(200), 200 + torch.randperm(150)))
    moved = replace(batch, coord=batch.coord[order], grid_coord=batch.grid_coord[order], feat=batch.feat[order])
    # voxels are sorted before the first layer, so the sums are the very same
    assert torch.equal(getattr(model, method)(batch)[order], getattr(model, method)(moved))


@pytest.mark.parametrize("method", ["forward", "forward_levels"])
def test_scenes_of_a_batch_do_not_meet_in_eval_mode(method: str) -> None:
    model, first, second = tiny().eval(), points(200), points(150, 1)
    together = getattr(model, method)(join(first, second))
    alone = torch.cat((getattr(model, method)(first), getattr(model, method)(second)))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)  # float32 sums in another grouping
    assert together.std() > 1e-3


def test_levels_hold_the_feature_of_the_voxel_above() -> None:
    model = tiny().eval()
    batch = points(200)
    levels = model.forward_levels(batch)
    for width, cell in ((slice(8, 16), 2), (slice(16, 32), 4)):
        _, parent = torch.unique(batch.grid_coord // cell, dim=0, return_inverse=True)
        for group in range(int(parent.max()) + 1):
            rows = levels[parent == group, width]
            assert torch.equal(rows, rows[:1].expand_as(rows))
        assert len(torch.unique(levels[:, width], dim=0)) > 10


def test_gradients_of_the_whole_network() -> None:
    model = SparseUNet(6, 4, (4, 4), (1, 1)).double()
    batch = points(12, extent=5)
    feat = batch.feat.double().requires_grad_()

    def function(feat: Tensor) -> Tensor:
        return model(replace(batch, feat=feat))  # type: ignore[no-any-return]

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    assert torch.autograd.gradcheck(function, (feat,), eps=1e-7, atol=1e-5)


def test_two_training_steps_are_repeatable_to_the_bit() -> None:
    torch.set_num_threads(2)

    def train() -> list[Tensor]:
        model = tiny()
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        for seed in (0, 1):
            optimiser.zero_grad()
            model(join(points(300, seed), points(250, seed + 5))).square().mean().backward()
            optimiser.step()
        return [value.clone() for value in model.state_dict().values()]

    for a, b in zip(train(), train(), strict=True):
        assert torch.equal(a, b)


def test_reestimated_statistics_are_the_plain_average() -> None:
    model = tiny().eval()
    batches = [points(200), points(180, 1), points(220, 2)]
    norm = model.conv_input[1]
    seen: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    norm.running_mean.fill_(7.0)
    reestimate_batchnorm(model, model, batches)
    handle.remove()
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean(0) for x in seen]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var(0) for x in seen]).mean(0))
    assert norm.momentum == 0.01
    assert not any(module.training for module in model.modules())
    assert not torch.isnan(model(batches[0])).any()


def test_reestimation_without_batches_is_refused() -> None:
    model = tiny()
    with pytest.raises(InputError, match="no batch"):
        reestimate_batchnorm(model, model, [])


def test_a_single_voxel_trains_and_leaves_the_running_statistics() -> None:
    model = tiny().train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    features = model(points(1))
    features.square().sum().backward()
    assert bool(torch.isfinite(features).all())
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_bfloat16_autocast_rounds_and_stays_close() -> None:
    model, batch = tiny().train(), points(150)
    exact = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(batch)
    rounded.float().square().mean().backward()
    assert rounded.dtype == torch.bfloat16
    error = ((rounded.float() - exact).abs().mean() / exact.abs().mean()).item()
    assert 1e-4 < error < 0.1  # bfloat16 keeps 8 bits: 0.4 % a layer
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="even"):
        SparseUNet(channels=(32, 64, 64), layers=(1, 1, 1))
    empty = points(1)
    empty = PointBatch(empty.coord[:0], empty.grid_coord[:0], empty.feat[:0], torch.tensor([0]))
    with pytest.raises(InputError, match="no points"):
        tiny()(empty)


@pytest.fixture
def without_spconv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spconv.pytorch", None)


def test_without_spconv_it_is_the_same_network_to_the_bit(request: pytest.FixtureRequest) -> None:
    batch = points(200)
    torch.manual_seed(3)
    first = tiny().train()
    output = first(batch)
    output.square().mean().backward()
    request.getfixturevalue("without_spconv")
    torch.manual_seed(3)
    second = tiny().train()
    assert type(second.conv_input[0]).__module__ == "gcbench.models.sparse_modules"
    again = second(batch)
    again.square().mean().backward()
    assert torch.equal(again, output)
    assert first.state_dict().keys() == second.state_dict().keys()
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two) and one.grad is not None and two.grad is not None
        assert torch.equal(one.grad, two.grad)


def test_without_spconv_another_device_names_the_extra(without_spconv: None) -> None:
    batch = points(5)
    tensor = sparse_modules.SparseConvTensor(batch.feat.to("meta"), batch.grid_coord, (99, 99, 99), 1)
    with pytest.raises(MissingExtraError, match=r"gcbench\[cu126\]"):
        tiny().conv_input[0](tensor)
