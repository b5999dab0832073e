"""FLOAT_PART: layers in float between two grids, as a TensorFlow Lite file.

FLOAT_RESULT: layers in float behind which there is no grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from keras_qat.integer.fixed_point import RoundingProfile
from keras_qat.integer.ops.op import IntegerOp, QuantizedArray, Shape
from keras_qat.integer.own_files import is_own
from keras_qat.integer.qparams import FloatArray, IntArray, QuantParams
from keras_qat.integer.worker import call_in_worker


@dataclasses.dataclass(frozen=True, eq=False)
class FloatWeight:
    """A kernel of learned integers that a network in float32 multiplies with.

    Attributes:
        name: name of the layer, as in `"dense"`. If the layer has several kernels, the name of the
            kernel follows: `"attention/query"`.
        array: the integers (int8, zero point 0, one scale or one for each channel).
        bits: bit width of the learned grid.
    """

    name: str
    array: QuantizedArray
    bits: int

    def dequantized(self) -> FloatArray:
        """`scale * code` in float32, as in the layer's forward pass and in DEQUANTIZE."""
        return self.array.qparams.dequantize(self.array.values)


@dataclasses.dataclass(frozen=True, eq=False)
class FloatPart(IntegerOp):
    """`quantize(f(dequantize(x), ..., dequantize(w), ...))`: `f` is a network in float32.

    An input that is not int8 is on no grid, and `f` reads it as it is. Of all ops, the result of
    this one and of `FloatResult` alone is not defined by integer arithmetic: LiteRT runs `f`, with
    its reference kernels for the profile `"litert_ref"` and with its default kernels (XNNPACK) for
    the others.

    Attributes:
        file: the bytes of `f` as a `.tflite` file, for one example at a time.
        layers: names of the layers that `f` consists of.
        target_shape: shape of the output of `f`, without the batch.
        weights: the quantized kernels, which are the last inputs of `f`.
    """

    file: npt.NDArray[np.uint8]
    layers: tuple[str, ...]
    target_shape: Shape
    weights: tuple[FloatWeight, ...] = ()

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        return (shapes[0][0], *self.target_shape)

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> IntArray:
        """The integers of the output (int8).

        Raises:
            ImportError: LiteRT is not installed.
        """
        steps = profile.quantize(self.results(inputs, profile), output.scale) + output.zero_point
        return np.clip(steps, output.qmin, output.qmax).astype(np.int8)

    def results(self, inputs: Sequence[QuantizedArray], profile: RoundingProfile) -> FloatArray:
        """What `f` computes, in float32.

        Raises:
            ImportError: LiteRT is not installed.
        """
        values = [
            x.qparams.dequantize(x.values) if x.values.dtype == np.int8 else x.values
            for x in inputs
        ]
        arrays: dict[str, npt.NDArray[Any]] = {"file": self.file}
        arrays |= {f"input/{place}": each for place, each in enumerate(values)}
        arrays |= {f"kernel/{place}": each.dequantized() for place, each in enumerate(self.weights)}
        options = {
            "reference": profile.name == "litert_ref",
            "layers": list(self.layers),
            "inputs": len(values),
            "shape": list(self.target_shape),
        }
        if is_own(self.file.tobytes()):
            return answer(arrays, options)["output"]
        about = f"The layers in float {list(self.layers)}"
        return call_in_worker("keras_qat.integer.ops.float_part:answer", arrays, options, about)[
            "output"
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class FloatResult(FloatPart):
    """`f(dequantize(x), ..., dequantize(w), ...)`: a float part whose output is on no grid.

    Its output is float32: an output of the graph, or an input of other float parts.
    """

    output_dtype: ClassVar[str] = "float32"

    def evaluate(
        self, inputs: Sequence[QuantizedArray], output: QuantParams, profile: RoundingProfile
    ) -> Any:
        """The float32 values of the output.

        Raises:
            ImportError: LiteRT is not installed.
        """
        return self.results(inputs, profile)


def answer(
    arrays: Mapping[str, npt.NDArray[Any]], options: Mapping[str, Any]
) -> dict[str, npt.NDArray[Any]]:
    """Runs the file of a float part on every example, in this process.

    Args:
        arrays: the file, its inputs, and its kernels in float32.
        options: what `FloatPart.results` says of the file.

    Raises:
        ImportError: LiteRT is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise ImportError(
            f"The layers in float {tuple(options['layers'])} run in LiteRT: pip install "
            '"keras_qat[export]".'
        ) from error
    inputs = [arrays[f"input/{place}"] for place in range(options["inputs"])]
    kernels = [array for name, array in arrays.items() if name.startswith("kernel/")]
    interpreter = Interpreter(
        model_content=arrays["file"].tobytes(),
        experimental_op_resolver_type=(
            OpResolverType.BUILTIN_REF if options["reference"] else OpResolverType.AUTO
        ),
        num_threads=1,
    )
    interpreter.allocate_tensors()
    places = [detail["index"] for detail in interpreter.get_input_details()]
    (result,) = (detail["index"] for detail in interpreter.get_output_details())
    for place, kernel in zip(places[len(inputs) :], kernels, strict=True):
        interpreter.set_tensor(place, kernel)
    outputs = np.empty((inputs[0].shape[0], *options["shape"]), np.float32)
    for example in range(len(outputs)):
        for place, values in zip(places, inputs, strict=False):
            interpreter.set_tensor(place, values[example : example + 1])
        interpreter.invoke()
        outputs[example] = interpreter.get_tensor(result)[0]
    return {"output": outputs}
