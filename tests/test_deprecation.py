"""What a public name that will go says."""

import pytest

from keras_qat.deprecation import warn_deprecated

SAID = "^keras_qat.old is deprecated and will be removed: use keras_qat.new.$"


def old_function():
    warn_deprecated("keras_qat.old", "keras_qat.new")


def test_the_warning_names_both_and_points_at_the_caller():
    with pytest.warns(DeprecationWarning, match=SAID) as caught:
        old_function()
    (warning,) = caught
    assert warning.filename == __file__
