"""The report of an export: what is in the file, what was proven, what differs from the model."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

from tflite_export.contents import FloatPartReport, OpReport, WeightReport
from tflite_export.proof.comparison import ModelComparison
from tflite_export.proof.evaluation import OtherEvaluation
from tflite_export.proof.processors import ProcessorDifference
from tflite_export.proof.verification import RuntimeVerification
from tflite_export.proof.worth import Worth
from tflite_export.text_table import text_table


@dataclasses.dataclass(frozen=True)
class Report:
    """The content of the file, the proofs, and the differences from the model.

    Attributes:
        path: the file.
        target: the target that the file was written for.
        io_dtype: dtype of the model's inputs and outputs.
        file_bytes: size of the file.
        operators: every operator of the file.
        weights: every layer with weights.
        verifications: one entry per runtime; empty if `verify` was `False`.
        comparison: the comparison with the trained model; `None` if a graph was exported.
        limits: what the numbers do not cover.
        float_parts: the layers that the file computes in float32; empty for most models.
        worth: float model, trained model and file side by side; `None` without real samples.
        evaluation: the file against the model as the user evaluates it, if that is as another
            target; else `None`.
        processors: what the file computes otherwise on other processors.
    """

    path: str
    target: str
    io_dtype: str
    file_bytes: int
    operators: tuple[OpReport, ...]
    weights: tuple[WeightReport, ...]
    verifications: tuple[RuntimeVerification, ...]
    comparison: ModelComparison | None
    limits: tuple[str, ...]
    float_parts: tuple[FloatPartReport, ...] = ()
    worth: Worth | None = None
    evaluation: OtherEvaluation | None = None
    processors: tuple[ProcessorDifference, ...] = ()

    @property
    def mismatches(self) -> int:
        """Elements in which any runtime differs from the integer graph."""
        return sum(result.differing for result in self.verifications)

    @property
    def compared_elements(self) -> int:
        """Elements compared with the integer graph, over all runtimes."""
        return sum(result.elements for result in self.verifications)

    def to_json(self) -> str:
        """The report as JSON, with the totals that the properties compute."""
        content = dataclasses.asdict(self)
        for entry, result in zip(content["verifications"], self.verifications, strict=True):
            entry |= {"differing": result.differing, "elements": result.elements}
        if self.comparison is not None:
            content["comparison"] |= {
                "flip_rate": self.comparison.flip_rate,
                "max_difference": self.comparison.max_difference,
                "argmax_agreement": self.comparison.argmax_agreement,
                "output_errors": [dataclasses.asdict(e) for e in self.comparison.output_errors],
            }
        return json.dumps(content, indent=2)

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_json()` to `path`."""
        pathlib.Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    def render(self) -> str:
        """The report as plain text with tables."""
        lines = [
            f"{self.path}: {self.file_bytes:,} bytes, target {self.target}, {self.io_dtype} I/O",
            "",
            *text_table(
                ("operator", "version", "output", "dtype", "shape"),
                [(o.code, o.version, o.name, o.dtype, _times(o.shape)) for o in self.operators],
            ),
            "",
            *self._render_weights(),
            *map(_render_float_part, self.float_parts),
            *self._render_verifications(),
            *self._render_comparison(),
            *(self.evaluation.render() if self.evaluation else ()),
            *(line for each in self.processors for line in each.render()),
            *(self.worth.render() if self.worth else ()),
            *(f"Limit: {limit}" for limit in self.limits),
        ]
        return "\n".join(lines)

    def _render_weights(self) -> list[str]:
        if not self.weights:
            return []
        rows = [
            (
                weight.name,
                _times(weight.shape),
                weight.bits,
                weight.storage,
                weight.stored_bytes,
                "{}..{}".format(*weight.headroom),
                f"{weight.predicted_flip_rate:.1e}",
                f"{weight.zeros:.1%}",
                weight.values,
            )
            for weight in self.weights
        ]
        head = (
            *("weights of", "shape", "bits", "storage", "bytes", "headroom", "predicted flips"),
            *("zeros", "values"),
        )
        return [*text_table(head, rows), ""]

    def _render_verifications(self) -> list[str]:
        if not self.verifications:
            return ["Not verified: verify=False."]
        return [line for result in self.verifications for line in _render_verification(result)]

    def _render_comparison(self) -> list[str]:
        comparison = self.comparison
        if comparison is None:
            return []
        rows = [
            (t.name, t.differing, t.elements, f"{t.rate:.2e}", f"{t.max_difference:g}")
            for t in comparison.tensors
        ]
        ran = f" ({comparison.samples} samples, rounding of {comparison.profile})."
        floats = [f"{found.from_('the model')}{ran}" for found in comparison.float_outputs]
        flips = [
            *text_table(("against the model", "flips", "elements", "rate", "max LSB"), rows),
            f"Flip rate {comparison.flip_rate:.2e}, at most {comparison.max_difference:g} LSB{ran}",
        ]
        return [
            "",
            *(flips if rows or not floats else ()),
            *(f"Output: {line}" for line in floats),
            *(output.render() for output in comparison.outputs),
        ]


def _render_verification(result: RuntimeVerification) -> list[str]:
    integers = (
        f"{result.runtime}: {result.differing} of {result.elements:,} elements of "
        f"{len(result.tensors)} tensors differ from the integer graph "
        f"({result.samples} samples)."
    )
    floats = [
        f"{result.runtime}: {found.from_('the graph')} ({result.samples} samples)."
        for found in result.float_tensors
    ]
    return [*([integers] if result.tensors or not floats else []), *floats]


def _render_float_part(part: FloatPartReport) -> str:
    kernels = (
        f"{weight.name} {_times(weight.shape)}, {weight.bits} bit{'s' * (weight.bits > 1)}, "
        f"{weight.stored_bytes:,} bytes"
        for weight in part.weights
    )
    quantized = f" Quantized weights: {'; '.join(kernels)}." if part.weights else ""
    return (
        f"In float32: {', '.join(part.layers)} ({part.operators} operators, "
        f"{part.stored_bytes:,} bytes of constants), to {part.dtype} tensor {part.name}."
        f"{quantized}"
    )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
