"""Lovasz-softmax, forward and backward: ours beside a loop over the classes, each in a process of its own.

    python benchmarks/lovasz.py [--points 1000000] [--classes 200] [--threads 1] [--repeats 3]

The loop sorts the errors of one class after the other and leaves the gradient to autograd, as published
implementations do. Prints medians, peak memory, and how far loss and gradient differ.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from gcbench.objectives.supervised import lovasz_softmax
from gcbench.runs.provenance import process_peak_memory_mb


def one_class_at_a_time(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The baseline."""
    losses = []
    for kind in torch.unique(labels):
        belongs = (labels == kind).to(probabilities)
        errors, order = (belongs - probabilities[:, kind]).abs().sort(descending=True)
        hits = belongs[order]
        jaccard = 1.0 - (hits.sum() - hits.cumsum(0)) / (hits.sum() + (1.0 - hits).cumsum(0))
        losses.append(torch.dot(errors, torch.diff(jaccard, prepend=jaccard.new_zeros(1))))
    return torch.stack(losses).mean()


LOSSES = {"ours": lovasz_softmax, "loop over classes": one_class_at_a_time}


def measure(name: str, points: int, classes: int, threads: int, repeats: int, pipe: Connection) -> None:
    """Send the median seconds, the peak memory in MB, the loss and a digest of the gradient."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(points, classes, generator=generator)
    labels = torch.randint(0, classes, (points,), generator=generator)
    seconds = []
    for _ in range(repeats):
        probabilities = logits.softmax(dim=1).requires_grad_()
        started = time.perf_counter()
        loss = LOSSES[name](probabilities, labels)
        loss.backward()
        seconds.append(time.perf_counter() - started)
        assert probabilities.grad is not None
        sample = probabilities.grad[:: max(points // 1000, 1)]
        del probabilities
    pipe.send((statistics.median(seconds), process_peak_memory_mb(), float(loss.detach()), sample.numpy()))


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found = {}
    for name in LOSSES:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        arguments = (name, options.points, options.classes, options.threads, options.repeats, theirs)
        process = multiprocessing.get_context("spawn").Process(target=measure, args=arguments)
        process.start()
        found[name] = seconds, memory, loss, _ = ours.recv()
        process.join()
        print(f"{name:<18} {seconds:7.2f} s   {memory / 1000:5.1f} GB   loss {loss:.9f}")
    one, other = found.values()
    scale = abs(other[3]).max()
    print(f"{other[0] / one[0]:.1f} times as fast; gradients differ by {abs(one[3] - other[3]).max() / scale:.1e}")


if __name__ == "__main__":
    main()
