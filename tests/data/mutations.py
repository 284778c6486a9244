"""Damaged files: seeded mutations of a good one, and the promise every reader makes about them.

A reader either reads the mutant or raises a `GcbenchError` that names the file; it does not hang, and it does not ask
for gigabytes because a damaged header says so.
"""

from __future__ import annotations

import random
import re
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from gcbench.errors import GcbenchError

_SECONDS = 20
_BYTES = 2 * 2**30
_NUMBER = re.compile(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_ODD_NUMBERS = (b"-1", b"0", b"1e999", b"nan", b"4294967296", b"99999999999999999999", b"2147483647", b"", b"1.5", b"x")
_ODD_BYTES = (b"\x00", b"\xff", b"\x7f", b"\n", b"{", b"]", b'"', b"\xc3\x28")


def mutants(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` damaged versions of `content`: cut, bytes changed, removed, doubled or put in, numbers replaced."""
    rng = random.Random(seed)
    yield b""
    for _ in range(count - 1):
        mutant = content
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            mutant = _mutate(mutant, rng)
        yield mutant


def assert_survives(read: Callable[[], object], file: Path, content: bytes, count: int = 200, seed: int = 0) -> int:
    """Write `count` mutants of `content` to `file` and `read` each.

    Args:
        read: reads what lies around `file`; any other exception than a GcbenchError fails the test.
        file: the file that is damaged; its name must be in every error.
        content: the whole, good file.
        count: mutants.
        seed: same seed, same mutants.

    Returns:
        How many mutants were refused.
    """
    refused = 0
    for number, mutant in enumerate(mutants(content, count, seed)):
        file.write_bytes(mutant)
        tracemalloc.start()
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(_SECONDS)
        try:
            read()
        except GcbenchError as error:
            refused += 1
            assert file.name in str(error), f"mutant {number}: the message does not name {file.name}: {error}"
        finally:
            signal.alarm(0)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < _BYTES, f"mutant {number} took {peak / 2**30:.1f} GiB"
    file.write_bytes(content)
    return refused


def _mutate(content: bytes, rng: random.Random) -> bytes:
    if not content:
        return bytes(rng.randrange(256) for _ in range(8))
    at = rng.randrange(len(content))
    length = min(rng.choice((1, 1, 2, 4, 16, 200)), len(content) - at)
    kind = rng.randrange(8)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes(rng.randrange(256) for _ in range(length)) + content[at + length :]
    if kind == 2:
        return content[:at] + content[at + length :]
    if kind == 3:
        return content[:at] + content[at : at + length] * 2 + content[at + length :]
    if kind == 4:
        return content[:at] + rng.choice(_ODD_BYTES) + content[at:]
    if kind == 5:  # damage in the first bytes, where headers are
        head = rng.randrange(min(len(content), 600))
        return content[:head] + bytes([rng.randrange(256)]) + content[head + 1 :]
    window = 600 if kind == 6 else len(content)
    numbers = list(_NUMBER.finditer(content[: min(window, 200_000)]))
    if not numbers:
        return content[:at]
    number = rng.choice(numbers)
    return content[: number.start()] + rng.choice(_ODD_NUMBERS) + content[number.end() :]


def _too_long(signum: int, frame: FrameType | None) -> None:
    raise AssertionError(f"a mutant was read for more than {_SECONDS} s")
