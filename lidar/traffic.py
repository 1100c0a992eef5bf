"""Streets made by chance: roads with what stands beside them, and road users that move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from robovision.lidar.collisions import keep_apart
from robovision.lidar.primitives import FIELD
from robovision.lidar.roads import Road, clear_of, make_ground, make_roads
from robovision.lidar.streets import LANE, Actor, Shape, Street, drive
from robovision.lidar.things import (
    Place,
    make_building,
    make_bush,
    make_cyclist,
    make_kerb,
    make_pedestrian,
    make_pole,
    make_tree,
    make_vehicle,
    placed,
)

EDITION = 3
"""Of the streets that a seed makes; rises with every change of them."""

SECONDS = 2.0
"""How long a street is made for, unless it is said."""

CAR = (4.6, 1.9, 1.6)
"""Length, width and height, metres, of the sensor's car."""

FASTEST = 14.0
"""Metres a second."""

CYCLING, EDGE, SIDEWALK, FRONT = 3.0, 3.7, (5.7, 8.9), 9.2
"""Metres from a road's axis to the middle of where people cycle, to where parked vehicles begin, to both sides of the
sidewalk, and to the first buildings."""

KERB = (8.0, 0.12)
"""Length of a piece of sidewalk, and its height, metres."""

BAYS = 0.25
"""Share of the sides of roads where vehicles are parked across instead of along, without a sidewalk."""


def make_street(rng: np.random.Generator, seconds: float = SECONDS) -> Street:
    """A street with some 100 things in it, more if the drive takes longer; nobody meets anybody.

    The sensor's car drives on a road through the origin, along x there, which is straight or an arc. Mostly another
    road crosses it or ends at it, where traffic waits or flows. The ground slopes and waves.
    """
    length = 80 + FASTEST * max(0.0, seconds - SECONDS)
    roads = make_roads(rng, length)
    speed = float(rng.uniform(3, FASTEST))
    drift = 1.0 / (speed * max(seconds, SECONDS) ** 2)  # half a metre to the side in the end
    turn = roads[0].turn(speed, -LANE) + float(np.clip(rng.normal(0, 0.01), -drift, drift))
    ground = make_ground(rng, roads)
    actors = [
        Actor((), (0.0, -LANE), 0.0, size=CAR, speed=speed, turn=turn),
        Actor((Shape(FIELD, (0, 0, 0), (0, 0, 0), 0.34),), (0, 0), 0, stance="fixed"),
    ]
    for k, road in enumerate(roads):
        others = roads[:k] + roads[k + 1 :]
        bays = tuple(side for side in (-1, 1) if rng.random() < BAYS)
        for side in (-1, 1):
            actors += _buildings(rng, road, others, side)
            actors += _parked(rng, road, others, side, side in bays)
            actors += _beside(rng, road, others, side, side in bays)
        actors += _traffic(rng, road, speed) if k == 0 else _traffic_across(rng, road)
        actors += _cyclists(rng, road)
        actors += _pedestrians(rng, road, others, bays, seconds)
    return Street(tuple(_apart(actors, seconds)[1:]), speed, turn, ground)


def _apart(actors: Sequence[Actor], seconds: float) -> list[Actor]:
    """The actors without those that would run into an earlier one."""
    extended = [k for k, actor in enumerate(actors) if any(actor.size)]
    state = np.array([(*a.place, a.yaw, a.speed, a.turn) for a in (actors[k] for k in extended)], np.float64)
    times = np.linspace(0, seconds, 2 + int(8 * seconds))
    poses = np.stack([drive(state, time) for time in times])
    stays = keep_apart(poses, np.array([actors[k].size for k in extended], np.float64))
    gone = {k for k, stay in zip(extended, stays.tolist(), strict=True) if not stay}
    return [actor for k, actor in enumerate(actors) if k not in gone]


