"""The texts of the pages that `ablation_pages.py` writes."""

GDNSQ_CHANGES = {
    "gdnsq": "the default",
    "no_help": "late widths are not narrowed, steps are not set anew",
    "no_assist": "late widths are not narrowed by hand",
    "no_refit": "steps are not set anew when a width arrives",
    "penalty_stays": "after arrival levels stay free, and the penalty goes on",
    "keeps_fewer": "a channel that arrives with fewer levels keeps them",
    "published": "the published recipe and RAdam at 0.002, six times the epochs",
    "published_free": "the same on the published grids, which do not deploy",
    "no_annealing": "the learning rate does not fall",
    "no_gradual": "widths start at their targets, ranges from minimum and maximum",
    "no_gradual_calibrated": "the same, ranges of the least squared error",
    "distilled": "the float model instead of the labels",
    "distilled_half": "the float model, and the labels at half their weight",
    "distilled_and_labels": "the float model and the labels",
    "distilled_fresh": "the float model, with statistics of augmented images",
    "distilled_fine_tuned": "the float model, trained on by the same recipe",
    "no_noise": "no random term in the gradient of steps",
    "lsq_noise": "the noise itself in the gradient of steps",
    "squared_penalty": "the square of the excess in the penalty",
    "ewgs": "EWGS instead of straight through",
    "aewgs": "AEWGS instead of straight through",
}

_PAIRED = """The paired difference is a mean over common seeds, with the half of its 95 % interval
(Student's t over the differences). A bold difference has an interval without 0. With three seeds
and many rows, some are bold by chance: about one in twenty."""

GDNSQ = f"""# GDNSQ, one change at a time

ResNet-8 on CIFAR-10, accuracy in % of the 10,000 test images, mean and standard deviation over
seeds. Start: MLPerf Tiny's trained float model, 87.21 %. A run has half the epochs of
[the study of learned widths](gdnsq.md): 4, and 2 at W4A4. It uses Adam at 1e-3 and batch 128, and
statistics of BatchNormalization are re-estimated before every validation. The published recipe
needs more batches to move 8 bits, and has six times the epochs.

{_PAIRED}
"Narrowed" is how many widths were narrowed by hand in a run, counted once in an epoch, and "refit"
the largest change of a step at an arrival, in octaves. "Waits" and "running" are runs of the queue.

At W2A2, over three seeds, the gradient alone brings every width to its target after a third of the
run: nothing is narrowed by hand. Setting the steps anew at an arrival is worth 0.47 points, with an
interval without 0, so it stays the default. Levels that stay free under the penalty, as published,
lie within the spread. With one seed: a learning rate that does not fall costs about two points.
Widths that start at their targets do as well as widths that fall, if their ranges start at the
least squared error; from minimum and maximum they do not.

Since these rows were trained, what an optimizer remembers follows the steps to their new units at
an arrival. The default, trained again at W2A2 with commit 6a0fd4b, ends at 82.97, 82.71 and 82.82
for the seeds 0, 1 and 2: a paired difference of +0.23 ± 0.88 to the rows of the table, so none is
seen.

{{table}}
{{pictures}}```sh
python benchmarks/run_queue.py --minutes=90  # goes on where it was
python benchmarks/ablation_pages.py
```
"""

WIDTHS = """![Learned bit widths over the batches](gdnsq_ablation/{picture})

The learned widths of the default run with seed 0 at W{bits}A{bits}. The ends of the network have 8
bits.

"""

PEGE_CHANGES = {
    "pege": "the default: random replacement along a logarithm, a pull at 2 bits and more",
    "lsq": "no replacement and no pull",
    "pege_at_once": "no replacement: the pull alone at 2 bits and more",
    "pege_replacement_only": "no pull",
    "pege_linear": "the share rises along a line",
    "pege_exponential": "the share rises slowly, then fast",
    "pege_cosine": "the share rises along half a cosine",
    "pege_persistent": "an element that is replaced stays replaced",
    "pege_error_first": "the elements nearest to their codes are replaced first",
    "pege_forward": "tensor by tensor, from the input on",
    "pege_reverse": "tensor by tensor, from the output on",
    "pege_frozen": "replaced elements get no gradient; evenly over the whole run",
    "pege_frozen_forward": "the same, tensor by tensor from the input on",
    "pege_frozen_reverse": "the same, tensor by tensor from the output on",
    "pege_on_gdnsq": "on learned bit widths",
    "dorefa": "DoReFa's grids, without PEGE",
    "pege_on_dorefa": "DoReFa's grids, with PEGE",
}

PEGE = f"""# PEGE, one change at a time

ResNet-8 on CIFAR-10, accuracy in % of the 10,000 test images, mean and standard deviation over
seeds. Start: MLPerf Tiny's trained float model, 87.21 %. Every run has 8 epochs of Adam at 1e-3,
batch 128 and LSQ's grids, unless the row says otherwise. The share of replaced elements rises over
the first quarter of the run. Statistics of BatchNormalization are re-estimated before every
validation. More estimators: [estimators](estimators.md).

{_PAIRED}
"Waits" and "running" are runs of the queue.

{{table}}
What it says so far:

- **The order matters where replaced elements are frozen, and not here.** Smith and Islam 2026
  (arXiv 2601.22660) find that replacing all layers at once fails at 1 bit, that the order from the
  input on repairs it, and that the reverse order collapses. Their replaced elements pass no
  gradient. With such elements our code says the same (`pege_frozen`, one seed each): 47.1 %
  forward, 37.8 % at once, and 10.3 % in reverse, which is chance. A layer that passes no gradient
  cuts off all layers in front of it. PEGE's elements pass the gradient on. So the three orders are
  equal within their intervals (three seeds), and 19 points above the best frozen one.
- At 1 bit PEGE is above LSQ by 0.85 ± 0.57, and at 2 bits by 0.23 ± 0.04, with a lower training
  loss for every seed. At 4 bits they are equal. At 2 bits STE with fixed scales is higher still
  ([estimators](estimators.md)), so this is no lead.
- Replacement makes the difference at 1 bit, as there is no pull. Without the pull at the 8-bit ends
  nothing changes beyond the interval (`pege_replacement_only`).

![The curriculum, and the discretization error of every layer](pege/replacement.png)

The share of replaced elements and the discretization error of every layer at W2A2, for a small
network on handwritten digits (`benchmarks/replacement_picture.py`).

What is our own reading: only the abstract of PEGE is public to us. It names the progressive,
element-wise replacement, the logarithmic curriculum, and the optimization of task loss and
discretization error together. It does not say which elements are replaced. "Random", the default,
draws anew in every batch, so an element that was quantized may be float again in the next batch;
"persistent" keeps it quantized. Formula and constants of the curriculum and of the pull are ours.

```sh
python benchmarks/run_queue.py --minutes=90  # goes on where it was
python benchmarks/ablation_pages.py
python benchmarks/replacement_picture.py
```
"""
