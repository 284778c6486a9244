"""Scoring beside the official scripts: the same cases, the same run, one thread, medians.

    python benchmarks/evaluation.py [--scannet SCANNET] [--pointcept POINTCEPT] [--scenes 50] [--vertices 100000]
                                    [--labels scannet20,scannet200] [--repeats 3] [--workers 2]

SCANNET is a checkout of ScanNet/ScanNet, POINTCEPT one of Pointcept/Pointcept; what is not given is not measured.
With text: ScanNet's `evaluate_semantic_instance.py` and `evaluate_semantic_label.py` beside `gcbench evaluate`, each in
a process of its own, from its start to its end. On arrays in memory: Pointcept's `InsSegEvaluator` and
`intersection_and_union` beside `InstanceScorer` and `SemanticScorer`, in this process.

ScanNet's scripts are Python 2. They are translated in memory (print, except, removed names of numpy) and given the
classes of the label set; where they would stop (a class with ground truth whose predictions are all ignored, a class
absent from both), they go on with 0 and NaN. Scores are compared to the bit; the exit code is 1 if one differs.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from gcbench.data.labels import load_label_set
from gcbench.scoring.instance import InstanceMetrics, InstancePredictions, InstanceScorer, InstanceTarget
from gcbench.scoring.protocols import load_protocol
from gcbench.scoring.semantic import SemanticScorer
from gcbench.structures import LabelSet

INSTANCES, PREDICTIONS = 30, 41
RUN = 40  # vertices that follow each other are mostly of one instance
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
AP_KEYS = {"ap": "ap", "ap50": "ap50%", "ap25": "ap25%"}
LEFT_OUT = ("wall", "floor")

# Run by a process of its own: one of ScanNet's scripts, its scores as JSON.
OFFICIAL = """
import json, re, sys, types
folder, script, predicted, truth, classes, out = sys.argv[1:]
names, ids = json.loads(classes)

def python3(text):
    text = re.sub(r"^(\\s*)print (?!\\()(.*)$", r"\\1print(\\2)", text, flags=re.M)
    text = re.sub(r"except (\\w+), (\\w+)", r"except \\1 as \\2", text)
    text = re.sub(r"np\\.(float|bool)\\b", r"\\1", text).replace("np.in1d", "np.isin")
    text = re.sub(r"^CLASS_LABELS = .*$", "CLASS_LABELS = " + repr(names), text, flags=re.M)
    text = re.sub(r"^VALID_CLASS_IDS = .*$", "VALID_CLASS_IDS = np.array(" + repr(ids) + ")", text, flags=re.M)
    last = "y_true_sorted_cumsum[-1]"
    return text.replace("= " + last, "= " + last + " if len(y_true_sorted_cumsum) else 0")

def run(name, path):
    module = types.ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    with open(path) as file:
        exec(compile(python3(file.read()), path, "exec"), module.__dict__)
    return module

sys.modules["imageio"] = types.ModuleType("imageio")
sys.modules["plyfile"] = types.SimpleNamespace(PlyData=None, PlyElement=None)
run("util", folder + "/util.py")
run("util_3d", folder + "/util_3d.py")
sys.argv = [script, "--pred_path", predicted, "--gt_path", truth]
module = run("official", folder + "/3d_evaluation/" + script)
module.write_result_file = lambda *results: json.dump(
    results[0] if script.endswith("instance.py") else results[1], open(out, "w"), default=lambda number: number.item()
)
if hasattr(module, "get_iou"):
    get_iou = module.get_iou
    def defined(*of):
        iou = get_iou(*of)
        return iou if isinstance(iou, tuple) else (iou, 0, 0)
    module.get_iou = defined
module.main()
"""

# A small process between this one and a measured one: what a process starts with counts as memory of its child.
LAUNCHER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
seconds = time.perf_counter() - start
print(json.dumps([code, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""


@dataclass(frozen=True)
class Case:
    """One scene: classes and instances of its vertices, predicted classes, and predicted instances as [P, N] masks."""

    name: str
    segment: NDArray[np.int64]
    instance: NDArray[np.int64]
    predicted_segment: NDArray[np.int64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    masks: NDArray[np.bool_]


def make_cases(scenes: int, vertices: int, classes: int) -> list[Case]:
    """Rooms whose instances are runs of vertices, interleaved with their neighbours'; predictions are noisy copies."""
    return [_make_case(number, vertices, classes) for number in range(scenes)]