def _steps(rng: np.random.Generator, road: Road, step: float, share: float, spread: float = 0.0) -> list[float]:
    """Places along a road, a share of those at regular steps, each up to `spread` metres farther on."""
    every = np.arange(*road.ends, step) + rng.uniform(0, spread, len(np.arange(*road.ends, step)))
    chosen: list[float] = every[rng.random(len(every)) < share].tolist()
    return chosen


def _free(others: tuple[Road, ...], place: Place, room: float) -> bool:
    """Whether a place is farther than so many metres from the axes of the other roads."""
    return bool(clear_of(others, np.array(place[:2]), room))


def _buildings(rng: np.random.Generator, road: Road, others: tuple[Road, ...], side: int) -> list[Actor]:
    actors, along = [], road.ends[0]
    while along < road.ends[1]:
        wide, deep = rng.uniform(8, 20), rng.uniform(6, 12)
        place = road.at(along + wide / 2, side * (FRONT + deep / 2 + rng.uniform(0, 4)))
        if rng.random() < 0.75 and _free(others, place, FRONT + np.hypot(wide, deep) / 2):
            actors.append(placed(make_building(rng, wide, deep), place))
        along += wide + rng.uniform(0, 6)
    return actors


def _beside(rng: np.random.Generator, road: Road, others: tuple[Road, ...], side: int, bays: bool) -> list[Actor]:
    """A sidewalk with trees, bushes and poles; bays have poles only."""
    poles = [road.at(along, side * (8.6 if bays else 5.9)) for along in _steps(rng, road, 25, 0.9, 8)]
    actors = [make_pole(rng, place) for place in poles if _free(others, place, 7)]
    if bays:
        return actors
    trees = [road.at(along, side * rng.uniform(8, 8.6)) for along in _steps(rng, road, 14, 0.7, 8)]
    actors += [make_tree(rng, place) for place in trees if _free(others, place, 9)]
    bushes = [road.at(along, side * 8.4) for along in _steps(rng, road, 20, 0.4)]
    actors += [make_bush(rng, place) for place in bushes if _free(others, place, 9)]
    # Beside a road that ends here or comes across, the sidewalk ends; that of the road through the origin goes on.
    room = SIDEWALK[0 if road.ends[1] > 60 else 1] + KERB[0] / 2
    pieces = [road.at(along, side * sum(SIDEWALK) / 2) for along in _steps(rng, road, KERB[0] - 0.1, 1)]
    size = (KERB[0], SIDEWALK[1] - SIDEWALK[0], KERB[1])
    return actors + [make_kerb(place, size) for place in pieces if _free(others, place, room)]


def _parked(rng: np.random.Generator, road: Road, others: tuple[Road, ...], side: int, bays: bool) -> list[Actor]:
    """Vehicles along the road, some against its traffic, or across it, in bays that stand at an angle."""
    vehicles = []
    angle = side * float(rng.choice([np.pi / 2, np.pi / 3]))
    for along in _steps(rng, road, 3.3 if bays else 7.5, 0.4 if bays else 0.45):
        vehicle = make_vehicle(rng, (0, 0, 0))
        long, wide, _ = vehicle.size
        x, y, yaw = road.at(along, side * (EDGE + (long if bays else wide) / 2 + 0.1))
        yaw += angle if bays else (side > 0) * np.pi
        yaw += rng.normal(0, 0.04) + (rng.random() < (0.5 if bays else 0.1)) * np.pi
        if _free(others, (x, y, yaw), 9.5) and (long < 5.5 or not bays):
            vehicles.append(placed(vehicle, (x, y, yaw)))
    return vehicles


def _moving(actor: Actor, road: Road, along: float, aside: float, speed: float) -> Actor:
    """The actor as it follows the road, against its heading if the speed is negative."""
    x, y, yaw = road.at(along, aside)
    actor = placed(actor, (x, y, yaw + (speed < 0) * np.pi))
    return replace(actor, speed=abs(speed), turn=road.turn(speed, aside))


