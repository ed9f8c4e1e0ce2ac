"""Environments by name: `make("brax:ant")`, `make("swingup.py:SwingUp")`, and `vectorise` for many at once.

`wrap` takes objects of other libraries, `check` finds what is wrong with one's own, and `wrappers` change any of them.
MuJoCo Playground's need its package.

The tables are static, so that names can be listed and checked without importing the libraries; the tests hold them
against the libraries.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if __name__ != "rlx.envs":
    raise ImportError(f"import rlx.envs, not {__name__}: a second copy would know nothing of the first")

from rlx import user_code
from rlx.envs import wrappers
from rlx.envs.base import Controller, Renderable, VectorEnv, VectorState, check_count, check_process, vectorise
from rlx.envs.checks import check, quick
from rlx.envs.domain import randomize
from rlx.envs.no_env import from_name
from rlx.envs.objects import make as make_own
from rlx.envs.objects import name_of, wrap
from rlx.envs.wrappers import apply as apply_wrappers
from rlx.errors import RlxError, install, nearest
from rlx.types import Env

if TYPE_CHECKING:
    from rlx.envs.gymnasium_env import GymnasiumEnv

__all__ = [
    "Controller",
    "Renderable",
    "VectorEnv",
    "VectorState",
    "check",
    "make",
    "name_of",
    "names",
    "quick",
    "randomize",
    "to_gymnasium",
    "vectorise",
    "wrap",
    "wrappers",
]

BACKENDS = ("spring", "positional", "generalized", "mjx")  # Brax's physics; the first that works is the default
BRAX = (
    "ant",
    "halfcheetah",
    "hopper",
    "humanoid",
    "humanoidstandup",
    "inverted_double_pendulum",
    "inverted_pendulum",
    "pusher",
    "reacher",
    "swimmer",
    "walker2d",
)
_OLD_CLIP = "Brax 0.14.2 calls jax.numpy.clip with an argument that jax has dropped"
_ONE_BACKEND = "Brax has it on the generalized backend alone"
BROKEN = {  # observed with Brax 0.14.2 by resetting and stepping every pair
    "brax:swimmer": {
        "spring": _ONE_BACKEND,
        "positional": _ONE_BACKEND,
        "generalized": _OLD_CLIP,
        "mjx": _ONE_BACKEND,
    }
}
GYMNAX = ("MountainCarContinuous-v0", "Pendulum-v1", "PointRobot-misc", "Reacher-misc", "Swimmer-misc")
DISCRETE = (  # actions of gymnax that are chosen from a few
    "Acrobot-v1",
    "Asterix-MinAtar",
    "Breakout-MinAtar",
    "CartPole-v1",
    "Freeway-MinAtar",
    "MountainCar-v0",
    "SpaceInvaders-MinAtar",
)
UNTRIED = (  # the rest of gymnax
    "BernoulliBandit-misc",
    "Catch-bsuite",
    "DeepSea-bsuite",
    "DiscountingChain-bsuite",
    "FourRooms-misc",
    "FrozenLake-misc",
    "GaussianBandit-misc",
    "MNISTBandit-bsuite",
    "MemoryChain-bsuite",
    "MetaMaze-misc",
    "Pong-misc",
    "Seaquest-MinAtar",
    "SimpleBandit-bsuite",
    "UmbrellaChain-bsuite",
)
CONTROL_SUITE = (  # of MuJoCo Playground 0.2.0; these bring their models with them
    *("AcrobotSwingup", "AcrobotSwingupSparse", "BallInCup", "CartpoleBalance", "CartpoleBalanceSparse"),
    *("CartpoleSwingup", "CartpoleSwingupSparse", "CheetahRun", "FingerSpin", "FingerTurnEasy", "FingerTurnHard"),
    *("FishSwim", "HopperHop", "HopperStand", "HumanoidStand", "HumanoidWalk", "HumanoidRun", "PendulumSwingup"),
    *("PointMass", "ReacherEasy", "ReacherHard", "SwimmerSwimmer6", "WalkerRun", "WalkerStand", "WalkerWalk"),
)
ROBOTS = (  # also of Playground; their models are fetched by its user
    *("ApolloJoystickFlatTerrain", "BarkourJoystick", "BerkeleyHumanoidJoystickFlatTerrain"),
    *("BerkeleyHumanoidJoystickRoughTerrain", "G1JoystickFlatTerrain", "G1JoystickRoughTerrain"),
    *("Go1JoystickFlatTerrain", "Go1JoystickRoughTerrain", "Go1Getup", "Go1Handstand", "Go1Footstand"),
    *("H1InplaceGaitTracking", "H1JoystickGaitTracking", "Op3Joystick", "SpotFlatTerrainJoystick", "SpotGetup"),
    *("SpotJoystickGaitTracking", "T1JoystickFlatTerrain", "T1JoystickRoughTerrain", "AlohaHandOver"),
    *("AlohaSinglePegInsertion", "PandaPickCube", "PandaPickCubeOrientation", "PandaPickCubeCartesian"),
    *("PandaOpenCabinet", "PandaRobotiqPushCube", "LeapCubeReorient", "LeapCubeRotateZAxis", "AeroCubeRotateZAxis"),
)


MAZES = ("umaze", "medium", "large", "giant")  # of rlx itself
FAMILIES = ("brax", "gymnax", "playground", "maze")
REGISTRIES = {  # where libraries keep names, also those that `register_environment` and `register` added
    "brax": ("brax.envs",),
    "gymnax": ("gymnax.registration",),
    "playground": tuple(
        f"mujoco_playground._src.{part}" for part in ("dm_control_suite", "locomotion", "manipulation")
    ),
}


def names() -> dict[str, tuple[str, ...]]:
    """Every environment that works, with the backends it works on (none where the library has one physics)."""
    brax = {f"brax:{name}": tuple(b for b in BACKENDS if b not in BROKEN.get(f"brax:{name}", {})) for name in BRAX}
    working = {name: backends for name, backends in brax.items() if backends} | {
        f"gymnax:{name}": () for name in (*GYMNAX, *DISCRETE)
    }
    working |= {f"maze:{name}": () for name in MAZES}
    playground = (*CONTROL_SUITE, *ROBOTS) if _has_playground() else ()
    return working | {f"playground:{name}": () for name in playground}


def _has_playground() -> bool:
    return importlib.util.find_spec("mujoco_playground") is not None


def make(
    name: str,
    backend: str | None = None,
    episode_length: int | None = None,
    wrappers: Sequence[str] = (),
    **settings: Any,
) -> Env:
    """One environment by its full name, such as "brax:ant", "gymnax:Pendulum-v1", or "swingup.py:SwingUp".

    `backend` is Brax's physics, "spring" by default; `episode_length` the time limit in steps, by default 1000 for
    Brax and the library's own for others; `settings` go to the library's environment, or to the class or function that
    makes one of the user's own. `wrappers` are applied in turn, such as "history:3" (see `rlx.envs.wrappers`). Raises
    RlxError for a name, a backend, a length, a setting or a wrapper that is unknown, broken or not supported.
    """
    check_process()
    if (no_env := from_name(str(name))) is not None:
        return no_env
    if episode_length is not None:
        check_count("episode_length", episode_length)
    if is_user_code(name):
        env = make_own(name, backend, episode_length, settings)
    else:
        env = _make_of_library(name, backend, episode_length, dict(settings))
    if settings or is_user_code(name):
        quick(env, name if is_user_code(name) else f"{name} with {settings}")
    return apply_wrappers(env, wrappers)


def is_user_code(name: str) -> bool:
    """Whether a name is of the user's code, `file.py:Name` or `package.module:Name`, and not of a library."""
    if not isinstance(name, str):
        return False
    family, colon, short = name.partition(":")
    named = bool(colon) and short.isidentifier() and all(part.isidentifier() for part in family.split("."))
    taken = family in FAMILIES or family.partition(".")[0] in sys.stdlib_module_names
    return user_code.is_file(name) or (named and not taken and user_code.is_importable(family))


