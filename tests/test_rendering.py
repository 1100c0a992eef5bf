from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

from robovision.envs.rendering import CROP, PRESETS, Renderer, View, find_camera  # first: it chooses the backend

# isort: split
import gymnasium
import mujoco
import numpy as np
import pytest

from robovision.envs import make
from robovision.envs.meshes import coarsened, simplify
from robovision.errors import UsageError
from tests.helpers import python

SCENE = """
<mujoco>
  <visual><map znear="0.01" zfar="20"/><quality shadowsize="512"/></visual>
  <statistic extent="1"/>
  <asset>
    <texture name="check" type="2d" builtin="checker" rgb1="0.2 0.3 0.4" rgb2="0.8 0.7 0.6" width="64" height="64"/>
    <material name="check" texture="check" texrepeat="8 8" texuniform="true"/>
  </asset>
  <worldbody>
    <light pos="0 0 4" dir="0 0 -1"/>
    <geom name="floor" type="plane" size="2 2 0.1" material="check"/>
    <geom name="plate" type="box" pos="0.5 0.3 0.499" size="0.25 0.2 0.001" rgba="1 0 0 1"/>
    <camera name="above" pos="0 0 3" xyaxes="1 0 0 0 1 0" fovy="60"/>
  </worldbody>
</mujoco>
"""


