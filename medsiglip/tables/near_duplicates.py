"""Pictures that show the same field: turned by any angle, mirrored, resized, brightened, re-encoded, cropped evenly.

A picture becomes its brightness around the centre in polar coordinates with a logarithmic radius, where a turn is a
shift along the angle, a scale a shift along the radius, and a mirror image a reversal. Band-passed and evened out in
contrast, two such maps are correlated over all shifts. How much pictures correlate that merely look alike depends on
what they show (hands more than tissue), so a pair must stand out from what both have with their lookalikes in the set.
The centre must be the same: a crop that moves it by much is not found. docs/tables.md has what was measured.

Letters: N pictures, R rings, A angles, K harmonics.

Source: the Fourier-Mellin transform of registration (Reddy and Chatterji, IEEE Trans. Image Process. 5, 1266 (1996)).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RINGS, ANGLES = 56, 128
INNERMOST, OUTERMOST = 0.07, 0.98
"""Radii of the first and last ring, as shares of half the shorter side; the ratio of two rings is 1.049."""
SIDE_PX = 192
"""The shorter side that pictures are reduced to."""
MOST_SHIFT = 16
"""Rings: scales up to 1.049 to this power, 2.15, either way."""

FINE, COARSE = (1.2, 6.0), (3.0, 12.0)
"""Standard deviations, in rings and angles, of the two Gaussians whose difference is what is kept of a map: FINE to
decide, COARSE to find what is worth a comparison."""
HARMONICS, WINDOW, RINGS_PER_BIN, WINDOW_STEP = 12, 40, 4, 4
CANDIDATES = 5
"""Pictures each is compared with in full: those whose rings have the most alike spectra along the angle."""
LOOKALIKES = range(30, 62, 4)
"""Ranks, by the same likeness, of the pictures that say what is to be expected of those that merely look alike."""

LEAST_CORRELATION = 0.5
DEVIATIONS = 8.0
"""A near-duplicate correlates by LEAST_CORRELATION at least, and by DEVIATIONS standard deviations, on Fisher's scale,
more than either picture with the median of its lookalikes."""
SMALL_PX, LEAST_CORRELATION_OF_SMALL = 128, 0.75
"""A picture with a shorter side under SMALL_PX is made larger for its map: what that smooths is alike in any two."""
WITHOUT_LOOKALIKES = 0.9
"""The least correlation in a set too small to have them."""
CONTRAST_WIDTH, LEAST_CONTRAST = 4.0, 2.0
"""Rings and angles over which contrast is evened out, and what counts as none, in grey levels."""

Map = NDArray[np.float32]
_CHUNK = 512
_KEPT = ANGLES // 4 + 1
"""Harmonics along the angle below which all lies that FINE keeps."""
_SHIFTS = range(-MOST_SHIFT, MOST_SHIFT + 1)


class NearDuplicate(NamedTuple):
    """Two pictures, by their places, the first being the smaller."""

    first: int
    second: int
    correlation: float
    """-1 to 1; 1 for the same picture."""


def polar_map(pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return (R, A) brightness on rings around the centre of a picture.

    Args:
        pixels: (H, W, 3) uint8.
    """
    import PIL.Image
    from scipy.ndimage import map_coordinates

    grey = PIL.Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
    scale = SIDE_PX / min(grey.size)
    grey = grey.resize(
        (max(1, round(grey.width * scale)), max(1, round(grey.height * scale))), PIL.Image.Resampling.LANCZOS
    )
    values = np.asarray(grey, dtype=np.float32)
    radius = min(values.shape) / 2 * np.geomspace(INNERMOST, OUTERMOST, RINGS)[:, None]  # (R, 1)
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)[None]  # (1, A)
    y = (values.shape[0] - 1) / 2 + radius * np.sin(angle)
    x = (values.shape[1] - 1) / 2 + radius * np.cos(angle)
    found: NDArray[np.float16] = map_coordinates(values, [y, x], order=1, mode="nearest").astype(np.float16)
    return found


