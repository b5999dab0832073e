"""The page of the papers' tasks says how far every study is, from its results alone."""

import json

import papers_page

RUNS = [("vgg_small", f"w{bits}a{bits}_{variant}_seed0") for bits, variant in
        ((32, "float"), (2, "lsq"), (1, "lsq"))]  # fmt: skip


def line_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(start))


def test_nothing_has_begun(tmp_path):
    text = papers_page.page(tmp_path, RUNS)
    assert line_of(text, "| VGG-small").endswith("| waits: 3 runs |")
    assert line_of(text, "| VGG16-BN").endswith("| not run |")
    assert line_of(text, "| ResNet-18").endswith("| 69.5 / - / 68.9 / 58.6 | not run |")
    assert line_of(text, "| w2a2_lsq_seed0") == "| w2a2_lsq_seed0 | waits | | | |"


def test_finished_and_running_runs(tmp_path):
    folder = tmp_path / "vgg_small"
    folder.mkdir()
    (folder / "w32a32_float_seed0.json").write_text(json.dumps({"test_accuracy": 93.456}))
    done = {"qat_accuracy": 91.0, "tflite_accuracy": 90.98, "file_bytes": 4700000}
    done |= {"mismatches": 0, "compared_elements": 123456}
    (folder / "w2a2_lsq_seed0.json").write_text(json.dumps(done))
    (folder / "w1a1_lsq_seed0.csv").write_text("epoch,loss\n0,1.5\n1,1.0\n")
    text = papers_page.page(tmp_path, RUNS)
    assert line_of(text, "| VGG-small").endswith("| 2 of 3 runs |")
    assert line_of(text, "| w32a32_float_seed0") == "| w32a32_float_seed0 | 93.46 | | | |"
    assert line_of(text, "| w2a2_lsq_seed0") == (
        "| w2a2_lsq_seed0 | 91.00 | 90.98 | 4,700,000 | 0 of 123,456 |"
    )
    assert line_of(text, "| w1a1_lsq_seed0") == "| w1a1_lsq_seed0 | running: epoch 2 | | | |"


def test_the_list_is_read_without_its_comments(tmp_path):
    path = tmp_path / "queue.txt"
    path.write_text("# a list\n\nvgg_small  lsq  2  0  --reestimate  # the first\n")
    assert papers_page.listed(path) == [("vgg_small", "w2a2_lsq_seed0")]
