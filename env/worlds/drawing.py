"""CarRacing's picture, drawn about 25 times faster than gymnasium draws it.

gymnasium paints every grass square, every road tile and the car on a 1000x800 canvas for each frame and shrinks that to
96x96. Here the playfield is painted once per episode into a bitmap seen from above; a frame is that bitmap turned, scaled
and shifted by one `cv2.warpAffine`, with the car painted on top. Rows 84..95, the indicator bar, are never drawn: V never
sees them (the original crops them away).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import cv2
import numpy as np
from gymnasium.envs.box2d import car_dynamics, car_racing

ROWS, COLS = 84, 96
# Output pixels per pixel of gymnasium's canvas, and the car's place on the output (canvas (500, 200), y up).
_SCALE_X, _SCALE_Y = COLS / car_racing.WINDOW_W, 96 / car_racing.WINDOW_H
_CENTRE = (COLS / 2, 72.0)
# Bitmap pixels per unit of the world. After the opening zoom a frame shows 1.56 x 1.94 pixels per unit.
_DENSITY = 2.0
# The bitmap is painted at twice its density and averaged down, which smooths the edges.
_OVERSAMPLE = 2
# Half-density copies of the bitmap serve the opening zoom, which shows the playfield from up to 27 times as far.
_LEVELS = 5
# The car is painted in a patch of the frame (x, y, width, height), enlarged so that its edges come out smooth.
_PATCH = (43, 63, 10, 18)
_ENLARGE = 8
_SHIFT = 4  # fractional bits of the coordinates given to OpenCV
# gymnasium's shrinking (pygame's smoothscale) loses 2 of 255 in every colour: measured, constant over all values.
_LOSS = 2


def _darker(colour: Any) -> tuple[int, int, int]:
    r, g, b = (max(int(c) - _LOSS, 0) for c in colour)
    return r, g, b


def _fill(image: np.ndarray, points: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Fill a convex polygon; `points` [n, 2] in pixels, where a pixel's centre has whole coordinates."""
    cv2.fillConvexPoly(image, np.rint(points * (1 << _SHIFT)).astype(np.int32), colour, shift=_SHIFT)


def _to_bitmap(points: np.ndarray, density: float) -> np.ndarray:
    return (points + car_racing.PLAYFIELD) * density - 0.5


@functools.lru_cache(maxsize=1)
def _grass(density: float) -> np.ndarray:
    """The playfield without its road, uint8 [n, n, 3]; the same in every episode."""
    side = round(2 * car_racing.PLAYFIELD * density)
    image = np.empty((side, side, 3), np.uint8)
    image[:] = _darker((102, 204, 102))
    dim = car_racing.GRASS_DIM
    square = np.array([(dim, 0), (0, 0), (0, dim), (dim, dim)])
    for x in range(-20, 20, 2):
        for y in range(-20, 20, 2):
            _fill(image, _to_bitmap(square + (dim * x, dim * y), density), _darker((102, 230, 102)))
    image.flags.writeable = False
    return image


def _complex(points: Any) -> np.ndarray:
    return np.array([complex(x, y) for x, y in points]) * car_dynamics.SIZE


_HULL = [_complex(p) for p in (car_dynamics.HULL_POLY1, car_dynamics.HULL_POLY2, car_dynamics.HULL_POLY3, car_dynamics.HULL_POLY4)]
_W, _R = car_dynamics.WHEEL_W, car_dynamics.WHEEL_R
_WHEEL = _complex([(-_W, _R), (_W, _R), (_W, -_R), (-_W, -_R)])
_HULL_COLOUR = _darker((204, 0, 0))
_WHEEL_COLOUR = _darker(car_dynamics.WHEEL_COLOR)
_STRIPE_COLOUR = _darker(car_dynamics.WHEEL_WHITE)


def _stripe(phase: float) -> np.ndarray | None:
    """The light stripe on a wheel that shows its turning, as gymnasium computes it; None when it is out of sight."""
    s1, s2 = math.sin(phase), math.sin(phase + 1.2)
    if s1 > 0 and s2 > 0:
        return None
    c1, c2 = math.cos(phase), math.cos(phase + 1.2)
    if s1 > 0:
        c1 = math.copysign(1.0, c1)
    if s2 > 0:
        c2 = math.copysign(1.0, c2)
    return _WHEEL.real + 1j * car_dynamics.SIZE * np.array([_R * c1, _R * c1, _R * c2, _R * c2])


def _to_patch(points: np.ndarray, zoom: float) -> np.ndarray:
    """Points relative to the car, complex [...], to OpenCV's fixed-point pixels of the enlarged patch, int32 [..., 2]."""
    x0, y0, _, _ = _PATCH
    one = _ENLARGE * (1 << _SHIFT)
    pixels = np.empty((*points.shape, 2), np.float64)
    pixels[..., 0] = points.real * (zoom * _SCALE_X * one) + ((_CENTRE[0] - x0) * one - (1 << _SHIFT) / 2)
    pixels[..., 1] = points.imag * (-zoom * _SCALE_Y * one) + ((_CENTRE[1] - y0) * one - (1 << _SHIFT) / 2)
    return np.rint(pixels).astype(np.int32)