def _traffic(rng: np.random.Generator, road: Road, speed: float) -> list[Actor]:
    """Vehicles in both lanes, none near the sensor's car, whose lane goes at about its speed."""
    lanes = ((-1, speed), (1, float(rng.uniform(5, FASTEST - 2))))
    return [actor for side, lane in lanes for actor in _lane(rng, road, side, lane, lambda away: abs(away) > 12)]


def _traffic_across(rng: np.random.Generator, road: Road) -> list[Actor]:
    """Vehicles that come through, or that wait in queues where the roads meet while others drive away."""
    waits = road.ends[0] == 0 or rng.random() < 0.6
    vehicles = []
    for side in (-1, 1):
        speed = float(rng.uniform(4, FASTEST - 4))
        vehicles += _lane(rng, road, side, speed, lambda away: not waits or away > 8)
        if waits and road.ends[0] < side * 20 < road.ends[1]:
            queue = 11 + 6.5 * np.arange(rng.integers(0, 4)) + rng.uniform(0, 1.5)
            x_y_yaw = [road.at(side * float(away), side * LANE) for away in queue]
            vehicles += [make_vehicle(rng, (x, y, yaw + (side > 0) * np.pi)) for x, y, yaw in x_y_yaw]
    return vehicles


def _lane(
    rng: np.random.Generator, road: Road, side: int, lane: float, allowed: Callable[[float], bool]
) -> list[Actor]:
    """Vehicles of a lane at about its speed: who is ahead is faster, so that nobody runs into anybody.

    Only places are taken that are `allowed`, by how far they have come since the road's place.
    """
    places = [along for along in _steps(rng, road, 22, 0.6, 9) if allowed(-side * along)]
    ahead = -side * np.array(places)
    more = np.sort(rng.uniform(0, 2, len(places)))[np.argsort(np.argsort(np.abs(ahead)))]
    speeds = np.maximum(lane + np.sign(ahead) * more, 1.0).tolist()
    made = zip(places, speeds, strict=True)
    return [_moving(make_vehicle(rng, (0, 0, 0)), road, along, side * LANE, -side * speed) for along, speed in made]


def _cyclists(rng: np.random.Generator, road: Road) -> list[Actor]:
    actors = []
    for along in rng.uniform(*road.ends, _count(rng, road, 5)):
        side, speed = int(rng.choice([-1, 1])), float(rng.uniform(2, 7))
        actors.append(_moving(make_cyclist(rng, (0, 0, 0)), road, float(along) * 0.7, side * CYCLING, -side * speed))
    return actors


def _pedestrians(
    rng: np.random.Generator, road: Road, others: tuple[Road, ...], bays: tuple[int, ...], seconds: float
) -> list[Actor]:
    """People on the sidewalks, and some who cross the road."""
    actors = []
    for along in 0.7 * rng.uniform(*road.ends, _count(rng, road, 14)):
        side, speed = int(rng.choice([-1, 1])), float(rng.choice([-1, 1]) * rng.uniform(0, 1.8))
        person = make_pedestrian(rng, (0, 0, 0))
        if side in bays or rng.random() < 0.15:
            x, y, yaw = road.at(along, -side * rng.uniform(0.5, 3))
            speed = min(abs(speed), SIDEWALK[0] / seconds)
            actors.append(replace(placed(person, (x, y, yaw + side * np.pi / 2)), speed=speed))
            continue
        person = _moving(person, road, along, side * rng.uniform(6.4, 7.8), speed)
        if _free(others, (*person.place, 0.0), 6):
            actors.append(replace(person, yaw=person.yaw + rng.normal(0, 0.06), raised=KERB[1]))
    return actors


def _count(rng: np.random.Generator, road: Road, each: float) -> int:
    """About so many for 160 m of road."""
    return int(rng.uniform(0.6, 1.4) * each * (road.ends[1] - road.ends[0]) / 160)
