"""What a public name that will go says."""

import pytest

from keras_qat.deprecation import warn_deprecated


def old_function():
    warn_deprecated("keras_qat.old", "keras_qat.new")


def test_the_warning_names_both_and_points_at_the_caller():
    with pytest.warns(DeprecationWarning) as caught:
        old_function()
    (warning,) = caught
    assert (
        str(warning.message)
        == "keras_qat.old is deprecated and will be removed: use keras_qat.new."
    )
    assert warning.filename == __file__
