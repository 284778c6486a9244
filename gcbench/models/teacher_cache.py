"""A teacher's feature maps kept on disk, one file a frame, for sets of frames that are seen many times.

A frame's map is computed from that frame alone and rounded to half precision, whether it is then read or has just been
computed: a run does not depend on what the cache held. Without a folder nothing is kept and nothing is rounded.

A file is a header (`_HEADER`) and the map [h, w, D] in half precision, little endian. Several processes may share the
folder: files appear whole, one that is broken or has been deleted by another process is computed anew, and a lock
orders the writers, who keep the folder within its limit. The least recently used files go first.

Shape legend
    V  images      H, W  pixels      h, w  cells of the teacher's grid      D  channels of the teacher (d*)
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from gcbench.errors import DataError, DiskFullError, InputError
from gcbench.files import write_atomic
from gcbench.models.teachers import Teacher, description_key

_HEADER = struct.Struct("<8sIIII")  # mark, h, w, D, CRC-32 of the map
_MARK = b"gcmaps01"
_SUFFIX = ".maps"
_LARGEST = float(np.finfo(np.float16).max)
_FREED = 0.1  # of the limit, when it is reached: the folder is then searched once for many frames


class TeacherCache:
    """The teacher as the training step asks it: with a folder, each frame is computed once.

    The photos of a frame must be the same each time it is asked for: the cache knows it by scene, number and size.

    Args:
        teacher: what computes the maps.
        folder: what holds the files; made if it is missing. None keeps nothing.
        limit_bytes: of all files in the folder together, those of other teachers and data too.
        data_key: what else the photos depend on: the dataset's fingerprint, how photos are prepared.

    Attributes:
        hits, misses: frames read, and frames computed, since the start.
        unsaved: frames that could not be written, for want of space or permission, or being larger than the limit.

    Raises:
        InputError: a limit that is not positive.
        DataError: the folder cannot be made or written to.
    """

    def __init__(self, teacher: Teacher, folder: Path | None = None, limit_bytes: int = 0, data_key: str = "") -> None:
        self.teacher, self.folder = teacher, folder
        self.hits = self.misses = self.unsaved = 0
        if folder is None:
            return
        if limit_bytes <= 0:
            raise InputError(
                f"The feature cache may hold {limit_bytes} bytes.", "Give a positive limit (teacher.cache_gb)."
            )
        self._limit = limit_bytes
        self._data_key = data_key
        self._lock = FileLock(folder / ".lock")
        self._total = folder / ".bytes"  # of all files; written and read under the lock
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                self._shrink(self._limit)
        except OSError as error:
            raise DataError(
                f"The feature cache cannot use the folder {folder} ({error.strerror or error}).",
                "Give a folder that can be written to, or set teacher.cache_gb=null.",
            ) from error

    def maps(self, scene: str, frame_ids: Sequence[int], images: Tensor) -> Tensor:
        """Feature maps [V, h, w, D] float32 of the frames of a scene, on the images' device.

        Args:
            scene: its name, of any characters.
            frame_ids: V numbers.
            images: [V, H, W, 3] in [0, 1].

        Raises:
            InputError: not as many frames as images, or as the teacher raises.
        """
        if len(frame_ids) != len(images):
            raise InputError(f"{len(frame_ids)} frames of '{scene}' have {len(images)} images.")
        if self.folder is None:
            return self.teacher(images)
        shape = (*self.teacher.grid(*images.shape[1:3]), self.teacher.dim)
        home = self._home(self.folder, scene, images.shape[1:3])
        halves = torch.empty((len(images), *shape), dtype=torch.float16)
        for index, frame in enumerate(frame_ids):
            path = home / f"{int(frame)}{_SUFFIX}"
            known = _read(path, shape)
            if known is not None:
                self.hits += 1
                halves[index].numpy()[:] = known
                continue
            self.misses += 1
            # One frame at a time: the rounding of a batch may depend on what else is in it.
            computed = self.teacher(images[index : index + 1])[0]
            halves[index] = computed.clamp(-_LARGEST, _LARGEST).half()
            self._write(path, halves[index].numpy())
        return halves.to(images.device).float()

    def _home(self, folder: Path, scene: str, size: Sequence[int]) -> Path:
        """Where the maps of a scene lie: digests, so that no name leads anywhere else."""
        key = description_key({"teacher": self.teacher.key, "size": list(size), "data": self._data_key})
        return folder / key / hashlib.sha256(scene.encode()).hexdigest()[:16]

    def _write(self, path: Path, values: NDArray[np.float16]) -> None:
        content = values.astype("<f2", copy=False).tobytes()
        record = _HEADER.pack(_MARK, *values.shape, zlib.crc32(content)) + content
        if len(record) > self._limit:
            self.unsaved += 1
            return
        try:
            with self._lock:
                self._make_room(len(record))
                write_atomic(path, record)
        except (OSError, DiskFullError):
            self.unsaved += 1  # a run does not end for want of a cache

    def _make_room(self, size: int) -> None:
        """Count `size` bytes more, deleting what was not used for longest if they would pass the limit."""
        try:
            total = int(self._total.read_text()) + size
        except (OSError, ValueError):
            total = self._limit + 1  # unknown: search
        if total > self._limit:
            total = self._shrink(self._limit - max(size, math.ceil(_FREED * self._limit))) + size
        self._total.write_text(str(total))

    def _shrink(self, limit: int) -> int:
        """Delete files, the least recently used first, until they have at most `limit` bytes; what is left."""
        assert self.folder is not None
        files = sorted(_files(self.folder))
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= limit:
                break
            with suppress(OSError):
                Path(path).unlink()
                total -= size
        self._total.write_text(str(total))
        return total


def _read(path: Path, shape: tuple[int, int, int]) -> NDArray[np.float16] | None:
    """The map in a file, None if there is none or it is not whole; reading it marks it as used."""
    try:
        record = path.read_bytes()
    except OSError:
        return None
    content = memoryview(record)[_HEADER.size :]
    if len(content) != 2 * math.prod(shape):
        return None
    if _HEADER.unpack_from(record) != (_MARK, *shape, zlib.crc32(content)):
        return None
    with suppress(OSError):
        os.utime(path)
    return np.frombuffer(content, "<f2").reshape(shape)


def _files(folder: Path) -> Iterator[tuple[int, int, str]]:
    """(time of last use, bytes, path) of every file of maps below the folder, unfinished ones too."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith((_SUFFIX, ".part")):
                with suppress(OSError):  # deleted meanwhile
                    path = os.path.join(parent, name)  # noqa: PTH118 - many files
                    status = os.stat(path)  # noqa: PTH116
                    yield status.st_mtime_ns, status.st_size, path
