"""The report of an export: what is in the file, what was proven, what differs from the model."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_qat.integer.tables import Table, html_lines
from tflite_export.arena.preference import StorageCost, costs_in_words
from tflite_export.contents import (
    FloatPartReport,
    FloatWeightReport,
    OpReport,
    WeightReport,
)
from tflite_export.proof.comparison import ModelComparison
from tflite_export.proof.evaluation import OtherEvaluation
from tflite_export.proof.processors import ProcessorDifference
from tflite_export.proof.verification import RuntimeVerification
from tflite_export.proof.worth import Worth
from tflite_export.targets import get_target
from tflite_export.text_table import fitted_lines, text_table

_TARGETS = {"litert": "LiteRT", "tflm": "TensorFlow Lite Micro", "ethos-u": "Ethos-U"}
_RUNTIMES = {
    "LiteRT reference kernels": "LiteRT's reference kernels",
    "LiteRT default (XNNPACK)": "XNNPACK",
}
"""What the first lines call a runtime; others have their own name."""


@dataclasses.dataclass(frozen=True)
class Report(Table):
    """The content of the file, the proofs, and the differences from the model.

    `summary()` says it in four lines, `print(report)` in full, and a notebook shows the four lines
    and a row for each operator. `to_dataframe()`, `to_csv(path)` and `to_latex(path)` give these
    rows.

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
        storage_costs: what each `prefer` of `export` would cost a microcontroller; empty where
            there was nothing to choose.
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
    storage_costs: Mapping[str, StorageCost] = dataclasses.field(default_factory=dict)

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

    def summary(self) -> str:
        """Four lines: the file, its size, what it keeps of the float model, where it was proven.

        A line goes on below where the terminal is narrow. What is to be minded follows.
        """
        return "\n".join(fitted_lines(self._first_lines()))

    def _first_lines(self) -> list[str]:
        standing = get_target(self.target).limits
        return [
            f"File    {self.path}, for {_TARGETS.get(self.target, self.target)}, {self.io_dtype} "
            f"I/O{self._said_of_float()}",
            f"Size    {self.file_bytes:,} bytes; {self.float_bytes:,} with float32 weights, "
            f"{self.int8_bytes:,} with int8",
            f"Kept    {self._kept()}",
            f"Proven  {self._proven()}",
            *(f"Mind: {limit}" for limit in self.limits if limit not in standing),
        ]

    @property
    def float_bytes(self) -> int:
        """The bytes of this file if its weights were float32."""
        return self._bytes_with(4)

    @property
    def int8_bytes(self) -> int:
        """The bytes of this file if its weights were int8."""
        return self._bytes_with(1)

    def _bytes_with(self, size: int) -> int:
        inside = [weight for part in self.float_parts for weight in part.weights]
        weights: list[WeightReport | FloatWeightReport] = [*self.weights, *inside]
        return self.file_bytes + sum(size * each.elements - each.stored_bytes for each in weights)

    def _said_of_float(self) -> str:
        layers = {name for part in self.float_parts for name in part.layers}
        return f", {len(layers)} layer{'s' * (len(layers) > 1)} in float32" if layers else ""

    def _kept(self) -> str:
        """The metric or the SQNR against the float model, else the answers of the trained one."""
        worth, comparison = self.worth, self.comparison
        if comparison is None:
            return "not measured: a graph has no float model"
        count = f"{comparison.samples:,} samples"
        if worth is not None and worth.metric:
            percent = worth.metric == "accuracy"
            file, trained, of_float = (
                "" if each is None else f"{each:.2%}" if percent else f"{each:.4g}"
                for each in (worth.of_file, worth.of_trained, worth.of_float)
            )
            before = f"float {of_float}, " if of_float else ""
            return f"{worth.metric} {file} ({before}trained {trained}; {count})"
        known = [each for each in (worth.file_sqnr if worth else {}).values() if each is not None]
        if known:
            return f"SQNR {min(known):.1f} dB against the float model ({count})"
        if worth is not None and worth.file_sqnr:
            return f"no difference from the float model ({count})"
        how = count if worth is not None else f"{comparison.samples:,} random samples"
        if comparison.argmax_agreement is not None:
            return f"{comparison.argmax_agreement:.2%} of the trained model's answers ({how})"
        sizes = [each.sqnr for each in comparison.outputs if each.sqnr is not None]
        if sizes:
            return f"SQNR {min(sizes):.1f} dB against the trained model ({how})"
        return f"flip rate {comparison.flip_rate:.1e} against the trained model ({how})"

    def _proven(self) -> str:
        if not self.verifications:
            return "nowhere: verify=False"
        names = [_RUNTIMES.get(each.runtime, each.runtime) for each in self.verifications]
        where = " and ".join(dict.fromkeys(names))
        if not self.compared_elements:  # nothing is on a grid
            return f"the outputs in float32 are the graph's, within rounding, in {where}"
        return f"{self.mismatches} of {self.compared_elements:,} elements differ in {where}"

    @property
    def table_head(self) -> tuple[str, ...]:
        """The columns: a row for each operator, and what is known of its layer."""
        return ("layer", "operator", "output", "shape", "bits", "storage", "bytes", "flip rate")

    @property
    def table_rows(self) -> list[tuple[Any, ...]]:
        """A row for each operator."""
        weights = {each.name: each for each in self.weights}
        tensors = () if self.comparison is None else self.comparison.tensors
        rates = {each.name: each.rate for each in tensors}
        rows: list[tuple[Any, ...]] = []
        for op in self.operators:
            own = weights.get(op.name)
            known = (own.bits, own.storage, own.stored_bytes) if own else (None, None, None)
            layer = (own.layer if own else "") or op.name
            rows.append((layer, op.code, op.name, _times(op.shape), *known, rates.get(op.name)))
        return rows

    def _repr_html_(self) -> str:
        """What a notebook shows: the first lines, and a row for each operator."""
        return html_lines(self._first_lines()) + self.html_table()

    def render(self) -> str:
        """The report in full as plain text, no wider than the terminal."""
        lines = [
            *self._first_lines(),
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
            *costs_in_words(self.storage_costs),
            *(f"Limit: {limit}" for limit in self.limits),
        ]
        return "\n".join(fitted_lines(lines))

    def __str__(self) -> str:
        return self.render()

    def _render_weights(self) -> list[str]:
        if not self.weights:
            return []
        rows = [
            (
                weight.layer or weight.name,
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


def print_report(report: Report, verbose: bool | int) -> None:
    """Prints the first lines of a report; from 2 on all of it, and for 0 nothing."""
    if verbose:
        print(report.render() if verbose > 1 else report.summary())