def find_near_duplicates(
    maps: Sequence[NDArray[np.float16]],
    groups: Sequence[str],
    advance: Callable[[int], object] = lambda pictures: None,
    small: Sequence[bool] = (),
) -> list[NearDuplicate]:
    """Find the pairs of pictures that show the same field.

    Args:
        maps: N of `polar_map`.
        groups: (N,) what pictures share that are known to belong together; they are no lookalikes of each other.
        advance: Told how many more pictures were compared.
        small: (N,) whether a picture's shorter side is under SMALL_PX; none is if left out.

    Returns:
        Pairs, those within a group among them, the most alike first. The time grows with the square of N.
    """
    if len(maps) < 2:
        return []
    spectra, ranked = _Spectra(maps), _most_alike(maps)
    expected, deviation = _of_lookalikes(spectra, ranked, groups)
    pairs: list[NearDuplicate] = []
    seen: set[tuple[int, int]] = set()
    for start in range(0, len(maps), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(maps)))
        together = {(min(i, int(j)), max(i, int(j))) for i in rows for j in ranked[i, :CANDIDATES]} - seen
        seen |= together
        compared = sorted(together)
        for (i, j), value in zip(compared, spectra.correlations(compared), strict=True):
            stands_out = _fisher(value) >= max(expected[i], expected[j]) + DEVIATIONS * deviation
            of_small = bool(small) and (small[i] or small[j])
            if value >= (LEAST_CORRELATION_OF_SMALL if of_small else LEAST_CORRELATION) and stands_out:
                pairs.append(NearDuplicate(i, j, float(value)))
        advance(len(rows))
    return sorted(pairs, key=lambda pair: (-pair.correlation, pair.first, pair.second))


