"""Pictures of one task in random states, from random cameras, in random light and colours."""

from __future__ import annotations

from collections.abc import Iterator

from robovision.envs.rendering import Camera, Renderer, View, find_camera  # first: it chooses the backend

# isort: split
import mujoco
import numpy as np
from numpy.typing import NDArray

from robovision.envs.experts import available
from robovision.envs.registry import Preset, find_task, make_simulation
from robovision.envs.simulation import Simulation, Vector

EPISODE = 16
"""Frames of an episode; each episode has its own start, colours and lights, each frame its own camera."""
STRIDE = 6
"""Control steps from one frame to the next."""
EXPERT_NOISE = 0.3
"""Standard deviation of what disturbs an expert."""
PERSISTENCE = 0.8
"""Correlation of random actions from one step to the next."""


def photograph(
    task: str, count: int, size: int, preset: Preset, random: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    """So many frames of a task, rounded up to whole episodes, uint8 [3, size, size] each."""
    simulation = make_simulation(task)
    renderer = Renderer(
        simulation.model, size, preset, geomgroups=simulation.geomgroups, rangefinders=simulation.rangefinders
    )
    try:
        look = _Look(simulation.model)
        for _ in range(-(-count // EPISODE)):
            simulation.reset(random)
            if simulation.model.nhfield:
                renderer.upload_heights()
            look.change(random)
            for _ in wander(task, simulation, random):
                yield renderer.pixels(simulation.data, _aim(task, simulation, random))
    finally:
        renderer.close()
        simulation.close()


def wander(task: str, simulation: Simulation, random: np.random.Generator) -> Iterator[None]:
    """An episode: comes back at each state of which a picture is to be taken.

    Seven of ten episodes follow the task's expert, if there is one, under noise; the others act at random.
    """
    expert = (task.startswith("metaworld/") or task in available()) and random.random() < 0.7
    begin = int(random.integers(3 * STRIDE))
    action = np.zeros(simulation.actions, np.float32)
    for _ in range(begin):
        action, _ = _act(simulation, expert, action, random)
    for _ in range(EPISODE):
        yield
        for _ in range(STRIDE):
            action, ended = _act(simulation, expert, action, random)
            if ended:
                simulation.reset(random)


def _act(simulation: Simulation, expert: bool, last: Vector, random: np.random.Generator) -> tuple[Vector, bool]:
    """One control step: the action that was taken, and whether the episode has ended."""
    noise = random.normal(0.0, 1.0, simulation.actions)
    meant = simulation.expert_action() if expert else PERSISTENCE * last
    action: Vector = (meant + (EXPERT_NOISE if expert else (1 - PERSISTENCE**2) ** 0.5) * noise).astype(np.float32)
    _, ended = simulation.step(action.clip(-1, 1))
    return action, ended


class _Look:
    """Colours and lights of a model, changed at random around what they were."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._arrays = {
            name: (getattr(model, name), np.array(getattr(model, name))) for name in ("geom_rgba", "mat_rgba")
        }
        self._lights = {
            name: (getattr(model, name), np.array(getattr(model, name))) for name in ("light_diffuse", "light_pos")
        }
        self._headlight = model.vis.headlight
        self._ambient, self._diffuse = self._headlight.ambient.copy(), self._headlight.diffuse.copy()

    def change(self, random: np.random.Generator) -> None:
        """Draw them anew; in one of four episodes everything looks as the simulator's authors meant it."""
        strength = 0.0 if random.random() < 0.25 else random.uniform(0.0, 1.0)
        for array, original in self._arrays.values():
            tint = random.uniform(0.2, 1.5, (len(original), 3))
            other = random.uniform(0.0, 1.0, (len(original), 3))
            swapped = random.random((len(original), 1)) < 0.3
            colour = np.where(swapped, other, original[:, :3] * tint)
            array[:, :3] = (original[:, :3] + strength * (colour - original[:, :3])).clip(0, 1)
        diffuse, original = self._lights["light_diffuse"]
        diffuse[:] = original * (1 + strength * random.uniform(-0.7, 0.4, (len(original), 1)))
        place, original = self._lights["light_pos"]
        place[:] = original + strength * random.normal(0.0, 0.5, original.shape)
        self._headlight.ambient[:] = self._ambient * (1 + strength * random.uniform(-0.5, 1.5))
        self._headlight.diffuse[:] = self._diffuse * (1 + strength * random.uniform(-0.5, 0.5))


def _aim(task: str, simulation: Simulation, random: np.random.Generator) -> Camera:
    """The task's own camera, sometimes closer, or a free view around what moves."""
    name = find_task(task).camera
    if random.random() < 0.4:
        crop = simulation.crop * (1.0 if random.random() < 0.5 else random.uniform(0.6, 1.0))
        return own_camera(simulation, name, crop)
    view = _own_view(simulation, name)
    near = float(random.uniform(0.7, 1.8)) * view.distance
    x, y, z = np.asarray(view.lookat) + random.normal(0.0, 0.08 * view.distance, 3)
    return Camera(
        View(
            (float(x), float(y), float(z)),
            near,
            view.azimuth + float(random.uniform(-60, 60)),
            float(np.clip(view.elevation + random.uniform(-35, 35), -89, -3)),
        ),
        simulation.crop,
    )


def own_camera(simulation: Simulation, name: str, crop: float) -> Camera:
    """The camera of this name, as `make` finds it."""
    if name in simulation.cameras:
        return find_camera(simulation.model, simulation.cameras[name], crop)
    return Camera(int(name), crop) if name.isdigit() else find_camera(simulation.model, name, crop)


def _own_view(simulation: Simulation, name: str) -> View:
    """The free view that sees about what the task's own camera sees."""
    camera = own_camera(simulation, name, 1.0).place
    if isinstance(camera, View):
        return camera
    model, data = simulation.model, simulation.data
    moving = model.body_weldid > 0
    target = data.xpos[moving].mean(0) if moving.any() else np.asarray(model.stat.center)
    place, forward = data.cam_xpos[camera], -data.cam_xmat[camera].reshape(3, 3)[:, 2]
    distance = max(float((target - place) @ forward), 0.2)
    lens = np.tan(np.radians(model.cam_fovy[camera] / 2)) / np.tan(np.radians(model.vis.global_.fovy / 2))
    x, y, z = place + distance * forward
    return View(
        (float(x), float(y), float(z)),
        distance * float(lens),
        float(np.degrees(np.arctan2(forward[1], forward[0]))),
        float(np.degrees(np.arcsin(np.clip(forward[2], -1, 1)))),
    )
