"""What TensorBoard shows, written with TensorFlow alone: scalars, histograms and pictures."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import numpy.typing as npt

_MOST_BUCKETS = 64


class TensorBoardEvents:
    """Writes the events of a folder. TensorBoard itself is not needed to write them.

    Args:
        log_dir: the folder.
    """

    def __init__(self, log_dir: str | os.PathLike[str]):
        import tensorflow as tf

        self._writer = tf.summary.create_file_writer(os.fspath(log_dir))

    def scalar(self, tag: str, value: float, step: int) -> None:
        """One number."""
        self._write(tag, np.float32(value), step, "scalars", "DATA_CLASS_SCALAR")

    def codes(self, tag: str, counts: npt.NDArray[np.float64], step: int) -> None:
        """A histogram: how many values have each code, counted from the lowest one."""
        together = -(-len(counts) // _MOST_BUCKETS)
        starts = np.arange(0, len(counts), together)
        ends = np.minimum(starts + together, len(counts))
        buckets = np.stack([starts - 0.5, ends - 0.5, np.add.reduceat(counts, starts)], axis=1)
        self._write(tag, buckets, step, "histograms", "DATA_CLASS_TENSOR")

    def figure(self, tag: str, figure: Any, step: int) -> None:
        """A figure of matplotlib, as a picture."""
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=100)
        width, height = (int(each) for each in figure.get_size_inches() * 100)
        parts = [str(width).encode(), str(height).encode(), stream.getvalue()]
        self._write(tag, np.array(parts, object), step, "images", "DATA_CLASS_BLOB_SEQUENCE")

    def _write(self, tag: str, value: Any, step: int, plugin: str, kind: str) -> None:
        import tensorflow as tf

        metadata = tf.compat.v1.SummaryMetadata(data_class=kind)
        metadata.plugin_data.plugin_name = plugin
        with self._writer.as_default():
            tf.summary.write(tag, tf.convert_to_tensor(value), step=step, metadata=metadata)

    def flush(self) -> None:
        """Brings all events to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Ends the writing."""
        self._writer.close()
