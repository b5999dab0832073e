"""`LoweringError`: what was trained cannot be said in integers."""


class LoweringError(ValueError):
    """A trained model that has no exact integer form; the message says where and why."""