@pytest.fixture(scope="module")
def scene() -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def test_depth_and_segmentation_of_a_known_scene(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = scene
    camera = find_camera(model, "above")
    renderer = Renderer(model, 64, "exact")
    depth, (ids, types) = renderer.depth(data, camera), renderer.segmentation(data, camera)
    renderer.close()
    assert depth.shape == (1, 64, 64)
    focal = 32 / np.tan(np.radians(60) / 2)
    right = (np.arange(64) + 0.5 - 32) / focal
    x, y = 2.5 * right[None, :], -2.5 * right[:, None]  # where each pixel meets the plate's height, metres
    on_plate = (np.abs(x - 0.5) < 0.25) & (np.abs(y - 0.3) < 0.2)
    assert np.array_equal(ids, np.where(on_plate, model.geom("plate").id, model.geom("floor").id))
    assert np.all(types == int(mujoco.mjtObj.mjOBJ_GEOM))
    np.testing.assert_allclose(depth[0], np.where(on_plate, 2.5, 3.0), rtol=1e-4)


def test_a_narrow_view_is_the_middle_of_the_wide_one(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = scene
    wide, narrow = Renderer(model, 256, "exact"), Renderer(model, 224, "exact")
    for place in ("above", View((0.2, 0, 0), 2.0, 30.0, -40.0)):
        full, middle = find_camera(model, place), find_camera(model, place, CROP)
        cut = wide.pixels(data, full)[:, 16:-16, 16:-16].astype(float)
        difference = np.abs(cut - narrow.pixels(data, middle)).mean()
        assert difference < 0.1 * np.abs(cut - np.roll(cut, 2, axis=2)).mean()
        depth = wide.depth(data, full)[:, 16:-16, 16:-16]
        np.testing.assert_allclose(narrow.depth(data, middle), depth, rtol=1e-4)
    wide.close()
    narrow.close()


def test_rendering_after_close_is_refused(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = scene
    renderer = Renderer(model, 16, "fastest")
    renderer.close()
    renderer.close()
    with pytest.raises(UsageError, match="this renderer is closed"):
        renderer.pixels(data, find_camera(model, "above"))


def test_unknown_names_are_said(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, _ = scene
    with pytest.raises(UsageError, match="unknown camera 'abov'; nearest: above"):
        find_camera(model, "abov")
    with pytest.raises(UsageError, match="unknown preset 'fastes'; nearest: fastest, fast"):
        Renderer(model, 16, "fastes")


def own_metaworld(size: int) -> Any:
    import metaworld  # noqa: F401  (registers its environments)

    return gymnasium.make(
        "Meta-World/MT1", env_name="drawer-open-v3", render_mode="rgb_array", camera_name="corner3",
        width=size, height=size,
    )  # fmt: skip


def own_adroit(size: int) -> Any:
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    return gymnasium.make(
        "AdroitHandPen-v1", render_mode="rgb_array", camera_name="vil_camera", width=size, height=size
    )


def own_mujoco(size: int) -> Any:
    return gymnasium.make("HalfCheetah-v5", render_mode="rgb_array", camera_name="track", width=size, height=size)


def draw(model: Any, data: Any, camera: str, expected: Any, rangefinders: bool) -> dict[str, Any]:
    """What each preset draws; `fast` and `fastest` are near what is expected, and the model is left alone."""
    before = (model.vis.global_.offwidth, model.vis.quality.shadowsize, model.mesh_facenum.copy())
    images = {}
    for preset in PRESETS:
        renderer = Renderer(model, expected.shape[1], preset, rangefinders=rangefinders)
        images[preset] = renderer.pixels(data, find_camera(model, camera))
        renderer.close()
    assert 0 < np.abs(images["fast"].astype(float) - expected).mean() < 3
    assert 0 < np.abs(images["fastest"].astype(float) - expected).mean() < 20
    after = (model.vis.global_.offwidth, model.vis.quality.shadowsize, model.mesh_facenum)
    assert before[:2] == after[:2]
    assert np.array_equal(before[2], after[2])
    return images


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "camera"), [(own_metaworld, "corner3"), (own_adroit, "vil_camera"), (own_mujoco, "track")]
)
def test_exact_is_gymnasiums_own_image(make: Any, camera: str) -> None:
    env = make(224)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    before = env.render().transpose(2, 0, 1)
    images = draw(env.unwrapped.model, env.unwrapped.data, camera, before, True)
    assert np.array_equal(images["exact"], before)
    assert np.array_equal(env.render().transpose(2, 0, 1), before)  # ours disturbs no other renderer
    env.close()


@pytest.mark.parametrize(("domain", "task", "camera"), [("cheetah", "run", "side"), ("finger", "spin", "cam0")])
def test_exact_is_dm_controls_own_image(domain: str, task: str, camera: str) -> None:
    from dm_control import suite

    env = suite.load(domain, task, task_kwargs={"random": 0})
    env.reset()
    physics = env.physics
    before = physics.render(224, 224, camera_id=camera).transpose(2, 0, 1).copy()
    images = draw(physics.model.ptr, physics.data.ptr, camera, before, False)
    assert np.array_equal(images["exact"], before)
    assert np.array_equal(physics.render(224, 224, camera_id=camera).transpose(2, 0, 1), before)
    physics.free()


def test_a_free_view_sees_a_point_where_geometry_puts_it() -> None:
    """A pinhole by hand: pixel = centre + focal * (right, down) / forward."""
    view, point, size = View((0.1, 0.2, 0.3), 2.0, 30.0, -40.0), np.array([0.3, 0.1, 0.5]), 200
    model = mujoco.MjModel.from_xml_string(
        f"<mujoco><worldbody><geom size='.01' pos='{point[0]} {point[1]} {point[2]}'/></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    azimuth, elevation = math.radians(view.azimuth), math.radians(view.elevation)
    forward = np.array(
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    )
    right = np.array([math.sin(azimuth), -math.cos(azimuth), 0.0])
    ray = point - (np.array(view.lookat) - view.distance * forward)
    for crop in (1.0, CROP):
        focal = size / 2 / (crop * math.tan(math.radians(model.vis.global_.fovy) / 2))
        expected = size / 2 + focal * np.array([ray @ right, ray @ np.cross(forward, right)]) / (ray @ forward)
        renderer = Renderer(model, size, "fastest")
        ids, _ = renderer.segmentation(data, find_camera(model, view, crop))
        renderer.close()
        rows, columns = np.nonzero(ids == 0)
        np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], expected, atol=0.5)


def test_a_picture_may_be_larger_than_the_models_buffer(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = scene
    renderer = Renderer(model, 700, "fastest")
    image = renderer.pixels(data, find_camera(model, "above"))
    renderer.close()
    assert image.shape == (3, 700, 700)
    assert image[:, -1].any()


def test_renderers_work_in_threads(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = scene
    camera = find_camera(model, "above")
    renderers = [Renderer(model, 48, "exact") for _ in range(3)]
    images: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i: images.update({i: renderers[i].pixels(data, camera)})) for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = [renderer.pixels(data, camera) for renderer in renderers]
    for renderer in renderers:
        renderer.close()
    assert all(np.array_equal(images[i], again[0]) and np.array_equal(images[i], again[i]) for i in range(3))


def test_another_renderers_context_may_go_while_ours_is_current(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    from dm_control import suite

    model, data = scene
    renderer = Renderer(model, 16, "fast")
    physics = suite.load("cheetah", "run").physics
    physics.render(16, 16, camera_id=0)  # leaves its context current
    with renderer._context.current():
        physics.free()
    assert renderer.pixels(data, find_camera(model, "above")).any()
    renderer.close()


def test_ending_without_close_is_silent(tmp_path: Path) -> None:
    code = """
from dm_control import suite
from robovision.envs.rendering import Renderer, find_camera
physics = suite.load("cheetah", "run").physics
physics.render(32, 32, camera_id=0)
kept = Renderer(physics.model.ptr, 32, "fast")
kept.pixels(physics.data.ptr, find_camera(physics.model.ptr, "side"))
Renderer(physics.model.ptr, 32, "exact")
"""
    control_suite_last = """
from robovision.envs import make
env = make("mujoco/half-cheetah", size=32)
env.reset(seed=0)
make("dmc/cheetah-run", observe=("proprioception",))
"""
    for script in (code, control_suite_last):
        ended = python(script, tmp_path, Path(__file__).parents[1])
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def ball(rings: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """A unit ball's vertices and triangles, with a flat cut below z = -0.5."""
    grid = np.stack(np.meshgrid(np.arange(rings), np.arange(2 * rings), indexing="ij"), -1).reshape(-1, 2)
    polar, around = np.pi * (grid[:, 0] + 0.5) / rings, np.pi * grid[:, 1] / rings
    vertices = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], 1)
    vertices[:, 2] = np.maximum(vertices[:, 2], -0.5)
    index = np.arange(len(vertices)).reshape(rings, 2 * rings)
    a, b, c, d = index[:-1], np.roll(index, -1, 1)[:-1], index[1:], np.roll(index, -1, 1)[1:]
    return vertices, np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])


