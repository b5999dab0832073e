"""`export`: from a trained model or an integer graph to a proven `.tflite` file."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_qat.integer import IntegerGraph
from keras_qat.integer.files import check_name, replace_file
from keras_qat.integer.own_files import note_as_own
from keras_qat.integer.parts import part_of, stating_integers
from keras_qat.integer.progress import stage
from tflite_export.arena.preference import preferred_storage
from tflite_export.contents import (
    describe_loss,
    needed_runtimes,
    report_float_parts,
    report_operators,
    report_weights,
    stored_otherwise,
)
from tflite_export.file.file_model import FileModel
from tflite_export.file.metadata_file import BUFFER_NAME, with_associated_files
from tflite_export.file.other_runtime import OtherRuntime
from tflite_export.file.writer import write_model
from tflite_export.graph_of import graph_of
from tflite_export.legal.legality import check_float_inputs, runnable_profiles
from tflite_export.legal.legalize import legalize, with_channel_scales
from tflite_export.legal.storage import check_weight_storage, require_faithful
from tflite_export.metadata import Metadata, packed
from tflite_export.ops.boundary import IoDtypes, dtypes_in_words, io_dtypes
from tflite_export.ops.emit_model import emit_model
from tflite_export.part import PartOfModel
from tflite_export.proof.comparison import (
    LearnedModel,
    Samples,
    compare_with_model,
)
from tflite_export.proof.evaluation import Arithmetic, inferring_as, other_evaluation
from tflite_export.proof.limits import Limits, check_limits
from tflite_export.proof.output_kinds import output_kinds
from tflite_export.proof.processors import on_other_processors
from tflite_export.proof.samples import code_samples, real_samples, split_labels
from tflite_export.proof.uneven_ranges import range_warnings
from tflite_export.proof.verification import RuntimeVerification
from tflite_export.proof.verification import verify as verify_file
from tflite_export.proof.worth import Answers, Metric, worth_of
from tflite_export.report import Report, print_report
from tflite_export.targets import TARGETS, Target, get_target, target_with

_FLOAT_INPUT_LIMIT = (
    "Verified on float32 inputs that lie on the input grid. The runtime's QUANTIZE rounds inputs "
    "between two levels in its own way."
)
_WIDE_SOFTMAX_LIMIT = (
    "LiteRT's reference kernels abort on a softmax over this many classes, so they were not run. "
    "LiteRT with its default kernels runs it."
)


def export(
    model: IntegerGraph | LearnedModel,
    path: str | os.PathLike[str],
    *,
    target: str = "litert",
    io_dtype: IoDtypes = "int8",
    weight_storage: str = "auto",
    prefer: str = "flash",
    kernels: str | None = None,
    strict: bool = False,
    compact: bool = False,
    samples: Any = None,
    metric: Metric | None = None,
    outputs: Mapping[str, str] | Sequence[str] | None = None,
    verify: bool = True,
    max_flip_rate: float | None = None,
    min_argmax_agreement: float | None = None,
    max_output_error: float | None = None,
    metadata: Metadata | None = None,
    portable: bool | None = None,
    runtimes: Sequence[OtherRuntime] = (),
    verbose: bool | int = True,
) -> Report:
    """Writes `model` as a `.tflite` file and proves the file before it appears at `path`.

    Args:
        model: an `IntegerGraph`, or a trained model with `to_integer()` and `layer_codes(x)`. With
            keras_qat, also a plain `keras.Model` that ends in tensors on grids of such a model.
        path: where to write; ends in `.tflite`. An existing file is replaced only on success.
        target: `"litert"`, `"tflm"` or `"ethos-u"`.
        io_dtype: the dtype of inputs and outputs: `"int8"`, `"uint8"` (each code plus 128, as
            cameras and Coral use), or `"float32"` (real numbers). A dict gives dtypes by the names
            of inputs and outputs, such as `{"image": "uint8", "scores": "float32"}`; names that are
            not listed are int8. QUANTIZE and DEQUANTIZE at the ends of the file convert. An input
            or an output on no grid, as with `activation_bits=None`, is float32 in all.
        weight_storage: how the file stores weights. `"int4"` holds weights of up to 4 bits, two to
            a byte: for `"tflm"` except of convolutions in groups, for `"litert"` of Dense layers
            with an even number of inputs. For `"litert"`, `"int2"` holds four in a byte, of up to
            2 bits and a multiple of 4 inputs, and falls back to `"int4"`. `"lut"`, for `"tflm"`,
            holds up to 7 bits as packed indices into a table for each channel. Where weights do
            not fit, all fall back to `"int8"`.
            `"auto"` takes storages that hold the same integers as `"int8"`, as `prefer` says.
        prefer: what `"auto"` takes the least of: `"flash"` (the file, and about 22,000 bytes of
            code if it has a table), `"ram"` (the arena; then flash), or `"balanced"` (flash and
            arena together). `report.storage_costs` has what each would cost.
        kernels: whose kernels run a file for `"tflm"`, see `plan_memory`. For `"esp-nn"`, `"auto"`
            leaves out INT4, which is slow there.
        strict: refuse a storage that rounds worse than int8. INT4 has no room for headroom, which
            makes the second rounding of TensorFlow Lite Micro harmless.
        compact: write a file for `"tflm"` that only TensorFlow Lite Micro opens. It leaves out what
            this runtime does not read, about 20 bytes for each channel of weights, and looks tables
            up with one tensor less in RAM. Without it, a file whose weights are stored as int8
            also opens in LiteRT and in the tools of vendors.
        samples: examples for the proofs, shape (samples, ...). A trained model takes real numbers,
            a graph takes int8 codes. For several inputs, pass a list in their order or a dict by
            name. Batches may come from a `tf.data.Dataset`, a `keras.utils.PyDataset` or a
            generator, with or without labels, as for `calibration_data` of `keras_qat.quantize`.
            The default is 32 random examples on the input grid. They say little about a
            trained model's accuracy, so pass real data: `x`, or `(x, labels)`. With labels the
            report has the metric of the float model, the trained model and the file side by side.
        metric: `(labels, outputs) -> number`; by default the accuracy, if the model has one output
            and that is scores. `outputs` is an array, or a dict by name for several outputs.
        outputs: a list of names exports a part of the model: up to these tensors of the integer
            network, such as the embedding of an encoder or one of several heads. A tensor has the
            name of the layer that yields it. The proof compares the file with that part. A dict
            says what outputs are, by name. `"scores"` decide: the largest along the last axis, or
            the side of a threshold for a single one. `"values"` are read as numbers. By default the
            compiled loss tells, or a softmax.
        verify: run the target's runtimes and require equality with the graph in every element.
        max_flip_rate: largest share of layer elements that may differ from the trained model, end
            to end. By default 0 for `"tflm"`, where the model can compute as the target. Else any
            share may: outputs are judged, and each layer alone. On the model's own inputs a layer
            may differ at ties only; 1 turns that check off too.
        min_argmax_agreement: smallest share of positions (examples, pixels, boxes) of an output of
            scores that keep their answer. The default is 0.99 for `"litert"`. For `"tflm"` it is 1,
            or 0.9 for a model that cannot compute as the target. Random samples are not held to it,
            because they have no clear winner.
        max_output_error: largest mean error of an output of values, as a share of its range; of an
            output on no grid, as a share of its largest value. The default is 1/128 for `"litert"`.
            For `"tflm"` it is 0, or 1/16 for a model that cannot compute as the target. Random
            samples are held to it for outputs on no grid alone. An output of unknown kind has to
            keep one of the last two limits.
        metadata: what the file says of itself to tools that read TFLite metadata: its name, author
            and labels, how inputs are normalized, what outputs mean. See `Metadata`.
        portable: `True` writes a file for `"litert"` that computes the same on x86-64 and arm64, or
            refuses and names the operator. By default the report counts what differs.
        runtimes: LiteRT of other environments, which also have to compute the file exactly.
        verbose: print four lines of the report: the file, its size, what it keeps and where it was
            proven. 2 prints all of it, `False` nothing.

    Returns:
        The report.

    Raises:
        ExportError: the target cannot hold the graph, a limit is exceeded, or `strict` refuses a
            storage.
        VerificationError: the file or a runtime differs from the graph.
        ValueError: an argument is wrong; the message names it.
        ImportError: a package that writing or verifying needs is not installed.

    Example:

    >>> import tempfile
    >>> import numpy as np
    >>> from keras_qat.integer import GraphBuilder, QuantParams, ops
    >>> builder = GraphBuilder()
    >>> x = builder.add_input("x", (1, 4), QuantParams(np.float32(0.1)))
    >>> y = builder.add(ops.Softmax((x,), "y"), ops.SOFTMAX_OUTPUT)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = export(builder.build((y,)), f"{folder}/net.tflite", target="tflm",
    ...                     verbose=False)
    >>> [result.differing for result in report.verifications]
    [0]
    """
    destination = check_path(path)
    exported = prepare(
        model,
        str(destination),
        target=target_with(target, kernels),
        io_dtype=io_dtype,
        weight_storage=weight_storage,
        prefer=prefer,
        strict=strict,
        compact=compact,
        samples=samples,
        metric=metric,
        outputs=outputs,
        verify=verify,
        max_flip_rate=max_flip_rate,
        min_argmax_agreement=min_argmax_agreement,
        max_output_error=max_output_error,
        metadata=metadata,
        portable=portable,
        runtimes=runtimes,
    )
    replace_file(destination, exported.data)
    if verify:
        note_as_own(exported.data)
    print_report(exported.report, verbose)
    return exported.report


@dataclasses.dataclass(frozen=True, eq=False)
class Exported:
    """A proven file that is not written yet.

    Attributes:
        data: the bytes of the file.
        file: the content of these bytes, by name.
        graph: the legalized graph, as the file states it.
        codes: the samples of the proofs as integers, by input name.
        report: the report of the export.
    """

    data: bytes
    file: FileModel
    graph: IntegerGraph
    codes: Samples
    report: Report


def prepare(
    model: IntegerGraph | LearnedModel,
    path: str,
    *,
    target: str | Target,
    weight_storage: str,
    **options: Any,
) -> Exported:
    """Does all of `export` except writing. Only the report uses `path`.

    A trained model infers as the target meanwhile, if it can.
    """
    chosen = get_target(target)
    storage = check_weight_storage(weight_storage, chosen)
    whole = stating_integers(model)
    with inferring_as(whole, chosen, storage) as arithmetic:
        return _prepared(whole, path, chosen, storage, arithmetic, **options)


def _prepared(
    whole: Any,
    path: str,
    chosen: Target,
    storage: str,
    arithmetic: Arithmetic,
    *,
    io_dtype: IoDtypes,
    prefer: str = "flash",
    strict: bool,
    compact: bool = False,
    samples: Any,
    metric: Metric | None = None,
    outputs: Mapping[str, str] | Sequence[str] | None = None,
    verify: bool,
    max_flip_rate: float | None,
    min_argmax_agreement: float | None,
    max_output_error: float | None,
    metadata: Metadata | None = None,
    portable: bool | None = None,
    runtimes: Sequence[OtherRuntime] = (),
) -> Exported:
    _check_compact(compact, chosen)
    model, kinds_given = _part(whole, outputs)
    graph = graph_of(model)
    dtypes = io_dtypes(graph, io_dtype)
    storages, costs = preferred_storage(graph, chosen, storage, prefer, dtypes, compact)
    stored = legalize(graph, chosen, storages, portable)
    legal = stored.graph
    check_float_inputs(legal, dtypes)
    file = emit_model(stored, dtypes, compact)
    kinds = output_kinds(legal, model, kinds_given)
    files: Mapping[str, bytes] = {}
    if metadata is not None:
        said = packed(metadata, legal, kinds)
        file, files = dataclasses.replace(file, metadata={BUFFER_NAME: said.buffer}), said.files
    data = with_associated_files(write_model(file), files)
    named: Mapping[str, str] = getattr(whole, "kernel_layers", dict)()
    learned = with_channel_scales(graph, chosen)
    weights = report_weights(learned, stored, file, chosen.default_profile, named)
    lossy = [weight for weight in weights if not weight.faithful]
    if strict:
        require_faithful([weight.name for weight in lossy])

    comparison, worth, evaluation, uneven = None, None, None, []
    samples, labels = split_labels(graph, samples, metric)
    if isinstance(model, IntegerGraph):
        if labels is not None:
            raise ValueError(
                "Labels and a metric compare a trained model with its file. Received: an "
                "IntegerGraph, which states its integers alone"
            )
        codes = code_samples(graph, samples)
    else:
        real, answers = real_samples(graph, samples), Answers(legal)
        profile = arithmetic.profile
        alone = {"alone": profile} if arithmetic.exact or profile in chosen.processors else {}
        with stage("Comparing with the trained model", len(next(iter(real.values())))) as advance:

            def add(codes: Samples, exported: Samples) -> None:
                answers.add(codes, exported)
                advance(len(next(iter(exported.values()))))

            comparison = compare_with_model(legal, model, real, profile, kinds, add, **alone)
        if arithmetic.before is not None:
            of_file = {name: np.concatenate(found) for name, found in answers.file.items()}
            evaluation, answers.trained = other_evaluation(
                legal, model, real, kinds, of_file, arithmetic.before, chosen, storage
            )
        codes = {name: graph.tensors[name].quantize(x) for name, x in real.items()}
        if samples is not None:
            worth = worth_of(answers, model, real, list(kinds.values()), labels, metric)
            uneven = range_warnings(graph, real, getattr(model, "grid_warnings", ()))
    verifications: tuple[RuntimeVerification, ...] = ()
    if verify:
        options: Any = {"runtimes": runtimes, "portable": portable}
        with stage(f"Proving the file for {chosen.name}"):
            verifications = verify_file(graph, data, chosen, codes, **options)
    unproven = len(runnable_profiles(legal, chosen)) < len(chosen.profiles)
    if comparison is not None:
        limits = Limits.of(
            chosen,
            arithmetic.exact,
            max_flip_rate=max_flip_rate,
            min_argmax_agreement=min_argmax_agreement,
            max_output_error=max_output_error,
        )
        check_limits(comparison, limits, answers=samples is not None)
    float_parts = report_float_parts(stored, file)
    rounds_inputs = any(dtypes.get(name) == "float32" for name in graph.inputs)
    report = Report(
        path=path,
        target=chosen.name,
        io_dtype=dtypes_in_words(dtypes),
        file_bytes=len(data),
        operators=report_operators(file),
        weights=weights,
        verifications=verifications,
        comparison=comparison,
        limits=(
            *chosen.limits,
            *((_WIDE_SOFTMAX_LIMIT,) if unproven else ()),
            *((_FLOAT_INPUT_LIMIT,) if rounds_inputs else ()),
            *needed_runtimes(stored, chosen),
            *stored_otherwise(weights, float_parts, storage),
            *((describe_loss(lossy, comparison),) if lossy else ()),
            *uneven,
        ),
        float_parts=float_parts,
        worth=worth,
        evaluation=evaluation,
        processors=on_other_processors(legal, codes, kinds, chosen),
        storage_costs=costs,
    )
    return Exported(data, file, legal, codes, report)


def check_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path. Raises a `ValueError` unless a `.tflite` file can be written there."""
    destination = pathlib.Path(path)
    if destination.suffix != ".tflite":
        raise ValueError(f"The path must end in '.tflite'. Received: {str(path)!r}")
    if not destination.parent.is_dir():
        raise ValueError(f"The folder does not exist; create it first. Received: {str(path)!r}")
    if destination.is_dir():
        raise ValueError(f"The path is a folder. Received: {str(path)!r}")
    check_name(destination)
    return destination


def _part(model: Any, outputs: Any) -> tuple[Any, Mapping[str, str] | None]:
    """The model or its part, and what its outputs are, of the argument that states either."""
    if outputs is None or isinstance(outputs, Mapping):
        return model, outputs
    if isinstance(outputs, str):
        raise ValueError(
            "outputs: pass a list of names for a part of the model, or a dict that says what "
            f"outputs are. Received: {outputs!r}"
        )
    if isinstance(model, IntegerGraph):
        return part_of(model, outputs), None
    return PartOfModel(model, outputs), None


def _check_compact(compact: bool, target: Target) -> None:
    if compact and not target.compact:
        able = ", ".join(repr(each.name) for each in TARGETS.values() if each.compact)
        raise ValueError(
            f"compact=True leaves out what target {target.name!r} reads. Leave it out, or export "
            f"for {able}. Received: compact={compact!r}, target={target.name!r}"
        )
