"""Pictures of a quantized model. They need matplotlib."""

from keras_qat.plotting.bit_widths import plot_bit_widths
from keras_qat.plotting.capacity import plot_capacity
from keras_qat.plotting.capacity_dynamics import plot_capacity_dynamics
from keras_qat.plotting.grids import plot_grids
from keras_qat.plotting.replacement import plot_replacement

__all__ = [
    "plot_bit_widths",
    "plot_capacity",
    "plot_capacity_dynamics",
    "plot_grids",
    "plot_replacement",
]