def _half(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


class TrackPainter:
    """Draws the frames of one episode.

    Args:
        road_poly: gymnasium's list of (four corners, colour) for tiles and borders, in painting order.
    """

    def __init__(self, road_poly: list[tuple[Any, Any]]) -> None:
        density = _DENSITY * _OVERSAMPLE
        image = _grass(density).copy()
        for corners, colour in road_poly:
            _fill(image, _to_bitmap(np.asarray(corners), density), _darker(colour))
        self._levels = [_half(image)]
        for _ in range(_LEVELS - 1):
            self._levels.append(_half(self._levels[-1]))
        self._seen: set[int] = set()
        self._hull_zoom = 0.0
        self._hull: list[np.ndarray] = []

    def frame(self, env: Any) -> np.ndarray:
        """The 84 top rows of the 96x96 picture of `env` (a gymnasium CarRacing) now: uint8 [84, 96, 3]."""
        self._repaint_visited(env)
        hull = env.car.hull
        zoom = 0.1 * car_racing.SCALE * max(1 - env.t, 0) + car_racing.ZOOM * car_racing.SCALE * min(env.t, 1)
        image = self._warp(hull, zoom)
        self._paint_car(image, env.car, zoom)
        return image

    def _repaint_visited(self, env: Any) -> None:
        """gymnasium gives a tile that a wheel touched the plain road colour: follow it in the bitmaps.

        The tile is shrunk a little towards the road's middle, so that its smooth outer edges stay as they are.
        """
        for wheel in env.car.wheels:
            for tile in wheel.tiles:
                if tile.idx in self._seen:
                    continue
                self._seen.add(tile.idx)
                corners = np.array(tile.fixtures[0].shape.vertices)
                corners = corners + 0.04 * (corners.mean(axis=0) - corners)
                for level in range(3 if env.t < 1 else 1):
                    _fill(self._levels[level], _to_bitmap(corners, _DENSITY / 2**level), _darker(env.road_color))

    def _warp(self, hull: Any, zoom: float) -> np.ndarray:
        px, py = hull.position
        cos, sin = math.cos(-hull.angle), math.sin(-hull.angle)
        axx, axy = zoom * cos * _SCALE_X, -zoom * sin * _SCALE_X
        ayx, ayy = -zoom * sin * _SCALE_Y, -zoom * cos * _SCALE_Y
        level, density = 0, _DENSITY
        while level < _LEVELS - 1 and density / 2 >= zoom * _SCALE_X:
            level, density = level + 1, density / 2
        # A bitmap pixel q lies at the point (q + 0.5) / density - PLAYFIELD of the world.
        origin = 0.5 / density - car_racing.PLAYFIELD
        dx, dy = origin - px, origin - py
        matrix = np.array(
            [
                [axx / density, axy / density, _CENTRE[0] - 0.5 + axx * dx + axy * dy],
                [ayx / density, ayy / density, _CENTRE[1] - 0.5 + ayx * dx + ayy * dy],
            ]
        )
        return cv2.warpAffine(self._levels[level], matrix, (COLS, ROWS), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)

    def _paint_car(self, image: np.ndarray, car: Any, zoom: float) -> None:
        x0, y0, width, height = _PATCH
        view = image[y0 : y0 + height, x0 : x0 + width]
        patch = cv2.resize(view, (width * _ENLARGE, height * _ENLARGE), interpolation=cv2.INTER_NEAREST)
        if zoom != self._hull_zoom:  # the car's body never moves on the picture, but for the opening zoom
            self._hull_zoom, self._hull = zoom, [_to_patch(polygon, zoom) for polygon in _HULL]
        hull_angle, hull_at = car.hull.angle, complex(*car.hull.position)
        turn_back = complex(math.cos(hull_angle), -math.sin(hull_angle))
        quads: list[np.ndarray] = []
        colours: list[tuple[int, int, int]] = []
        for wheel in car.wheels:
            angle = wheel.angle - hull_angle
            turn = complex(math.cos(angle), math.sin(angle))
            at = (complex(*wheel.position) - hull_at) * turn_back
            quads.append(_WHEEL * turn + at)
            colours.append(_WHEEL_COLOUR)
            stripe = _stripe(wheel.phase)
            if stripe is not None:
                quads.append(stripe * turn + at)
                colours.append(_STRIPE_COLOUR)
        for quad, colour in zip(_to_patch(np.array(quads), zoom), colours):
            cv2.fillConvexPoly(patch, quad, colour, shift=_SHIFT)
        for polygon in self._hull:
            cv2.fillConvexPoly(patch, polygon, _HULL_COLOUR, shift=_SHIFT)
        view[:] = cv2.resize(patch, (width, height), interpolation=cv2.INTER_AREA)