def _make_of_library(name: str, backend: str | None, episode_length: int | None, settings: dict[str, Any]) -> Env:
    backends = names().get(name)
    if backends is None and _is_registered(name):
        backends = ()
        settings |= {} if backend is None else {"backend": backend}
    elif backends is None:
        raise RlxError(_why_not(name))
    elif backends:
        settings["backend"] = _backend(name, backends, backend)
    elif backend is not None:
        raise RlxError(f"{name} has one physics only: leave out the backend {backend!r}")
    family, _, short = name.partition(":")
    env: Env = importlib.import_module(f"rlx.envs.{family}_env").make(short, episode_length, settings)
    return env


def _is_registered(name: str) -> bool:
    """Whether this process has added the name to its library's registry."""
    family, _, short = str(name).partition(":")
    if name in BROKEN or short in UNTRIED:
        return False
    modules = (sys.modules.get(module) for module in REGISTRIES.get(family, ()))
    return any(short in getattr(module, attribute, ()) for module in modules for attribute in ("_envs", "_registry"))


def to_gymnasium(env: Env, seed: int | None = None) -> GymnasiumEnv:
    """The environment as a `gymnasium.Env`; `seed` is that of a first `reset` that names none (None: a random one)."""
    from rlx.envs.gymnasium_env import GymnasiumEnv

    return GymnasiumEnv(env, seed)


def _why_not(name: str) -> str:
    family, _, short = str(name).partition(":")
    if family == "gymnax" and short in UNTRIED:
        return f"{name} has not been tried with rlx; choose from {', '.join((*GYMNAX, *DISCRETE))}"
    if name in BROKEN:
        return f"{name} is broken: {'; '.join(f'{b}: {reason}' for b, reason in BROKEN[name].items())}"
    if family == "playground" and not _has_playground():
        return f"{name} needs MuJoCo Playground, which is not here; {install('playground')}"
    own = user_code.file_of(family)
    hint = f", and one of your own is named as file.py:{name}" if str(name).isidentifier() else ""
    if own:
        hint = f", and what is in your {own} is named as {own}:{short or 'Name'}"
    return f"no environment {name!r}; the nearest is {nearest(str(name), names(), cutoff=0.0)!r}{hint}"


def _backend(name: str, working: tuple[str, ...], backend: str | None) -> str:
    if backend is None:
        return working[0]
    if backend in working:
        return backend
    if backend in BACKENDS:
        raise RlxError(f"{name} is broken on {backend}: {BROKEN[name][backend]}; use {' or '.join(working)}")
    raise RlxError(
        f"no backend {backend!r}; the nearest is {nearest(backend, working, cutoff=0.0)!r} of {', '.join(working)}"
    )
