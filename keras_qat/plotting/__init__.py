"""Pictures of a quantized model. They need matplotlib."""

from keras_qat.plotting.capacity import plot_capacity
from keras_qat.plotting.capacity_dynamics import plot_capacity_dynamics
from keras_qat.plotting.grids import plot_grids

__all__ = ["plot_capacity", "plot_capacity_dynamics", "plot_grids"]
