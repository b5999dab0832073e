"""`DiscretizationTerms`: the discretization loss of a forward pass, from call to loss."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from keras import ops

from keras_qat.quantizers.discretization_loss import collecting
from keras_qat.tensors import Tensor


class DiscretizationTerms:
    """Keeps what the quantizers of a model yield in a call until `compute_loss` takes it.

    A replica of a MirroredStrategy runs in a thread of its own, so each thread has its own terms.
    The replicas would share what layers add with `add_loss`.
    """

    def __init__(self) -> None:
        self._here = threading.local()

    def __deepcopy__(self, memo: object) -> DiscretizationTerms:
        return DiscretizationTerms()

    def __reduce__(self) -> tuple[type[DiscretizationTerms], tuple[()]]:
        return DiscretizationTerms, ()

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """A context whose terms replace the terms of the last call."""
        with collecting() as terms:
            yield
        self._here.terms = terms

    def taken(self) -> Tensor:
        """The sum of the terms of the last call, which are then forgotten; a scalar."""
        terms = getattr(self._here, "terms", [])
        self._here.terms = []
        return sum(terms, ops.zeros(()))
