"""The fundus phantom: images like photographs of the retina, with lesions whose place and size are recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from layerscope.data.phantom.shapes import IMAGE, PATIENT, Array, disk_patch, smooth_noise, stream, window
from layerscope.errors import ConfigurationError

# The field of view is 45°, about 12 mm on the retina, and fills 94 % of the image's side.
FIELD_OF_VIEW_UM = 12_000.0
_FIELD = 0.94
_SUPERSAMPLING = 3


@dataclass(frozen=True)
class LesionKind:
    """How one label looks.

    diameter: default in pixels of a 128 px image. count: fewest and most in an image that has any.
    colour: RGB in [0, 1] that the retina is blended with. opacity: least and most share of that colour.
    soft: width of the edge as a share of the diameter. wobble: how far from round.
    """

    label: str
    display_name: str
    group: str
    diameter: float
    count: tuple[int, int]
    colour: tuple[float, float, float]
    opacity: tuple[float, float]
    soft: float
    wobble: float


LESIONS = (
    LesionKind("microaneurysm", "Microaneurysm", "vascular", 2, (6, 10), (0.22, 0.02, 0.04), (0.85, 1.0), 0.4, 0.0),
    LesionKind("hard_exudate", "Hard exudate", "lipid", 4, (2, 6), (1.0, 0.9, 0.48), (0.3, 0.75), 0.25, 0.15),
    LesionKind("haemorrhage", "Haemorrhage", "vascular", 8, (2, 4), (0.26, 0.03, 0.04), (0.55, 0.9), 0.25, 0.18),
    LesionKind("cotton_wool_spot", "Cotton-wool spot", "ischaemia", 16, (1, 3), (0.97, 0.9, 0.7), (0.2, 0.6), 0.6, 0.1),
    LesionKind("atrophy", "Geographic atrophy", "atrophy", 32, (1, 1), (0.98, 0.72, 0.42), (0.2, 0.6), 0.12, 0.15),
)  # fmt: skip


@dataclass(frozen=True)
class Lesion:
    """One drawn lesion: centre and diameter in pixels; contrast is its mean change of the green channel, in [-1, 1]."""

    label: str
    x: float
    y: float
    diameter: float
    contrast: float


@dataclass(frozen=True)
class FundusSettings:
    """size: side of the images in pixels. lesion_sizes: diameters in pixels, one per kind of lesion. seed."""

    size: int = 128
    lesion_sizes: tuple[float, ...] = tuple(kind.diameter for kind in LESIONS)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ConfigurationError(f"The fundus phantom needs a size of at least 32 pixels, got {self.size}.")
        if len(self.lesion_sizes) != len(LESIONS):
            kinds = ", ".join(kind.label for kind in LESIONS)
            raise ConfigurationError(
                f"The fundus phantom has {len(LESIONS)} kinds of lesion ({kinds}), so it needs as many lesion sizes; "
                f"got {', '.join(f'{size:g}' for size in self.lesion_sizes)}."
            )
        for size in self.lesion_sizes:
            if not 1 <= size <= self.size / 3:
                raise ConfigurationError(
                    f"A lesion of {size:g} pixels does not fit: sizes must lie between 1 and a third of the image, "
                    f"{self.size / 3:.0f} pixels."
                )


@dataclass(frozen=True)
class _Patient:
    """What the images of one patient share."""

    retina: Array  # RGB of the background
    texture: float
    tendency: NDArray[np.float64]  # probability of each label


@lru_cache(maxsize=64)
def _patient(seed: int, patient: int) -> _Patient:
    rng = stream(seed, PATIENT, patient)
    pigment = rng.uniform(0, 1)
    retina = np.array([0.86 - 0.16 * pigment, 0.46 - 0.15 * pigment, 0.25 - 0.10 * pigment]) + rng.normal(0, 0.015, 3)
    # Beta(2, 4): a third of the images on average, more in some patients than in others.
    return _Patient(retina.astype(np.float32), rng.uniform(0.02, 0.04), rng.beta(2, 4, len(LESIONS)))


def fundus_image(settings: FundusSettings, index: int, patient: int) -> tuple[NDArray[np.uint8], list[Lesion]]:
    """Image ``index``, (size, size, 3), and its lesions; the same whatever else is drawn.

    The labels of an image are those of its lesions.
    """
    rng = stream(settings.seed, IMAGE, index)
    person = _patient(settings.seed, patient)
    image, eye = _eye(rng, person, settings.size)
    present = rng.random(len(LESIONS)) < person.tendency
    lesions = _lesions(rng, image, present, settings, eye, np.zeros(eye.radius.shape, np.bool_))
    return _photograph(image, eye, *_exposure(rng, image.shape)), lesions


@dataclass(frozen=True)
class FundusPair:
    """One eye photographed twice at once, with lesions and without.

    positive, negative: (size, size, 3), equal but for the lesions. mask: (size, size), True where a lesion covers more
    than half of a pixel, or, where it does so of none, what it covers at all. lesions: of one kind, at least one.
    """

    positive: NDArray[np.uint8]
    negative: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    lesions: list[Lesion]


def fundus_pair(settings: FundusSettings, index: int, patient: int, label: str) -> FundusPair:
    """Pair ``index``, whose lesions are all of the kind ``label``; the same whatever else is drawn."""
    rng = stream(settings.seed, IMAGE, index)
    image, eye = _eye(rng, _patient(settings.seed, patient), settings.size)
    healthy = image.copy()
    mask = np.zeros(eye.radius.shape, np.bool_)
    lesions = _lesions(rng, image, np.array([kind.label == label for kind in LESIONS]), settings, eye, mask)
    exposure = _exposure(rng, image.shape)
    return FundusPair(_photograph(image, eye, *exposure), _photograph(healthy, eye, *exposure), mask, lesions)


@dataclass(frozen=True)
class _Eye:
    """Where things are in an image: radius (size, size) from the centre of the field, centre and optic nerve (x, y)."""

    radius: Array
    centre: tuple[float, float]
    nerve: tuple[float, float]


def _eye(rng: np.random.Generator, person: _Patient, size: int) -> tuple[Array, _Eye]:
    """The retina without lesions, (size, size, 3), before it is photographed."""
    eye = 1 if rng.random() < 0.5 else -1
    centre = (size / 2 + rng.normal(0, 0.008 * size), size / 2 + rng.normal(0, 0.008 * size))
    nerve = (centre[0] + eye * size * rng.uniform(0.25, 0.29), centre[1] + size * rng.normal(0, 0.02))
    fovea = (nerve[0] - eye * size * rng.uniform(0.30, 0.34), nerve[1] + size * rng.uniform(0.01, 0.05))

    radius = _radius(size, centre)
    image = _background(rng, person, radius)
    _fovea(image, fovea, size)
    vessels = _vessels(rng, size, nerve, eye)
    for channel, share in enumerate((0.26, 0.55, 0.45)):
        image[..., channel] *= 1 - share * vessels
    _optic_disc(image, nerve, vessels, size, rng)
    return image, _Eye(radius, centre, nerve)


def _exposure(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[float, Array]:
    """The brightness of a photograph and the noise of its sensor."""
    brightness = rng.uniform(0.92, 1.06)
    return brightness, rng.standard_normal(shape, dtype=np.float32) * np.float32(0.008)


def _photograph(image: Array, eye: _Eye, brightness: float, noise: Array) -> NDArray[np.uint8]:
    image *= brightness
    image += noise
    image *= _field(eye.radius)[..., None]
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _radius(size: int, centre: tuple[float, float]) -> Array:
    """(size, size) distance from ``centre`` in pixels."""
    x = np.arange(size, dtype=np.float32)[None, :] + np.float32(0.5 - centre[0])
    y = np.arange(size, dtype=np.float32)[:, None] + np.float32(0.5 - centre[1])
    return np.sqrt(x * x + y * y)


def _field(radius: Array) -> Array:
    """The round aperture of the camera."""
    size = len(radius)
    return np.clip((_FIELD * size / 2 - radius) / (0.012 * size) + 0.5, 0, 1).astype(np.float32)


def _background(rng: np.random.Generator, person: _Patient, radius: Array) -> Array:
    """Retina with vignette, uneven light and the texture of the choroid."""
    size = len(radius)
    direction = rng.uniform(0, 2 * math.pi)
    x = np.linspace(-0.07, 0.07, size, dtype=np.float32)
    light = 1.04 - (0.36 * 4 / size**2) * radius**2
    light += math.cos(direction) * x[None, :] + math.sin(direction) * x[:, None]
    light *= 1 + 0.05 * smooth_noise(rng, size, 5) + person.texture * smooth_noise(rng, size, 14)
    light *= 1 + 0.012 * smooth_noise(rng, size, 40)
    hue = smooth_noise(rng, size, 6)
    image = np.empty((size, size, 3), np.float32)
    for channel, tint in enumerate((0.0, 0.03, 0.05)):
        image[..., channel] = light * (1 + tint * hue) * float(person.retina[channel])
    return image


def _fovea(image: Array, fovea: tuple[float, float], size: int) -> None:
    """The dark spot of sharpest sight, and the macula's pigment around it."""
    r2 = (_radius(size, fovea) / size) ** 2
    dark = 0.20 * np.exp(r2 * -(1 / 0.10**2)) + 0.16 * np.exp(r2 * -(1 / 0.035**2))
    for channel, share in enumerate((0.75, 1.0, 0.9)):
        image[..., channel] *= 1 - share * dark


