"""`prepare`, killed at any moment and started again, gives the same bytes as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gcbench.data.prepare import prepare_scannet
from tests.data.raw_folders import write_scannet

CODE = (
    "import sys; from pathlib import Path; from gcbench.data.prepare import prepare_scannet\n"
    "if __name__ == '__main__':\n"
    "    print('go', flush=True)\n"
    "    prepare_scannet(Path(sys.argv[1]), Path(sys.argv[2]), workers=int(sys.argv[3]))\n"
)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_any_moment_and_started_again(tmp_path: Path, workers: int) -> None:
    raw = write_scannet(tmp_path / "raw", train=12, val=3, hidden=3, frames=3)
    whole = content(prepare_scannet(raw, tmp_path / "whole").root)
    script = tmp_path / "main.py"
    script.write_text(CODE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    rng = random.Random(workers)
    killed_on_the_way = 0
    for trial in range(4):
        out = tmp_path / f"out{trial}"
        process = subprocess.Popen(
            [sys.executable, str(script), str(raw), str(out), str(workers)], env=environment, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        enough = rng.randrange(30)  # files of 36, half-written ones among them
        while process.poll() is None and len(content_names(out)) <= enough:
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        killed_on_the_way += not (out / "dataset.json").exists()
        assert content(prepare_scannet(raw, out).root) == whole
    assert killed_on_the_way >= 2


def content_names(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.arrow*") if path.is_file()]
