"""Models of tensorflow-model-optimization (TFMOT), read from their HDF5 files."""