class _Spectra:
    """Maps band-passed by FINE, as their spectra, with the energy of their rings; over all shifts at once."""

    def __init__(self, maps: Sequence[NDArray[np.float16]]) -> None:
        from scipy.fft import fft, rfft

        self.spectra = np.empty((len(maps), RINGS + MOST_SHIFT, _KEPT), np.complex64)
        self.energy = np.zeros((len(maps), RINGS + 1))  # summed up to each ring
        for place, one in enumerate(maps):
            band = _even(_band(one, FINE))
            self.spectra[place] = fft(rfft(band, axis=1)[:, :_KEPT], n=RINGS + MOST_SHIFT, axis=0)
            self.energy[place, 1:] = np.cumsum((band**2).sum(axis=1))

    def correlations(self, pairs: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
        """Return (P,) the best correlation of each pair over turns, scales and mirroring."""
        parts = [self._correlations(np.array(pairs[start : start + 64])) for start in range(0, len(pairs), 64)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _correlations(self, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        from scipy.fft import ifft, irfft

        first, second = pairs.T
        norm = np.stack([self._norm(first, second, shift) for shift in _SHIFTS], axis=1)  # (P, S)
        one, other = self.spectra[first], self.spectra[second].conj()  # (P, R, K)
        reversed_rings = -np.arange(RINGS + MOST_SHIFT) % (RINGS + MOST_SHIFT)
        mirrored = other.conj()[:, reversed_rings]  # of a map read the other way round the centre
        best = np.full(len(pairs), -1.0)
        for turned in (other, mirrored):
            by_shift = ifft(one * turned, axis=1)[:, _SHIFTS]  # (P, S, K)
            peak = irfft(by_shift, n=ANGLES, axis=2).max(axis=2)
            best = np.maximum(best, np.divide(peak, norm, out=np.zeros_like(norm), where=norm > 1e-6).max(axis=1))
        return best

    def _norm(self, first: NDArray[np.int64], second: NDArray[np.int64], shift: int) -> NDArray[np.float64]:
        """Of the rings that two maps share when the first is moved inwards by `shift`."""
        inner, outer = max(shift, 0), RINGS + min(shift, 0)
        of_first = self.energy[first, outer] - self.energy[first, inner]
        of_second = self.energy[second, outer - shift] - self.energy[second, inner - shift]
        norm: NDArray[np.float64] = np.sqrt(of_first * of_second)
        return norm


def _of_lookalikes(
    spectra: _Spectra, ranked: NDArray[np.int64], groups: Sequence[str]
) -> tuple[NDArray[np.float64], float]:
    """Return what each picture has with its lookalikes, (N,) medians on Fisher's scale, and how much that scatters."""
    num = len(ranked)
    if ranked.shape[1] < LOOKALIKES.stop - 1:
        return np.full(num, _fisher(np.float64(WITHOUT_LOOKALIKES))), 0.0
    pairs = [(i, int(ranked[i, rank])) for i in range(num) for rank in LOOKALIKES]
    found = _fisher(spectra.correlations(pairs)).reshape(num, -1)
    same = np.array([groups[i] == groups[j] for i, j in pairs]).reshape(num, -1)
    unknown = np.all(same, axis=1)  # all of its lookalikes are its own group
    found[same] = np.nan
    found[unknown] = _fisher(np.float64(WITHOUT_LOOKALIKES))
    median = np.nanmedian(found, axis=1)
    residual = (found - median[:, None])[~same & ~unknown[:, None]]
    deviation = np.percentile(residual, 95) / 1.645 if residual.size else 0.0  # a normal distribution's 95th percentile
    return median, float(deviation)


def _fisher(correlation: Any) -> Any:
    return np.arctanh(np.minimum(correlation, 1 - 1e-6))


def _most_alike(maps: Sequence[NDArray[np.float16]]) -> NDArray[np.int64]:
    """Return (N, ranks) places of the pictures with the most alike spectra, at any scale; itself is not among them."""
    spectra = np.stack([np.abs(np.fft.rfft(_band(one, COARSE), axis=1))[:, 1 : HARMONICS + 1] for one in maps])
    windows = [_window(spectra, start) for start in range(0, RINGS - WINDOW + 1, WINDOW_STEP)]
    num_ranks = min(LOOKALIKES.stop, len(maps) - 1)
    found = np.empty((len(maps), num_ranks), np.int64)
    for start in range(0, len(maps), _CHUNK):
        rows = slice(start, start + _CHUNK)
        alike = np.max([np.maximum(windows[0][rows] @ w.T, w[rows] @ windows[0].T) for w in windows], axis=0)
        alike[np.arange(len(alike)), np.arange(start, start + len(alike))] = -2.0  # itself
        found[rows] = np.argsort(-alike, axis=1, kind="stable")[:, :num_ranks]
    return found


def _window(spectra: NDArray[np.float32], start: int) -> NDArray[np.float32]:
    """(N, R, K) spectra to (N, D) unit vectors of WINDOW rings from `start`, less what all pictures have in common."""
    rings = np.sqrt(spectra[:, start : start + WINDOW])
    binned = rings.reshape(len(rings), WINDOW // RINGS_PER_BIN, RINGS_PER_BIN, -1).mean(axis=2).reshape(len(rings), -1)
    centred = binned - binned.mean(axis=0)
    unit: NDArray[np.float32] = (centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-9)).astype(np.float32)
    return unit


def _band(polar: NDArray[np.float16], widths: tuple[float, float]) -> Map:
    from scipy.ndimage import gaussian_filter

    values = polar.astype(np.float32)
    fine, coarse = (gaussian_filter(values, width, mode=("nearest", "wrap")) for width in widths)
    band: Map = fine - coarse
    return band


def _even(band: Map) -> Map:
    """Even out the contrast, so that one dark spot does not decide, and drop what is the same all around."""
    from scipy.ndimage import gaussian_filter

    power = gaussian_filter(band**2, CONTRAST_WIDTH, mode=("nearest", "wrap"))
    even = band / (np.sqrt(np.maximum(power, 0.0)) + LEAST_CONTRAST)
    turned: Map = even - even.mean(axis=1, keepdims=True)
    return turned
