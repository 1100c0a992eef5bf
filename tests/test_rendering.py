from __future__ import annotations

import mujoco
import numpy as np
import pytest

from robovision.envs.rendering import CROP, Renderer, View, find_camera
from robovision.errors import UsageError

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
