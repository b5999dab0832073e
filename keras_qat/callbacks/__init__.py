"""Callbacks for `fit`: schedules and monitors of quantization-aware training."""

from keras_qat.callbacks.bit_width_monitor import BitWidthMonitor
from keras_qat.callbacks.capacity_monitor import CapacityMonitor
from keras_qat.callbacks.discretization_monitor import DiscretizationMonitor
from keras_qat.callbacks.divergence_monitor import DivergenceMonitor, TrainingDivergedError
from keras_qat.callbacks.ewgs_schedule import EWGSSchedule
from keras_qat.callbacks.gdnsq_schedule import GDNSQSchedule
from keras_qat.callbacks.pege_schedule import PEGESchedule
from keras_qat.training.backup import Backup
from keras_qat.training.batch_normalization import BatchNormReestimation

__all__ = [
    "Backup",
    "BatchNormReestimation",
    "BitWidthMonitor",
    "CapacityMonitor",
    "DiscretizationMonitor",
    "DivergenceMonitor",
    "EWGSSchedule",
    "GDNSQSchedule",
    "PEGESchedule",
    "TrainingDivergedError",
]
