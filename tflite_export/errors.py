"""The errors of this package."""


class ExportError(ValueError):
    """A graph that cannot be written for the target, or a file that misses a stated limit."""


class VerificationError(ExportError):
    """A runtime, or the written file, disagrees with the integer graph."""
