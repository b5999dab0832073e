"""The parts of training outside of the layers: losses, penalties, statistics, warnings."""