def _optic_disc(image: Array, nerve: tuple[float, float], vessels: Array, size: int, rng: np.random.Generator) -> None:
    """The bright head of the optic nerve with its paler cup; vessels cross it."""
    diameter = size * rng.uniform(0.13, 0.155)
    for share, colour, opacity in ((1.0, (0.99, 0.80, 0.50), 0.72), (rng.uniform(0.40, 0.55), (1.0, 0.93, 0.74), 0.6)):
        patch, left, top = disk_patch(diameter * share, *nerve, soft=0.018 * size)
        where, inside = window(patch, left, top, size)
        alpha = (inside * opacity * (1 - 0.75 * vessels[where]))[..., None]
        image[where] = image[where] * (1 - alpha) + alpha * np.array(colour, np.float32)


def _vessels(rng: np.random.Generator, size: int, nerve: tuple[float, float], eye: int) -> Array:
    """(size, size) in [0, 1]: arcades from the optic disc around the macula, an artery and a vein each, branching."""
    canvas = Image.new("L", (size * _SUPERSAMPLING, size * _SUPERSAMPLING))
    pen = _Pen(ImageDraw.Draw(canvas), rng, size)
    temporal = math.pi if eye > 0 else 0.0
    for up in (-1, 1):
        side = eye * up
        for vein in (False, True):
            width = size * (0.0155 if vein else 0.0115) * rng.uniform(0.9, 1.1)
            # Temporal arcades bow around the fovea; nasal ones run straight out.
            angle = temporal + side * (rng.uniform(1.0, 1.35) + (0.16 if vein else -0.10))
            bend = -side * rng.uniform(1.15, 1.45)
            pen.vessel(nerve, angle, bend, width, size * rng.uniform(0.72, 0.85), vein, depth=0)
            angle = temporal + math.pi - side * rng.uniform(0.7, 1.15) + (0.06 if vein else -0.06)
            pen.vessel(nerve, angle, side * rng.uniform(-0.1, 0.4), width * 0.75, size * 0.35, vein, depth=1)
    small = canvas.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


