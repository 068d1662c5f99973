"""CarRacing's picture, drawn in two ways that are faster than gymnasium's, of which one is equal to it to the bit.

gymnasium paints every grass square, every road tile and the car on a 1000x800 canvas for each frame and shrinks that to 96x96.
Here rows 84..95, the indicator bar, are never drawn: V never sees them (the original crops them away).

`ExactPainter` leaves out what does not show on the part of the canvas that V sees, and paints the rest as gymnasium does. `TrackPainter`
paints the playfield once per episode into a bitmap seen from above; a frame is that bitmap turned, scaled and shifted by one
`cv2.warpAffine`, with the car painted on top: nearly the same, and some 20 times faster than gymnasium's.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import cv2
import numpy as np
from gymnasium.envs.box2d import car_dynamics, car_racing

ROWS, COLS = 84, 96
_RIGHT_ANGLES = 1e-5  # how near to a multiple of 90 degrees counts for one, at least pygame's own tolerance
_UNSEEN = car_racing.WINDOW_H * (96 - ROWS) // 96  # rows of gymnasium's canvas, y up, that become the indicator bar
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


class ExactPainter:
    """Draws the frames of one episode to the bit as gymnasium does, several times as fast.

    The painting itself is pygame's, by the calls that gymnasium makes, in its order and with its numbers. What is saved: polygons that
    do not touch the seen part of the canvas, which is most of them; the playfield's own colour, where it covers the whole canvas;
    text and indicators; and rows that are never seen are neither flipped nor shrunk.

    Args:
        env: a gymnasium CarRacing that has just made its track.
    """

    def __init__(self, env: Any) -> None:
        import pygame

        dim = car_racing.GRASS_DIM
        square = [(dim, 0.0), (0.0, 0.0), (0.0, dim), (dim, dim)]
        corners = [[(dim * x + dx, dim * y + dy) for dx, dy in square] for x in range(-20, 20, 2) for y in range(-20, 20, 2)]
        self._colours: list[Any] = [env.grass_color] * len(corners)
        for polygon, colour in env.road_poly:
            corners.append([(float(x), float(y)) for x, y in polygon])
            self._colours.append(colour)  # gymnasium changes it where the car was: to be read when it is painted
        self._corners = np.array(corners)  # [n, 4, 2], in the world
        middle = self._corners.mean(axis=1)
        self._middle = middle[:, 0] + 1j * middle[:, 1]
        self._reach = np.linalg.norm(self._corners - middle[:, None], axis=2).max(axis=1)
        self._canvas = pygame.Surface((car_racing.WINDOW_W, car_racing.WINDOW_H))
        self._seen = self._canvas.subsurface((0, _UNSEEN, car_racing.WINDOW_W, car_racing.WINDOW_H - _UNSEEN))
        self._flipped = pygame.Surface(self._seen.get_size())

    def frame(self, env: Any) -> np.ndarray:
        """The 84 top rows of the 96x96 picture of `env` now: uint8 [84, 96, 3]."""
        import pygame.gfxdraw

        hull, width, height = env.car.hull, car_racing.WINDOW_W, car_racing.WINDOW_H
        angle, zoom = -hull.angle, _zoom(env.t)
        scroll = pygame.math.Vector2((-(hull.position[0]) * zoom, -(hull.position[1]) * zoom)).rotate_rad(angle)
        shift = (width / 2 + scroll[0], height / 4 + scroll[1])
        turn, origin = complex(math.cos(angle), math.sin(angle)) * zoom, complex(*shift)
        self._paint_ground(env, turn, origin, angle, zoom, shift)
        at, reach = self._middle * turn + origin, self._reach * zoom + 2
        inside = (at.real > -reach) & (at.real < width + reach) & (at.imag > _UNSEEN - reach) & (at.imag < height + reach)
        seen = np.flatnonzero(inside)
        for i, polygon in zip(seen, _on_canvas(self._corners[seen], angle, zoom, shift)):
            colour = [int(part) for part in self._colours[i]]
            pygame.gfxdraw.aapolygon(self._canvas, polygon, colour)
            pygame.gfxdraw.filled_polygon(self._canvas, polygon, colour)
        env.car.draw(self._canvas, zoom, shift, angle, False)
        # pygame.transform.flip, without a new surface for each frame.
        pygame.surfarray.pixels2d(self._flipped)[:] = pygame.surfarray.pixels2d(self._seen)[:, ::-1]
        small = pygame.transform.smoothscale(self._flipped, (COLS, ROWS))
        return pygame.surfarray.array3d(small).transpose(1, 0, 2)

    def _paint_ground(self, env: Any, turn: complex, origin: complex, angle: float, zoom: float, shift: tuple[float, float]) -> None:
        """The playfield, and black beyond it."""
        env.surf = self._canvas  # what gymnasium's own calls paint on
        width, height, bound = car_racing.WINDOW_W, car_racing.WINDOW_H, car_racing.PLAYFIELD
        in_world = (np.array([0, width, 1j * height, width + 1j * height]) - origin) / turn
        if max(abs(in_world.real).max(), abs(in_world.imag).max()) < bound - 2 / zoom:
            self._canvas.fill(env.bg_color)
            return
        self._canvas.fill((0, 0, 0))
        field = [(bound, bound), (bound, -bound), (-bound, -bound), (-bound, bound)]
        env._draw_colored_polygon(self._canvas, field, env.bg_color, zoom, shift, angle, clip=False)


def _on_canvas(corners: np.ndarray, angle: float, zoom: float, shift: tuple[float, float]) -> list:
    """Corners in the world [n, 4, 2] -> on gymnasium's canvas, by the same floating-point operations in the same order: its
    CarRacing._draw_colored_polygon, with pygame's Vector2.rotate_rad."""
    import pygame

    turn = math.fmod(angle, 2 * math.pi)
    turn += 2 * math.pi if turn < 0 else 0.0
    if math.fmod(turn + _RIGHT_ANGLES, math.pi / 2) < 2 * _RIGHT_ANGLES:  # pygame rotates by these without sine and cosine
        turned = np.array([[pygame.math.Vector2(c).rotate_rad(angle) for c in polygon] for polygon in corners.tolist()])
        x, y = turned.reshape(-1, 4, 2).transpose(2, 0, 1)
    else:
        sin, cos = math.sin(turn), math.cos(turn)
        x = cos * corners[..., 0] - sin * corners[..., 1]
        y = sin * corners[..., 0] + cos * corners[..., 1]
    return np.stack([x * zoom + shift[0], y * zoom + shift[1]], axis=-1).tolist()


def _zoom(t: float) -> float:
    """Canvas pixels per unit of the world, `t` seconds after the start: gymnasium zooms in during the first one."""
    return 0.1 * car_racing.SCALE * max(1 - t, 0) + car_racing.ZOOM * car_racing.SCALE * min(t, 1)


class TrackPainter:
    """Draws the frames of one episode.

    Args:
        env: a gymnasium CarRacing that has just made its track.
    """

    def __init__(self, env: Any) -> None:
        density = _DENSITY * _OVERSAMPLE
        image = _grass(density).copy()
        for corners, colour in env.road_poly:
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
        zoom = _zoom(env.t)
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
