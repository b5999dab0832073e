"""A transfer with a frozen base ends as with TFMOT, whose wrapper has to be held by hand."""

import pytest

pytest.importorskip("tensorflow_model_optimization", reason="the extra keras_qat[tfmot] has it")

import transfer


def test_the_page_says_what_was_found():
    found = {"float": 90.0, **{kind: [91.0, 93.0] for kind in transfer.KINDS}}
    text = transfer.render([found | {"our_held": [92.0, 94.0]}])
    assert "| 0 | 90.0 | 92.0 | 92.0 | 92.0 | 92.0 | 93.0 | 92.0 | 92.0 |" in text
    assert "keras_qat minus TFMOT is +1.00 points, and with the base free +0.00." in text
    assert "moves a result by up to\n2.00" in text


@pytest.mark.slow
def test_accuracy_is_within_a_point_of_the_flow_of_tfmot():
    found = transfer.run(0, orders=1, bases=["held"])
    assert found["their_held_moved"] == ["0 of 8 kernels"]
    assert found["float"] > 90.0
    for ours, theirs in (("our_held", "their_held"), ("our_held_file", "their_held_file")):
        assert found[ours] == pytest.approx(found[theirs], abs=1.0), (ours, theirs)