@dataclass(frozen=True)
class _Pen:
    """Draws vessels on a supersampled canvas. Plain floats: arrays of twenty numbers would cost more than they save."""

    draw: ImageDraw.ImageDraw
    rng: np.random.Generator
    size: int

    def vessel(
        self, start: tuple[float, float], angle: float, bend: float, width: float, length: float, vein: bool, depth: int
    ) -> None:
        """One vessel that bends by ``bend`` radians over its length, wriggles, thins and sends out branches."""
        steps = max(4, int(18 * length / self.size))
        stride = length / steps
        points, angles = [start], [angle]
        for wriggle in (self.rng.standard_normal(steps) * 0.07).tolist():
            heading = angles[-1] + bend / steps + wriggle
            x, y = points[-1]
            points.append((x + math.cos(heading) * stride, y + math.sin(heading) * stride))
            angles.append(heading)
        thickness = [width * (1 - 0.62 * step / steps) for step in range(steps)]
        self._stroke(points, thickness, 235 if vein else 165)
        if depth > 2:
            return
        turn = 1 if self.rng.random() < 0.5 else -1
        for step in range(2 + int(self.rng.integers(0, 2)), steps - 1, 3):
            turn = -turn
            spread, curl, thin, short = self.rng.random(4).tolist()
            if thickness[step] < 0.0045 * self.size:
                break
            self.vessel(
                points[step],
                angles[step] + turn * (0.5 + 0.5 * spread),
                -turn * 0.5 * curl,
                thickness[step] * (0.5 + 0.2 * thin),
                length * (0.30 + 0.15 * short),
                vein,
                depth + 1 if depth else 2,
            )

    def _stroke(self, points: list[tuple[float, float]], thickness: list[float], darkness: int) -> None:
        """One polyline per run of equal width and darkness; vessels thinner than a pixel of the canvas grow paler."""
        scaled = [(x * _SUPERSAMPLING, y * _SUPERSAMPLING) for x, y in points]
        styles = [
            (max(1, round(t * _SUPERSAMPLING)), max(40, int(darkness * min(1.0, t * _SUPERSAMPLING))))
            for t in thickness
        ]
        begin = 0
        for step in range(1, len(styles) + 1):
            if step == len(styles) or styles[step] != styles[begin]:
                width, ink = styles[begin]
                self.draw.line(scaled[begin : step + 1], fill=ink, width=width, joint="curve" if width > 2 else None)
                begin = step


