"""What libraries on MuJoCo share: how a model looks, for viewers, and quiet while one is read."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mujoco

_LENGTHS = {"plane": 2, "sphere": 1, "capsule": 2, "ellipsoid": 3, "cylinder": 2, "box": 3}  # of a geom's size
_UNSET = (0.5, 0.5, 0.5, 1.0)  # MuJoCo's default colour, which a material replaces


def scene(model: mujoco.MjModel, dt: float) -> dict[str, Any]:
    """The visible geoms of simple shapes, see `rlx.envs.base.Renderable`; link i is MuJoCo's body i + 1."""
    shapes = [_shape(model, i) for i in range(model.ngeom)]
    shown = [i for i, shape in enumerate(shapes) if shape in _LENGTHS and _color(model, i)[3] > 0]
    return {"dt": dt, "geoms": [_geom(model, i, shapes[i]) for i in shown]}


def _shape(model: mujoco.MjModel, i: int) -> str:
    import mujoco

    return mujoco.mjtGeom(model.geom_type[i]).name.removeprefix("mjGEOM_").lower()


def _geom(model: mujoco.MjModel, i: int, shape: str) -> dict[str, Any]:
    return {
        "shape": shape,
        "size": model.geom_size[i, : _LENGTHS[shape]].tolist(),
        "link": int(model.geom_bodyid[i]) - 1,
        "position": model.geom_pos[i].tolist(),
        "rotation": model.geom_quat[i].tolist(),
        "color": _color(model, i)[:3],
    }


def _color(model: mujoco.MjModel, i: int) -> list[float]:
    material, rgba = model.geom_matid[i], model.geom_rgba[i]
    inherits = material >= 0 and (rgba == _UNSET).all()
    return (model.mat_rgba[material] if inherits else rgba).tolist()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Brax warns that it is no longer developed; MuJoCo leaves a log file in the working directory over an old XML."""
    import mujoco

    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda _: None)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            yield
    finally:
        mujoco.set_mju_user_warning(handler)


def interface(model: mujoco.MjModel, dt: float) -> dict[str, Any]:
    """Names and ranges of a model's actuators, and the control interval, see `rlx.export.bundle.contract`."""
    names = [model.actuator(i).name or f"actuator {i}" for i in range(model.nu)]
    ranges = zip(model.actuator_ctrlrange, model.actuator_ctrllimited, strict=True)
    limits = [ends.tolist() if limited else None for ends, limited in ranges]
    return {"action": {"names": names, "control_range": limits}, "control_dt": dt}
