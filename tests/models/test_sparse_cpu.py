"""The CPU convolution against `conv3d` on a full grid, against its readable twin, and against itself."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest
import spconv.pytorch as spconv
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from gcbench.errors import InputError
from gcbench.models import sparse_cpu
from gcbench.models.sparse_cpu import convolve, convolve_occupied, convolve_reference

GRID = (9, 10, 11)


@pytest.fixture(autouse=True)
def always_threaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small tensors go through the thread pool too; torch's own setting comes back afterwards."""
    monkeypatch.setattr(sparse_cpu, "_SERIAL_WORK", 0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def sparse_tensor(channels: int, dtype: torch.dtype = torch.float64, seed: int = 0, share: float = 0.4) -> Any:
    generator = torch.Generator().manual_seed(seed)
    indices = (torch.rand(2, *GRID, generator=generator) < share).nonzero().int()
    indices = indices[torch.randperm(len(indices), generator=generator)].contiguous()
    features = torch.randn(len(indices), channels, generator=generator, dtype=dtype)
    return spconv.SparseConvTensor(features.requires_grad_(), indices, GRID, 2)


def build(kind: str, C: int, D: int, bias: bool = False, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    kernel = int(kind[-1])
    if kind.startswith("subm"):
        conv = spconv.SubMConv3d(C, D, kernel_size=kernel, padding=1, bias=bias, indice_key=kind)
    else:
        stride, padding = (2, 0) if kind == "strided2" else (2, 1)
        conv = spconv.SparseConv3d(C, D, kernel_size=kernel, stride=stride, padding=padding, bias=bias, indice_key=kind)
    nn.init.normal_(conv.weight)
    if bias:
        nn.init.normal_(conv.bias)
    return conv.to(dtype)


def dense(x: Tensor, indices: Tensor, shape: Any) -> Tensor:
    """[2, C, *shape] with zeros where there is no voxel."""
    full = x.new_zeros(2, *shape, x.shape[1])
    full = full.index_put(tuple(indices.long().unbind(1)), x)
    return full.permute(0, 4, 1, 2, 3)


def at(full: Tensor, indices: Tensor) -> Tensor:
    b, i, j, k = indices.long().unbind(1)
    return full[b, :, i, j, k]


def dense_convolution(conv: Any, x: Any, out_indices: Tensor) -> Tensor:
    weight = conv.weight.permute(0, 4, 1, 2, 3)
    if conv.conv1x1:  # spconv reads the memory of a 1x1 weight as [C, D]
        weight = conv.weight.reshape(conv.in_channels, conv.out_channels).T[:, :, None, None, None]
    padding = [k // 2 for k in conv.kernel_size] if conv.subm else conv.padding
    stride = 1 if conv.subm else conv.stride
    full = functional.conv3d(dense(x.features, x.indices, GRID), weight, conv.bias, stride, padding)
    return at(full, out_indices)


KINDS = ["subm1", "subm3", "subm5", "strided2", "strided3"]


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("C", "D", "bias"), [(6, 32, False), (24, 13, True)])
def test_equals_dense_convolution_forward_and_backward(kind: str, C: int, D: int, bias: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    conv, x = build(kind, C, D, bias), sparse_tensor(C)
    parameters = [x.features, *conv.parameters()]
    out = convolve(conv, x)
    expected = dense_convolution(conv, x, out.indices)
    torch.testing.assert_close(out.features, expected, rtol=1e-10, atol=1e-10)  # sums of <= 125 x 24 terms in float64
    grad = torch.randn_like(expected)
    ours = torch.autograd.grad(out.features, parameters, grad)
    theirs = torch.autograd.grad(expected, parameters, grad)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("kernel", [2, 3])
def test_inverse_convolution_equals_dense_transposed_convolution(kernel: int, threads: int) -> None:
    torch.set_num_threads(threads)
    x = sparse_tensor(8)
    down = convolve(build(f"strided{kernel}", 8, 16), x)
    inverse: Any = spconv.SparseInverseConv3d(16, 24, kernel, indice_key=f"strided{kernel}").double()
    nn.init.normal_(inverse.weight)
    nn.init.normal_(inverse.bias)
    features = torch.randn(len(down.indices), 16, dtype=torch.float64, requires_grad=True)
    out = convolve(inverse, down.replace_feature(features))
    assert torch.equal(out.indices, x.indices)
    assert out.spatial_shape == x.spatial_shape
    full = functional.conv_transpose3d(
        dense(features, down.indices, down.spatial_shape), inverse.weight.permute(4, 0, 1, 2, 3), inverse.bias,
        stride=2, padding=0 if kernel == 2 else 1, output_padding=1,
    )  # fmt: skip
    expected = at(full, x.indices)
    torch.testing.assert_close(out.features, expected, rtol=1e-10, atol=1e-10)
    grad, parameters = torch.randn_like(expected), [features, inverse.weight, inverse.bias]
    for mine, reference in zip(
        torch.autograd.grad(out.features, parameters, grad),
        torch.autograd.grad(expected, parameters, grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)


def everything(kind: str, threads: int) -> list[Tensor]:
    torch.set_num_threads(threads)
    conv, x = build(kind, 48, 32, dtype=torch.float32), sparse_tensor(48, torch.float32)
    out = convolve(conv, x).features
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    return [out.detach(), *torch.autograd.grad(out, [x.features, conv.weight], grad)]


@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_threads_or_repetition(kind: str) -> None:
    first = everything(kind, 1)
    for threads in (1, 2, 2, 4, 4, 3):
        for a, b in zip(first, everything(kind, threads), strict=True):
            assert torch.equal(a, b)


@settings(max_examples=12, deadline=None)
@given(
    C=st.integers(1, 70),
    D=st.integers(1, 70),
    share=st.floats(0.02, 1.0),
    double=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_the_readable_twin(C: int, D: int, share: float, double: bool, seed: int) -> None:
    torch.set_num_threads(1)  # the other tests hold the threads
    dtype = torch.float64 if double else torch.float32
    x = sparse_tensor(C, dtype, seed, share)
    if not len(x.indices):
        return
    conv: Any = build("subm3", C, D, dtype=dtype)
    out = convolve(conv, x)
    book = out.indice_dict["subm3"]
    weight = conv.weight.reshape(D, 27, C)
    expected = convolve_reference(x.features, weight, book.to_output)
    rtol = 1e-12 if double else 1e-5  # both add the same products; only the order and the fused rounding differ
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(out.features, expected, rtol=0, atol=rtol * scale)
    grad = torch.randn_like(expected)
    (ours,) = torch.autograd.grad(out.features, x.features, grad)
    (theirs,) = torch.autograd.grad(expected, x.features, grad)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=rtol * float(theirs.abs().max()))
    mirrored = convolve_reference(grad, weight.transpose(0, 2), book.to_input)
    torch.testing.assert_close(ours, mirrored, rtol=0, atol=rtol * float(theirs.abs().max()))


def occupied_cells(shape: tuple[int, int, int], share: float, C: int, dtype: torch.dtype, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.rand(shape[0] * shape[1] * shape[2], generator=generator) < share).nonzero().squeeze(1)
    cells = cells[torch.randperm(len(cells), generator=generator)]
    return cells, torch.randn(len(cells), C, generator=generator, dtype=dtype).requires_grad_()


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 8), st.integers(1, 7)),
    kernel=st.sampled_from([(3, 3, 3), (1, 3, 5), (1, 1, 1)]),
    share=st.floats(0.0, 1.0),
    C=st.integers(1, 40),
    D=st.integers(1, 40),
)
def test_convolution_of_occupied_cells_equals_the_dense_one(
    shape: tuple[int, int, int], kernel: tuple[int, int, int], share: float, C: int, D: int
) -> None:
    cells, features = occupied_cells(shape, share, C, torch.float64)
    weight = torch.randn(D, C, *kernel, dtype=torch.float64, requires_grad=True)
    out = convolve_occupied(features, cells, shape, weight)
    grid = features.new_zeros(shape[0] * shape[1] * shape[2], C).index_add(0, cells, features)
    padding = [size // 2 for size in kernel]
    expected = functional.conv3d(grid.T.view(1, C, *shape), weight, padding=padding).view(D, -1).T
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(expected)
    for mine, reference in zip(
        torch.autograd.grad(out, [features, weight], grad),
        torch.autograd.grad(expected, [features, weight], grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)


def test_bits_of_the_convolution_of_occupied_cells_do_not_depend_on_threads() -> None:
    cells, features = occupied_cells((20, 20, 10), 0.1, 32, torch.float32)
    weight = torch.randn(48, 32, 3, 3, 3, requires_grad=True)
    grad = torch.randn(4000, 48)
    results = []
    for threads in (1, 2, 4, 2):
        torch.set_num_threads(threads)
        out = convolve_occupied(features, cells, (20, 20, 10), weight)
        results.append([out.detach(), *torch.autograd.grad(out, [features, weight], grad)])
    for others in results[1:]:
        for a, b in zip(results[0], others, strict=True):
            assert torch.equal(a, b)


def test_occupied_cells_in_half_precision_are_widened() -> None:
    cells, features = occupied_cells((4, 4, 4), 0.3, 8, torch.bfloat16)
    out = convolve_occupied(features, cells, (4, 4, 4), torch.randn(16, 8, 3, 3, 3))
    assert out.dtype == torch.float32
    (grad,) = torch.autograd.grad(out.sum(), features)
    assert grad.dtype == torch.bfloat16


def test_gradcheck() -> None:
    conv: Any = build("subm3", 3, 5)
    x = sparse_tensor(3, share=0.03)

    def function(features: Tensor, weight: Tensor) -> Tensor:
        conv._parameters["weight"] = weight
        return convolve(conv, x.replace_feature(features)).features  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(function, (x.features, conv.weight))


def test_layers_share_a_rulebook_by_indice_key() -> None:
    x = sparse_tensor(8)
    first = convolve(build("subm3", 8, 8), x)
    second = convolve(build("subm3", 8, 8), first)
    assert second.indice_dict["subm3"] is first.indice_dict["subm3"]


def test_a_foreign_indice_key_is_refused() -> None:
    x = sparse_tensor(8)
    x = convolve(build("subm3", 8, 8), x)
    other: Any = spconv.SubMConv3d(8, 8, kernel_size=5, indice_key="subm3").double()
    with pytest.raises(InputError, match="subm3"):
        convolve(other, x)
    inverse: Any = spconv.SparseInverseConv3d(8, 8, 2, indice_key="nowhere").double()
    with pytest.raises(InputError, match="nowhere"):
        convolve(inverse, x)


def test_a_transposed_convolution_is_refused() -> None:
    with pytest.raises(InputError, match="not supported"):
        convolve(spconv.SparseConvTranspose3d(8, 8, 2).double(), sparse_tensor(8))


def test_a_submanifold_kernel_without_a_centre_is_refused() -> None:
    with pytest.raises(InputError, match="centre"):
        convolve(spconv.SubMConv3d(8, 8, 2, indice_key="even").double(), sparse_tensor(8))


def test_mixed_precision_is_widened() -> None:
    conv = build("subm3", 8, 8, dtype=torch.float32)
    wide = convolve(conv, sparse_tensor(8, torch.float64)).features
    narrow = convolve(conv, sparse_tensor(8, torch.bfloat16)).features
    assert (wide.dtype, narrow.dtype) == (torch.float64, torch.float32)


def test_autocast_rounds_factors_and_result_but_not_sums() -> None:
    conv, x = build("subm3", 8, 8, dtype=torch.float32), sparse_tensor(8, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = convolve(conv, x).features
    with torch.no_grad():
        conv.weight.copy_(conv.weight.bfloat16())
    exact = convolve(conv, x.replace_feature(x.features.bfloat16())).features
    assert torch.equal(rounded, exact.bfloat16())


def test_voxels_listed_twice_are_added_up() -> None:
    """Mix3D merges scenes, so one cell can hold two points; each gets an output and none is lost in a race."""
    x = sparse_tensor(32, share=0.5)
    indices = torch.cat((x.indices, x.indices[:200]))
    features = torch.cat((x.features, x.features[:200])).detach().requires_grad_()
    twice = spconv.SparseConvTensor(features, indices, GRID, 2)
    conv: Any = build("subm3", 32, 32)
    torch.set_num_threads(4)
    out = convolve(conv, twice)
    book = out.indice_dict["subm3"]
    expected = convolve_reference(features, conv.weight.reshape(32, 27, 32), book.to_output)
    torch.testing.assert_close(out.features, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(expected)
    (ours,) = torch.autograd.grad(out.features, features, grad)
    (theirs,) = torch.autograd.grad(expected, features, grad)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def _in_child(queue: Any) -> None:
    queue.put([value.numpy() for value in everything("subm3", 1)])


def test_works_in_a_forked_worker() -> None:
    expected = everything("subm3", 2)  # the parent's helper threads exist now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    values = queue.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    for value, wanted in zip(values, expected, strict=True):
        assert torch.equal(torch.from_numpy(value), wanted)
