"""Protocols: the named, versioned policies under which a prediction becomes a number.

A protocol is a file `evaluation/protocols/<name>.yaml`. The scorers hold what all families of scripts agree on; what
they do not agree on is a value of the policies here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gcbench.errors import InputError
from gcbench.recipe.yaml_files import read_yaml
from gcbench.resources import resource_path
from gcbench.structures import Float64Array, Int64Array, LabelSet


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SemanticPolicy(_Strict):
    """Where the families of official scripts differ on semantic segmentation.

    Attributes:
        epsilon: added to every denominator.
        absent_class: a class whose denominator is empty counts ``zero`` in the means, or is ``undefined`` (NaN, and
            left out of the means).
        unlisted_prediction: a prediction of -1, "no class of the list", is an error (``reject``) or a ``miss`` of the
            true class.
    """

    epsilon: Annotated[float, Field(ge=0.0)]
    absent_class: Literal["zero", "undefined"]
    unlisted_prediction: Literal["reject", "miss"]

    @property
    def absent_value(self) -> float:
        """IoU and accuracy of an absent class."""
        return 0.0 if self.absent_class == "zero" else float("nan")


class InstancePolicy(_Strict):
    """Where the families of official scripts differ on instance segmentation.

    Attributes:
        first_threshold, stop_threshold, threshold_step: mAP averages over ``np.arange`` of the three.
        coarse_threshold: of AP25; no part of mAP.
        half_threshold: of AP50; the one of mAP's that it is close to.
        minimum_vertices: smaller ground truths and predictions do not count.
        unevaluated: per label set, the classes without an AP. Every vertex of one of them, or of no class, is void.
        instance: a ground truth is the vertices that share ``class_and_id``, or those that share the ``id``: then its
            class is that of its first vertex, and id -1 is none.
        score_precision: scores are compared in it.
    """

    first_threshold: float
    stop_threshold: float
    threshold_step: Annotated[float, Field(gt=0.0)]
    half_threshold: float
    coarse_threshold: float
    minimum_vertices: Annotated[int, Field(ge=1)]
    unevaluated: Mapping[str, list[str]]
    instance: Literal["class_and_id", "id"]
    score_precision: Literal["float32", "float64"]

    def thresholds(self) -> Float64Array:
        """IoU thresholds [T]: those of mAP, then the coarse one."""
        return np.append(
            np.arange(self.first_threshold, self.stop_threshold, self.threshold_step), self.coarse_threshold
        )

    def thresholds_of(self) -> dict[str, NDArray[np.bool_]]:
        """Which of `thresholds` each metric is the mean over: ``ap``, ``ap50``, ``ap25``, [T] each."""
        thresholds = self.thresholds()
        coarse = np.isclose(thresholds, self.coarse_threshold)
        return {"ap": ~coarse, "ap50": np.isclose(thresholds, self.half_threshold), "ap25": coarse}

    def evaluated_classes(self, label_set: LabelSet) -> Int64Array:
        """Indices of the classes that have an AP, ascending.

        Raises:
            InputError: the protocol says nothing about this label set, or names a class that it does not have.
        """
        if label_set.name not in self.unevaluated:
            raise InputError(
                f"This protocol does not say which classes of '{label_set.name}' count as instances.",
                f"It knows: {', '.join(sorted(self.unevaluated))}.",
            )
        left_out = self.unevaluated[label_set.name]
        for name in left_out:
            if name not in label_set.classes:
                raise InputError(f"The protocol leaves out '{name}', which is no class of '{label_set.name}'.")
        return np.array([index for index, name in enumerate(label_set.classes) if name not in left_out], np.int64)


class Protocol(_Strict):
    """A metric policy, as read from `evaluation/protocols/<name>.yaml`."""

    name: str
    version: Annotated[int, Field(ge=1)]
    title: str
    source: str
    semantic: SemanticPolicy
    instance: InstancePolicy


def protocol_names() -> list[str]:
    """Names of all protocols."""
    return sorted(path.stem for path in resource_path("evaluation", "protocols").glob("*.yaml"))


def load_protocol(name: str) -> Protocol:
    """Read a protocol by name, e.g. ``"pointcept"``.

    Raises:
        InputError: there is no such protocol, or its file has an unknown key or a wrong type.
    """
    if name not in protocol_names():
        raise InputError(f"There is no evaluation protocol '{name}'.", f"Known: {', '.join(protocol_names())}.")
    path = resource_path("evaluation", "protocols", f"{name}.yaml")
    document = read_yaml(path)
    try:
        protocol = Protocol.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: key '{key}': {first['msg']} (value: {first['input']!r}).") from error
    if protocol.name != name:
        raise InputError(f"{path}: key 'name' is '{protocol.name}', but the file is called '{name}.yaml'.")
    return protocol