def _make_case(number: int, vertices: int, classes: int) -> Case:
    draw = np.random.default_rng(number)
    runs = -(-vertices // RUN)
    owner = np.linspace(0, INSTANCES - 1e-9, runs) + draw.normal(0, 0.7, runs)
    owner = np.clip(owner.astype(np.int64), 0, INSTANCES - 1)
    class_of = (number * INSTANCES + np.arange(INSTANCES)) % classes
    class_of[draw.choice(INSTANCES, 4, replace=False)] = [0, 0, 1, -1]
    id_of = np.where(class_of >= 0, draw.permutation(INSTANCES), -1)

    chosen = draw.integers(0, INSTANCES, PREDICTIONS)
    kept = draw.random((PREDICTIONS, runs)) < draw.uniform(0.6, 1.0, (PREDICTIONS, 1))
    added = draw.random((PREDICTIONS, runs)) < draw.uniform(0.0, 0.2, (PREDICTIONS, 1))
    near = np.abs(owner - chosen[:, None]) <= 1
    masks = np.where(owner == chosen[:, None], kept, near & added)
    guessed = draw.integers(0, classes, PREDICTIONS)
    right = (draw.random(PREDICTIONS) < 0.85) & (class_of[chosen] >= 0)

    segment = np.repeat(class_of[owner], RUN)[:vertices]
    wrong = draw.random(vertices) < 0.2
    return Case(
        name=f"scene{number:04d}_00",
        segment=segment,
        instance=np.repeat(id_of[owner], RUN)[:vertices],
        predicted_segment=np.where(wrong | (segment < 0), draw.integers(0, classes, vertices), segment),
        classes=np.where(right, class_of[chosen], guessed),
        scores=draw.random(PREDICTIONS, np.float32),
        masks=np.repeat(masks, RUN, axis=1)[:, :vertices],
    )


def write_text(cases: Sequence[Case], labels: LabelSet, root: Path) -> None:
    """The benchmark's text formats: folders `instance`, `instance_gt`, `semantic` and `semantic_gt`."""
    ids = np.array([*labels.ids, 0])  # the last for class -1
    for folder in ("instance/masks", "instance_gt", "semantic", "semantic_gt"):
        (root / folder).mkdir(parents=True)
    for case in cases:
        identity = np.where(case.segment < 0, 0, ids[case.segment] * 1000 + case.instance + 1)
        for folder, values in (
            ("instance_gt", identity),
            ("semantic_gt", ids[case.segment]),
            ("semantic", ids[case.predicted_segment]),
        ):
            (root / folder / f"{case.name}.txt").write_text("\n".join(map(str, values.tolist())) + "\n")
        lines = []
        for p, mask in enumerate(case.masks):
            file = f"masks/{case.name}_{p:03d}.txt"
            digits = np.stack([mask + np.uint8(ord("0")), np.full(len(mask), ord("\n"), np.uint8)], axis=1)
            (root / "instance" / file).write_bytes(digits.astype(np.uint8).tobytes())
            lines.append(f"{file} {ids[case.classes[p]]} {float(case.scores[p])!r}\n")
        (root / "instance" / f"{case.name}.txt").write_text("".join(lines))


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def process(command: Sequence[str]) -> tuple[float, float]:
    """Run a command in one thread: its seconds, and its peak memory in MB."""
    run = [sys.executable, "-c", LAUNCHER, *command]
    done = subprocess.run(run, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=True)
    code, seconds, kilobytes = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command[:4])} ...\n{done.stderr}")
    return seconds, kilobytes / 1024


