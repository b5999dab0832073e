"""GDNSQ's snapped grids and their gradients by the docstrings, in NumPy and float64."""

import numpy as np

CHANNELS = 4
LN2 = np.log(2.0)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def kernel(seed):
    """A symmetric range, one above zero, one below, and one of no particular kind."""
    weights = normal(seed, 3, 3, 2, CHANNELS)
    weights[0, 0, 0, 0] = -np.min(weights[..., 0])
    weights[..., 0] = np.clip(weights[..., 0], -weights[0, 0, 0, 0], weights[0, 0, 0, 0])
    weights[..., 1] = np.abs(weights[..., 1])
    weights[..., 2] = -np.abs(weights[..., 2])
    return weights * np.float32(np.random.default_rng(seed + 1).uniform(0.3, 5.0))


def table(log_value):
    """The step of a logarithm, in float64."""
    return 2.0 ** (np.rint(256.0 * np.asarray(log_value, np.float64)) / 256.0)


def factors(estimator, upstream, noise, sign, axes):
    """`(phi, rho)` as the method states them."""
    signed = np.sign(upstream) * noise
    if estimator == "ewgs":
        phi = 1 - 0.01 * signed
    elif estimator == "aewgs":
        variance = (noise**2).mean(axes, keepdims=True) - noise.mean(axes, keepdims=True) ** 2
        slope = signed.mean(axes, keepdims=True) / np.maximum(variance, 1e-3)
        phi = 1 - np.minimum(slope * signed, 0.99)
    else:
        phi = np.ones_like(noise)
    return phi, noise if estimator == "lsq" else sign / np.sqrt(3)


def weight_formula(weights, log_scale, upstream, sign, estimator, half_steps, levels, middle=0.0):
    """`(w_hat, dw, dlog_scale, cut off)` by the docstrings, in float64, for one channel alone.

    `levels` and `middle` are those of a held grid; 0 levels follow the weights.
    """
    w, s = weights.astype(np.float64), table(log_scale)
    low, high = min(w.min(), 0), max(w.max(), 0)
    if half_steps:
        stride, steps = 2, levels - 1 if levels else np.rint((high - low) / s)
        lowest = (middle if levels else np.rint((low + high) / s)) - steps
    else:
        reach = (levels - 1) // 2 if levels else np.rint(max(high, -low) / s)
        stride, lowest, steps = 1, -reach, 2 * reach
    unit, start = s / stride, lowest if half_steps and not levels else 0
    code = lowest + stride * np.clip(np.rint((w / unit - lowest) / stride), 0, steps)
    cut = np.abs(w - unit * code) > s / 2
    v, q = (w / unit - start) / stride, (code - start) / stride
    g, e = np.where(cut, 0, upstream), np.where(cut, 0, q - v)
    phi, rho = factors(estimator, g, e, sign, tuple(range(w.ndim)))
    dw, lost = g * phi, g * (1 - phi)
    if half_steps and not levels:
        dw = dw + (w == low) / max((w == low).sum(), 1) * lost.sum()
    slope = g * (e + s * rho) + lost * v + np.where(cut, upstream * code / stride, 0)
    return unit * code, dw, LN2 * s * slope.sum(), cut


def activation_formula(x, parameters, signed, upstream, sign, estimator, levels):
    """`(x_hat, gradients)` by the docstring, in float64."""
    x = x.astype(np.float64)
    offset, s, width = float(parameters[0]), table(parameters[1]), table(parameters[2])
    steps = levels - 1 if levels else max(np.rint(width / s - 1), 1)
    lowest = np.clip(np.rint(offset / s), -steps, 0)
    code = np.rint(np.clip(x / s, lowest, lowest + steps))
    v, q = np.clip(x / s, lowest, lowest + steps) - lowest, code - lowest
    below, above = x < s * lowest, x > s * (lowest + steps)
    phi, rho = factors(estimator, upstream, q - v, sign, tuple(range(x.ndim)))
    passed, slope = upstream * phi, upstream * (q - v + s * rho) + upstream * (1 - phi) * v
    dx = np.where(below | above, 0, passed)
    cut = passed[above].sum()
    gradients = [
        dx,
        (upstream - dx).sum() if signed else 0.0,
        LN2 * s * (slope.sum() + (steps if levels else -1) * cut),
        0.0 if levels else LN2 * width * cut,
    ]
    return s * code, gradients
