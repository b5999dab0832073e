"""Runs files from outside for another process. See `keras_qat.integer.worker`."""

from keras_qat.integer.worker import serve

if __name__ == "__main__":
    serve()