def measure_text(kind: str, labels: LabelSet, root: Path, arguments: argparse.Namespace) -> Iterator[str]:
    """ScanNet's script beside `gcbench evaluate`."""
    script = {"instance": "evaluate_semantic_instance.py", "semantic": "evaluate_semantic_label.py"}[kind]
    left_out = LEFT_OUT if kind == "instance" else ()
    names = [name for name in labels.classes if name not in left_out]
    classes = json.dumps([names, [labels.ids[labels.classes.index(name)] for name in names]])
    predicted, truth = str(root / kind), str(root / f"{kind}_gt")
    theirs, ours = root / f"{kind}_theirs.json", root / f"{kind}_ours.json"
    scannet = str(Path(arguments.scannet, "BenchmarkScripts"))
    official = [sys.executable, "-c", OFFICIAL, scannet, script, predicted, truth, classes, str(theirs)]
    evaluate = [sys.executable, "-m", "gcbench", "evaluate", kind, "--pred", predicted, "--gt", truth]
    evaluate += ["--labels", labels.name, "--protocol", "scannet-official", "--json", str(ours)]
    seconds: dict[str, list[float]] = {"theirs": [], "ours": [], "workers": []}
    memory = 0.0
    for _ in range(arguments.repeats):
        seconds["theirs"].append(process(official)[0])
        took, peak = process(evaluate)
        seconds["ours"].append(took)
        memory = max(memory, peak)
        if arguments.workers > 1:
            seconds["workers"].append(process([*evaluate, "--workers", str(arguments.workers)])[0])
    equal = _equal_text(kind, json.loads(theirs.read_text()), json.loads(ours.read_text()))
    yield row(f"{labels.name} {kind}, text", seconds["theirs"], seconds["ours"], equal, f"peak {memory:.0f} MB")
    if arguments.workers > 1:
        yield row(f"  {arguments.workers} workers beside one", seconds["ours"], seconds["workers"], equal, "")


