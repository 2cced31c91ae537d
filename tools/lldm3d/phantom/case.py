"""One case of the phantom on its voxel grid: image and label."""

import numpy as np

from lldm3d.phantom.anatomy import INF, MIDLINE, ellipsoid, union
from lldm3d.phantom.painting import Grid, draw_signals, largest_component, paint_trees, scan
from lldm3d.phantom.patient import Lesion, Patient, draw_patient

CLASS_NAMES = ("background", "liver", "portal vein", "hepatic vein", "HCC")
LIVER, PORTAL, HEPATIC, HCC = range(1, 5)


def make_case(
    index: int, size: tuple, spacing: tuple, seed: int, thinnest_vessel: float = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Case `index` of a seed: image [X, Y, Z] int16 raw units and label [X, Y, Z] uint8, axes right, front, up.

    Twigs of a radius below `thinnest_vessel` (mm) are left out.
    """
    rng = np.random.default_rng([seed, index])
    patient = draw_patient(rng)
    grid = Grid.around(patient.low, patient.high, size, spacing)
    points = grid.points()
    standard = patient.anatomy.to_standard(points)
    liver = patient.anatomy.standard_liver(standard)
    vessels = paint_trees((patient.portal, patient.hepatic), grid, thinnest_vessel)
    label = _label(patient, grid, points, liver, vessels)
    canvas = _Canvas(grid, draw_signals(rng))
    _paint_neighbours(canvas, patient, standard, rng)
    canvas.paint("liver", liver)
    canvas.paint("blood", patient.anatomy.vena_cava(standard))
    for lesion in patient.lesions:
        _paint_lesion(canvas, lesion, points, liver)
    for distance, mask in vessels:
        canvas.paint("blood", np.where(mask, np.minimum(distance, -0.2 * grid.voxel), np.maximum(distance, 0)))
    return scan(canvas.signal, grid, rng), label


class _Canvas:
    """A signal map on which tissues are painted over one another with partial volume."""

    def __init__(self, grid: Grid, signals: dict[str, float]):
        self.grid, self.signals = grid, signals
        self.signal = np.full(grid.size, signals["air"], "f4")

    def paint(self, tissue: str, distance: np.ndarray, contrast: float = 1, where: tuple = (...,)) -> None:
        """Paint `tissue`, its signal times `contrast`, inside the shape at signed `distance` (mm)."""
        share = np.clip(0.5 - distance / np.float32(self.grid.voxel), 0, 1)  # of each voxel inside the shape
        self.signal[where] += share * (np.float32(self.signals[tissue] * contrast) - self.signal[where])


def _label(patient: Patient, grid: Grid, points: np.ndarray, liver: np.ndarray, vessels: list) -> np.ndarray:
    """Label map; where classes meet a vessel wins over a lesion, and a lesion over the liver."""
    label = (liver < 0).astype("u1") * LIVER
    for lesion in patient.lesions:
        box = _lesion_box(grid, lesion)
        inside = (lesion(points[(slice(None), *box)]) < 0) & (liver[box] < 0)
        label[box][inside] = HCC
        label[tuple(np.rint((lesion.centre - grid.origin) / grid.spacing).astype(int))] = HCC  # one voxel at least
    for value, (_, mask) in zip((PORTAL, HEPATIC), vessels, strict=True):
        label[mask] = value
    return label * largest_component(label > 0)


def _lesion_box(grid: Grid, lesion: Lesion) -> tuple[slice, slice, slice]:
    reach = 1.3 * lesion.radius + 2 * grid.voxel
    return grid.box(lesion.centre - reach, lesion.centre + reach)


def _paint_lesion(canvas: _Canvas, lesion: Lesion, points: np.ndarray, liver: np.ndarray) -> None:
    """A dark mass: plain, with a brighter nodule in it, with a dark capsule or with a necrotic middle."""
    box = _lesion_box(canvas.grid, lesion)
    local = lesion(points[(slice(None), *box)])
    canvas.paint("lesion", np.maximum(local, liver[box]), where=box)
    if lesion.kind == "capsule":
        canvas.paint("lesion", np.abs(local + 1.0) - 1.2, 0.65, where=box)
    elif lesion.kind == "nodule":
        canvas.paint("lesion", local + 0.5 * lesion.radius, 1.5, where=box)
    elif lesion.kind == "necrosis":
        canvas.paint("lesion", local + 0.45 * lesion.radius, 0.6, where=box)


def _paint_neighbours(canvas: _Canvas, patient: Patient, p: np.ndarray, rng: np.random.Generator) -> None:
    """All but the liver, from the skin inward; `p` [3, X, Y, Z] in the standard frame."""
    anatomy, m = patient.anatomy, MIDLINE
    body, cavity, above = anatomy.body(p), anatomy.cavity(p), -anatomy.diaphragm(p)
    canvas.paint("fat", body)
    canvas.paint("muscle", body + anatomy.fat)
    rib = np.abs((p[2] + np.float32(0.5) * p[1]) % 30 - 15) - 6
    canvas.paint("bone", np.maximum(rib, np.abs(cavity - 6) - 4))
    canvas.paint("fat", cavity)
    for _ in range(24):  # bowel
        centre = rng.uniform((m - 100, -10, -120), (m + 90, 80, -20))
        canvas.paint("bowel", np.maximum(ellipsoid(p, centre, rng.uniform(12, 26, 3)), cavity + 4))
    canvas.paint("lung", np.maximum(cavity, above))
    canvas.paint("heart", np.maximum(ellipsoid(p, (m - 20, 32, 98), (55, 45, 42)), above))
    spine = ellipsoid(p, (m, -52, 0), (22, 20, INF))
    for side in (-1, 1):
        canvas.paint("muscle", ellipsoid(p, (m + side * 27, -78, 0), (24, 16, INF)))
        canvas.paint("muscle", ellipsoid(p, (m + side * 27, -48, -80), (14, 16, 80)))
    canvas.paint("muscle", spine - 3)
    canvas.paint("bone", spine)
    canvas.paint("bone", ellipsoid(p, (m, -78, 0), (14, 13, INF)))
    canvas.paint("csf", ellipsoid(p, (m, -77, 0), (9, 8, INF)))
    s = anatomy.stomach
    stomach = np.maximum(ellipsoid(p, (m - 52, 22, 8), (40 * s, 36 * s, 50 * s)), 3 - above)
    canvas.paint("stomach wall", stomach)
    canvas.paint("stomach", stomach + 4)
    canvas.paint("spleen", np.maximum(ellipsoid(p, (m - 92, -38, 12), (27, 48, 50)), np.maximum(4 - above, cavity + 3)))
    canvas.paint("pancreas", ellipsoid(p, (m - 8, 8, -34), (46, 12, 13)))
    for kidney in (anatomy.right_kidney(p), ellipsoid(p, (m - 64, -54, -50), (26, 25, 50))):
        canvas.paint("kidney", kidney)
        canvas.paint("kidney sinus", kidney + 15)
    canvas.paint("gallbladder", anatomy.gallbladder_wall(p))
    canvas.paint("blood", union(ellipsoid(p, (m - 12, -20, 0), (10, 10, INF)), anatomy.vena_cava(p), 1))
