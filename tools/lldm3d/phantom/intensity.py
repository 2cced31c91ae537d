"""How the phantom looks 20 minutes after gadoxetate: fat-suppressed T1, liver bright, blood and lesions dark."""

import numpy as np
from scipy import ndimage

from lldm3d.phantom.geometry import Waves
from lldm3d.phantom.paint import Grid

# Signal over that of the liver, before each patient's own deviation.
SIGNAL = {
    "air": 0.0,
    "fat": 0.22,
    "muscle": 0.40,
    "bone": 0.27,
    "csf": 0.16,
    "lung": 0.05,
    "heart": 0.46,
    "blood": 0.42,
    "bowel": 0.36,
    "pancreas": 0.52,
    "stomach": 0.18,
    "stomach wall": 0.46,
    "spleen": 0.48,
    "kidney": 0.78,
    "kidney sinus": 0.30,
    "gallbladder": 0.30,
    "liver": 1.0,
    "lesion": 0.48,
}
LIVER = 500.0  # raw units of the scanner
DEVIATION = 0.06  # of a tissue's signal between patients


def draw_signals(rng: np.random.Generator) -> dict[str, float]:
    """The patient's tissue signals: uptake of liver and lesion vary, bile may hold the contrast agent."""
    signal = {name: value * (1 + DEVIATION * np.clip(rng.normal(), -2, 2)) for name, value in SIGNAL.items()}
    signal["lesion"] = rng.uniform(0.38, 0.60)
    if rng.random() < 0.4:
        signal["gallbladder"] = rng.uniform(1.2, 1.6)
    return signal


def scan(signal: np.ndarray, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """What the scanner makes of a signal map [X, Y, Z]: texture, bias field, Rician noise; int16 raw units."""
    texture = 0.05 * _correlated(rng, grid, 2.5) + 0.03 * _correlated(rng, grid, 9.0)
    image = signal * (1 + texture) * _bias(rng, grid)
    noise = rng.uniform(0.02, 0.035)
    real = image + noise * rng.standard_normal(grid.size, dtype="f4")
    imaginary = noise * rng.standard_normal(grid.size, dtype="f4")
    gain = LIVER * rng.uniform(0.6, 1.6)
    return np.rint(gain * np.hypot(real, imaginary)).astype("i2")


def _correlated(rng: np.random.Generator, grid: Grid, length: float) -> np.ndarray:
    """Gaussian noise of standard deviation 1, smooth over `length` mm."""
    noise = rng.standard_normal(grid.size, dtype="f4")
    noise = ndimage.gaussian_filter(noise, length / grid.spacing / 2, mode="wrap")
    return noise / noise.std()


def _bias(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    """Coil sensitivity [X, Y, Z]: smooth over a quarter of a metre and more, about +-20 %."""
    waves = Waves.draw(rng, (300, 700), rms=0.16, count=4)
    coarse = [np.linspace(o, o + s * (n - 1), 9) for o, s, n in zip(grid.origin, grid.spacing, grid.size, strict=True)]
    field = np.exp(waves(np.stack(np.meshgrid(*coarse, indexing="ij")).astype("f4"))[0])
    zoom = [n / 9 for n in grid.size]
    return ndimage.zoom(field, zoom, order=1, grid_mode=False)