def test_simplified_surfaces_stay_within_tolerance() -> None:
    vertices, faces = ball()
    fewer = simplify(vertices, faces, np.full(len(vertices), 0.05))
    assert 10 < len(fewer) < 0.8 * len(faces)
    corners = vertices[fewer]
    middle = corners.mean(1)
    curved = middle[:, 2] > -0.45
    assert np.abs(np.linalg.norm(middle[curved], axis=1) - 1).max() < 0.1
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((outward * middle).sum(1) >= 0).all()
    lossless = simplify(vertices, faces, np.full(len(vertices), 1e-9))
    assert len(lossless) < len(faces)  # the flat cut needs few
    assert area(vertices, lossless) == pytest.approx(area(vertices, faces))


def area(vertices: np.ndarray, faces: np.ndarray) -> float:
    corners = vertices[faces]
    sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(np.linalg.norm(sides, axis=1).sum() / 2)


def test_coarser_meshes_leave_the_model_and_hidden_ones_alone() -> None:
    vertices, faces = ball()
    text = " ".join(map(str, vertices.ravel())), " ".join(map(str, faces.ravel()))
    model = mujoco.MjModel.from_xml_string(f"""
      <mujoco>
        <asset>
          <mesh name="seen" vertex="{text[0]}" face="{text[1]}"/>
          <mesh name="hidden" vertex="{text[0]}" face="{text[1]}"/>
        </asset>
        <worldbody>
          <geom type="mesh" mesh="seen"/><geom type="mesh" mesh="hidden" group="4"/>
        </worldbody>
      </mujoco>""")
    before = model.mesh_face.copy()
    coarse = coarsened(model, (0, 1, 2))
    assert coarse.mesh_facenum[0] < model.mesh_facenum[0]
    assert coarse.mesh_facenum[1] == model.mesh_facenum[1]
    assert np.array_equal(model.mesh_face, before)
    assert np.array_equal(coarse.mesh_vert, model.mesh_vert)


def test_a_floor_of_wide_squares_keeps_all_of_its_light_and_mirrors() -> None:
    env = make("mujoco/ant", observe=("pixels",), preset="fast")
    env.reset(seed=0)
    for _ in range(10):
        env.step(np.full(8, 0.2, np.float32))
    simulation = env._simulation
    bright = env.step(np.full(8, 0.2, np.float32))[0]["pixels"]
    exact = Renderer(simulation.model, 224, "exact")
    camera = find_camera(simulation.model, "track")
    true = exact.pixels(simulation.data, camera)
    horizon = slice(120, 140), slice(30, 60)  # left of the body, where a triangle of the floor once went dark
    assert np.abs(bright[:, *horizon].astype(int) - true[:, *horizon]).mean() < 5
    assert np.abs(bright.astype(int) - true).mean() < 1  # 1.9 without what the floor mirrors
    exact.close()
    env.close()