def _equal_text(kind: str, theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    if kind == "semantic":
        return all(same(iou, ours["classes"][name]["iou"]) for name, (iou, _, _) in theirs.items())
    means = {"mAP": "all_ap", "mAP50": "all_ap_50%", "mAP25": "all_ap_25%"}
    return all(same(theirs[key], ours["metrics"][name]) for name, key in means.items()) and all(
        same(scores[key], ours["classes"][name][ap])
        for name, scores in theirs["classes"].items()
        for ap, key in AP_KEYS.items()
    )


def definition(path: Path, name: str, **names: Any) -> Any:
    """One class or function of a Python file, without importing the file."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            node.decorator_list = []
            exec(compile(ast.Module([node], []), str(path), "exec"), names)
            return names[name]
    raise SystemExit(f"{path} has no {name}")


class OnHost:
    """An array that Pointcept's evaluator may treat as a tensor."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def cpu(self) -> OnHost:
        return self

    def numpy(self) -> NDArray[Any]:
        return self.array


def pointcept_instance(evaluator_class: Any, labels: LabelSet, cases: Sequence[Case]) -> dict[str, Any]:
    ignored = (-1, *(labels.classes.index(name) for name in LEFT_OUT))
    evaluator = evaluator_class(segment_ignore_index=ignored)
    data = SimpleNamespace(names=labels.classes, num_classes=len(labels))
    evaluator.trainer = SimpleNamespace(cfg=SimpleNamespace(data=data))
    evaluator.before_train()
    scenes = []
    for case in cases:
        predicted = {"pred_classes": case.classes, "pred_scores": case.scores, "pred_masks": case.masks}
        truth, found = evaluator.associate_instances(predicted, OnHost(case.segment), OnHost(case.instance))
        scenes.append({"gt": truth, "pred": found})
    scores: dict[str, Any] = evaluator.evaluate_matches(scenes)
    return scores


def our_instance(labels: LabelSet, cases: Sequence[Case]) -> InstanceMetrics:
    scorer = InstanceScorer(labels, load_protocol("pointcept"))
    for case in cases:
        predictions = InstancePredictions(case.classes, case.scores, case.masks)
        scorer.add(case.name, predictions, InstanceTarget(case.segment, case.instance))
    return scorer.result()


def pointcept_semantic(count: Any, labels: LabelSet, cases: Sequence[Case]) -> float:
    counts = [count(case.predicted_segment, case.segment, len(labels)) for case in cases]
    intersection, union, _ = (sum(arrays) for arrays in zip(*counts, strict=True))
    return float(np.mean(intersection / (union + 1e-10)))


def our_semantic(labels: LabelSet, cases: Sequence[Case]) -> float:
    scorer = SemanticScorer(labels, load_protocol("pointcept"))
    for case in cases:
        scorer.add(case.name, case.predicted_segment, case.segment)
    return scorer.result().miou


def measure_arrays(labels: LabelSet, cases: Sequence[Case], arguments: argparse.Namespace) -> Iterator[str]:
    """Pointcept's evaluators beside our scorers."""
    root = Path(arguments.pointcept, "pointcept")
    if not hasattr(np, "in1d"):
        setattr(np, "in1d", np.isin)  # noqa: B010 - the reference uses the name that numpy removed
    hooks = root / "engines" / "hooks" / "evaluator.py"
    evaluator = definition(hooks, "InsSegEvaluator", np=np, uuid4=uuid4, HookBase=object)
    count = definition(root / "utils" / "misc.py", "intersection_and_union", np=np)
    seconds: list[list[float]] = [[], [], [], []]
    for _ in range(arguments.repeats):
        pairs = [
            timed(lambda: pointcept_instance(evaluator, labels, cases)),
            timed(lambda: our_instance(labels, cases)),
            timed(lambda: pointcept_semantic(count, labels, cases)),
            timed(lambda: our_semantic(labels, cases)),
        ]
        for measured, (took, _) in zip(seconds, pairs, strict=True):
            measured.append(took)
    theirs, ours = pairs[0][1], pairs[1][1].as_record()
    equal = same(theirs["all_ap"], ours["metrics"]["mAP"]) and all(
        same(scores[key], ours["classes"][name][ap])
        for name, scores in theirs["classes"].items()
        for ap, key in AP_KEYS.items()
    )
    yield row(f"{labels.name} instance, arrays", seconds[0], seconds[1], equal, f"mAP {theirs['all_ap']:.3f}")
    yield row(f"{labels.name} semantic, arrays", seconds[2], seconds[3], same(pairs[2][1], pairs[3][1]), "")


def same(one: float | None, other: float | None) -> bool:
    """Equal to the bit; null in JSON is NaN."""
    one, other = (math.nan if value is None else float(value) for value in (one, other))
    return one == other or (math.isnan(one) and math.isnan(other))


def row(what: str, theirs: Sequence[float], ours: Sequence[float], equal: bool, note: str) -> str:
    reference, own = statistics.median(theirs), statistics.median(ours)
    verdict = "equal" if equal else "NOT EQUAL"
    return f"{what:32} {reference:9.3f} s {own:9.3f} s {reference / own:7.1f} x   {verdict:9} {note}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scannet", help="checkout of ScanNet/ScanNet")
    parser.add_argument("--pointcept", help="checkout of Pointcept/Pointcept")
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--vertices", type=int, default=100_000)
    parser.add_argument("--labels", default="scannet20,scannet200")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{'median of ' + str(arguments.repeats):32} {'reference':>11} {'ours':>11}")
    lines: list[str] = []
    for name in arguments.labels.split(","):
        labels = load_label_set(name)
        cases = make_cases(arguments.scenes, arguments.vertices, len(labels))
        with tempfile.TemporaryDirectory() as folder:
            parts: list[Iterator[str]] = []
            if arguments.pointcept:
                parts.append(measure_arrays(labels, cases, arguments))
            if arguments.scannet:
                write_text(cases, labels, Path(folder))
                parts += [measure_text(kind, labels, Path(folder), arguments) for kind in ("instance", "semantic")]
            for part in parts:
                for line in part:
                    print(line, flush=True)
                    lines.append(line)
    sys.exit(1 if any("NOT EQUAL" in line for line in lines) else 0)


if __name__ == "__main__":
    main()
