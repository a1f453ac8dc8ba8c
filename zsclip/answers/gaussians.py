"""Examples -> how well every label fits, by Gaussians with one shared covariance. Closed forms: no files, no models.

The mean of a label's examples is drawn towards what its words say, the covariance towards a round one. What an example
says about itself is known without it: leaving one out changes the covariance by a matrix of rank one.

Source: Wang et al., ICLR 2024, "A hard-to-beat baseline for training-free CLIP-based adaptation" (the classifier);
Sherman and Morrison 1950 (the inverse without one example).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """What is assumed of the Gaussians.

    ridge: the examples that the round covariance counts as. variance: of that covariance, in every direction.
    shrink: the examples that a label's prior mean counts as. slope: how far that mean is from the mean of all examples,
    where words differ from the mean of all words by 1. noise: the squared distance of one example from the mean of its
    label, in units of the covariance.
    """

    ridge: float
    variance: float
    shrink: float
    slope: float
    noise: float


@dataclass(frozen=True, eq=False)
class Linear:
    """What examples say about a picture x: x @ weights.T + biases, where 0 is what they say about no label.

    weights: (C, D) float64. biases: (C,) float64.
    """

    weights: Array
    biases: Array


@dataclass(frozen=True, eq=False)
class Products:
    """Every inner product under one covariance that leaving out any of J examples needs.

    z: examples, w: means of labels, t: words, each less the mean of all of its kind. zw, zt: (J, C). zz: (J,).
    ww, wt, tt: (C, C).
    """

    zw: Array
    zt: Array
    zz: Array
    ww: Array
    wt: Array
    tt: Array


class Gaussians:
    """N examples of C labels, added up once.

    Args:
        vectors: (N, D), rows of length 1. truth: (N,) int64 in 0..C-1.
        directions: (C, D), the words of each label less the mean of all words; zeros for a label without words.
    """

    def __init__(self, vectors: NDArray[np.floating], truth: NDArray[np.int64], directions: Array) -> None:
        self.truth, self.directions = truth, directions
        self.counts = np.bincount(truth, minlength=len(directions))  # (C,)
        self.mean = vectors.mean(axis=0, dtype=np.float64)  # (D,)
        self.centred = vectors - self.mean  # (N, D)
        sums = np.zeros(directions.shape)
        order = np.argsort(truth, kind="stable")
        present = np.flatnonzero(self.counts)
        starts = np.concatenate([[0], np.cumsum(self.counts[present])[:-1]])
        sums[present] = np.add.reduceat(self.centred[order], starts, axis=0)
        self.offsets = sums / np.maximum(self.counts, 1)[:, None]  # (C, D) means of labels less that of all examples
        weighted = self.offsets * self.counts[:, None]
        self.scatter = self.centred.T @ self.centred - weighted.T @ self.offsets  # (D, D) within labels
        self.freedom = len(truth) - len(present)

    @cached_property
    def _axes(self) -> tuple[Array, Array]:
        """The scatter along its own axes, (D,), and these, (D, D): with any ridge, the covariance has the same."""
        values, axes = np.linalg.eigh(self.scatter)
        return values.clip(0), axes

    @cached_property
    def _turned(self) -> tuple[Array, Array]:
        """The offsets and the directions along these axes, (C, D) each."""
        return self.offsets @ self._axes[1], self.directions @ self._axes[1]

    @property
    def means(self) -> Array:
        """The mean of the examples of each label, or of all examples for a label without any. (C, D) float64."""
        return self.mean + self.offsets

    def shape(self, ridge: float, shrink: float) -> Shape:
        """Choose what else fits the examples."""
        variance = max(1 - float(self.mean @ self.mean), 1e-6) / len(self.mean)
        alike = float((self.counts[:, None] * self.offsets * self.directions).sum())
        long = float((self.counts[:, None] * self.directions**2).sum())
        slope = max(alike, 0.0) / long if long else 0.0
        return Shape(ridge, variance, shrink, slope, self._noise(ridge, variance))

    def evidence(self, shape: Shape) -> Linear:
        """Fit the Gaussians; a label without examples and words gets zeros."""
        offsets, directions = self._turned
        kept = _kept(self.counts, shape)[:, None]
        means = kept * offsets + (1 - kept) * shape.slope * directions  # (C, D), along the axes
        scaled = (self.freedom + shape.ridge) * means * self._inverse(shape.ridge, shape.variance)
        weights = scaled @ self._axes[1].T
        return Linear(weights, self._spare(self.counts, shape) - weights @ self.mean - (scaled * means).sum(axis=1) / 2)

    def turned(self, rows: NDArray[np.int64]) -> Array:
        """Give J examples less the mean of all, along the axes of the scatter. (J, D) float64."""
        turned: Array = self.centred[rows] @ self._axes[1]
        return turned

    def products(self, shape: Shape, turned: Array) -> Products:
        """Multiply once for all choices of shrink and slope.

        Args:
            turned: as `turned` gives it, the examples that will be left out.
        """
        inverse = self._inverse(shape.ridge, shape.variance)
        offsets, directions = self._turned
        of_rows, of_words = turned * inverse, directions * inverse  # (J, D), (C, D)
        return Products(
            zw=of_rows @ offsets.T,
            zt=of_rows @ directions.T,
            zz=(of_rows * turned).sum(axis=1),
            ww=(offsets * inverse) @ offsets.T,
            wt=offsets @ of_words.T,
            tt=of_words @ directions.T,
        )

    def left_out(self, shape: Shape, products: Products, rows: NDArray[np.int64]) -> Array:
        """Give what all other examples say about each of J examples: `evidence` without it, at the same shape.

        Args:
            products: of a shape with the same ridge and variance, and of the same rows.

        Returns:
            (J, C) float64.
        """
        own = self.truth[rows]  # (J,)
        total, each = len(self.truth), np.arange(len(rows))
        step = 1 / (total - 1)  # by which the mean of all moves away from an example, in its distances
        kept = _kept(self.counts, shape)  # (C,)
        drawn = (1 - kept) * shape.slope
        p = products
        ww, wt, tt = (np.diagonal(one) for one in (p.ww, p.wt, p.tt))
        zh = p.zw * kept + p.zt * drawn  # (J, C), h: means of labels
        hh = kept**2 * ww + 2 * kept * drawn * wt + drawn**2 * tt  # (C,)
        dh = zh - (p.ww * kept + p.wt * drawn)[own]  # (J, C), d: an example less the mean of its label
        zw, zt = p.zw[each, own], p.zt[each, own]  # (J,), as all below
        dz, dd = p.zz - zw, p.zz - 2 * zw + ww[own]
        uz = zh + kept * step * p.zz[:, None]  # u: means of labels less the mean of all, without the example
        ud = dh + kept * step * dz[:, None]
        uu = hh + 2 * kept * step * zh + (kept * step) ** 2 * p.zz[:, None]

        others = self.counts[own] - 1
        left = _kept(others, shape)
        a, b, c, e = left, left * step, -left / np.maximum(others, 1), (1 - left) * shape.slope
        wd, dt = zw - ww[own], zt - wt[own]
        uz[each, own] = a * zw + b * p.zz + c * dz + e * zt
        ud[each, own] = a * wd + b * dz + c * dd + e * dt
        uu[each, own] = (
            a * a * ww[own] + b * b * p.zz + c * c * dd + e * e * tt[own]
            + 2 * (a * b * zw + a * c * wd + a * e * wt[own] + b * c * dz + b * e * zt + c * e * dt)
        )  # fmt: skip

        share = np.where(others > 0, (others + 1) / np.maximum(others, 1), 0.0)  # of the scatter that leaves with d
        more = (share / (1 - share * dd))[:, None]
        fits = (1 + step) * (uz + more * ud * dz[:, None]) - (uu + more * ud**2) / 2
        fits *= (self.freedom - (others > 0) + shape.ridge)[:, None]
        fits += self._spare(self.counts, shape)
        fits[each, own] += self._spare(others, shape) - self._spare(self.counts, shape)[own]
        return fits

    def _spare(self, counts: NDArray[np.int64], shape: Shape) -> Array:
        """Give what to add for labels with so many examples.

        A mean of few is farther from the mean of all than what it estimates: by the noise over the number of examples.
        """
        return _kept(counts, shape) ** 2 * shape.noise / np.maximum(counts, 1) / 2

    def _noise(self, ridge: float, variance: float) -> float:
        """Measure the noise of examples: the mean of their squared distances from the means of their labels."""
        width = len(self.mean)
        if not self.freedom:
            return float(width)
        spread = width - ridge * variance * float(self._inverse(ridge, variance).sum())
        return spread * (self.freedom + ridge) / self.freedom

    def _inverse(self, ridge: float, variance: float) -> Array:
        """Give the inverse of scatter and ridge along their common axes. (D,) float64."""
        inverse: Array = 1 / (self._axes[0] + ridge * variance)
        return inverse


def _kept(counts: NDArray[np.int64], shape: Shape) -> Array:
    """Give the weight of the examples in the mean of each label; the rest is its prior mean's."""
    return counts / np.maximum(counts + shape.shrink, 1e-12)
