"""What is raised for a file that is damaged, or of another kind than its reader takes."""

from __future__ import annotations


class InvalidFileError(ValueError):
    """A file from outside that cannot be read: damaged, too large, or not what it should be."""