def _lesions(
    rng: np.random.Generator,
    image: Array,
    present: NDArray[np.bool_],
    settings: FundusSettings,
    eye: _Eye,
    mask: NDArray[np.bool_],
) -> list[Lesion]:
    """Draws lesions of the kinds ``present`` (5,), the largest first so that no small one is covered.

    ``mask`` (size, size) becomes True on them.
    """
    size, centre, nerve = settings.size, eye.centre, eye.nerve
    order = sorted(range(len(LESIONS)), key=lambda place: -settings.lesion_sizes[place])
    taken: list[tuple[float, float, float]] = [(nerve[0], nerve[1], 0.09 * size)]
    lesions: list[Lesion] = []
    for place in order:
        kind, nominal = LESIONS[place], settings.lesion_sizes[place]
        if not present[place]:
            continue
        for _ in range(int(rng.integers(kind.count[0], kind.count[1] + 1))):
            diameter = nominal * rng.uniform(0.9, 1.1)
            x, y = _free_place(rng, diameter / 2, centre, 0.42 * size, taken)
            taken.append((x, y, diameter / 2))
            contrast = _paint(rng, image, mask, kind, x, y, diameter)
            lesions.append(Lesion(kind.label, round(x, 3), round(y, 3), round(diameter, 3), round(contrast, 4)))
    return lesions


def _free_place(
    rng: np.random.Generator,
    radius: float,
    centre: tuple[float, float],
    field: float,
    taken: list[tuple[float, float, float]],
) -> tuple[float, float]:
    """A place in the field that touches no other lesion; where there is none, the least crowded of those tried."""
    best, best_gap = centre, -math.inf
    for _ in range(40):
        angle = rng.uniform(0, 2 * math.pi)
        distance = (field - radius) * math.sqrt(rng.random())
        x, y = centre[0] + distance * math.cos(angle), centre[1] + distance * math.sin(angle)
        gap = min(math.hypot(x - other_x, y - other_y) - radius - other for other_x, other_y, other in taken)
        if gap > best_gap:
            best, best_gap = (x, y), gap
        if gap > 1:
            break
    return best


def _paint(
    rng: np.random.Generator,
    image: Array,
    mask: NDArray[np.bool_],
    kind: LesionKind,
    x: float,
    y: float,
    diameter: float,
) -> float:
    """Blends one lesion into image and mask and returns its contrast: the mean change of green within its disk."""
    wobble = (rng.normal(0, kind.wobble / 2, 3) / (1, 1.5, 2.5)).clip(-0.2, 0.2) if kind.wobble else None
    patch, left, top = disk_patch(diameter, x, y, soft=max(0.8, kind.soft * diameter), wobble=wobble)
    where, inside = window(patch, left, top, len(image))
    alpha = (inside * rng.uniform(*kind.opacity))[..., None]
    before = image[where].copy()
    image[where] = before * (1 - alpha) + alpha * np.array(kind.colour, np.float32)
    change = image[where][..., 1] - before[..., 1]
    core = inside > 0.5
    mask[where] |= core if core.any() else inside > 0
    return float(change[core].mean()) if core.any() else float(change.sum() / max(inside.sum(), 1e-6))
