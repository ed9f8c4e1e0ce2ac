"""Bad numbers: found in the iteration in which they appear, named, dealt with as --on-nonfinite says, and never
saved."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import build, config, data, envs, normalize
from rlx.agents import sac
from rlx.commands import main as cli
from rlx.envs.base import advance, begin, vectorise
from rlx.errors import RlxError
from rlx.rollout import derive
from rlx.runs import checkpoint, metrics
from rlx.train import loop as host
from rlx.train import nonfinite
from rlx.train.nonfinite import Alarm
from rlx.train.task import CRITIC
from rlx.types import Agent, EnvState, Key, Spec, Step
from tests import damage

pytestmark = pytest.mark.usefixtures("reuse_programs")

FAULT = 30  # the step of an episode in which something breaks: of four environments the run's steps 116 to 120
SETTINGS = (
    "--env stub:brittle --num-envs 4 --total-env-steps 240 --warmup-env-steps 40 --log-every 40 --eval-every 240"
    " --checkpoint-every 40 --eval-episodes 2 --ratio 1:1 --batch-size 8 --replay-capacity 400 --pool-size 4"
    " --actor-hidden-sizes 4 --critic-hidden-sizes 4 --no-normalize-observations --quiet"
)


class Brittle(NamedTuple):
    """Observes the time and noise, never ends before its time limit; breaks at the step FAULT of every episode."""

    observation: float = 0.0  # what breaks: added to the observation, the reward
    reward: float = 0.0
    start: float = 0.0

    @property
    def spec(self) -> Spec:
        return Spec(jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32), 50)

    def reset(self, key: Key) -> EnvState:
        x = jnp.stack([jnp.zeros(()), jax.random.normal(key)])
        return begin(x, x + self.start)

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        time = state.time + 1
        x = jnp.stack([time / 50.0, jax.random.normal(key)])
        now = time == FAULT
        seen = x + jnp.where(now, self.observation, 0.0)
        return advance(state, x, seen, x[1] - action[0] ** 2 + jnp.where(now, self.reward, 0.0), jnp.bool_(False), 50)


FAULTS: dict[str, Any] = {}  # `env`, a Brittle, and the name of what `breaks` in the agent


def now(read: Callable[[], Any]) -> jax.Array:
    """Numbers that are read when the program runs, so that one program serves all faults."""
    return jax.pure_callback(lambda: np.float32(read()), jax.ShapeDtypeStruct(np.shape(read()), jnp.float32))


class Switched(NamedTuple):
    """The Brittle that `FAULTS` holds while the program runs."""

    spec: Spec = Brittle().spec

    def reset(self, key: Key) -> EnvState:
        return Brittle(*now(lambda: FAULTS["env"])).reset(key)

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        return Brittle(*now(lambda: FAULTS["env"])).step(state, action, key)


def breaks(name: str) -> jax.Array:
    return now(lambda: FAULTS["breaks"] == name) > 0


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`rlx train` in an environment, perhaps with an agent that breaks, into the folder `run`."""
    monkeypatch.setattr(envs, "make", lambda *arguments: Switched())
    monkeypatch.setattr(sac, "make", make)
    monkeypatch.setattr(nonfinite, "ENOUGH", 40)

    def train(env: Brittle, *more: str, broken: str = "") -> int:
        FAULTS.update(env=env, breaks=broken)
        where = ["--run-dir", str(tmp_path), "--run-name", "run"]
        return cli.main(["train", "sac", *SETTINGS.split(), *where, *more])

    return train


def bad_action(agent: Agent) -> Agent:
    """Acts with NaN in one environment of the four, when the episode's time is that before FAULT."""

    def act(policy: Any, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        action, extras = agent.act(policy, observation, key)
        hurt = (observation[:, :1] * 50 > FAULT - 1.5) & (jnp.arange(4)[:, None] == 2)
        return jnp.where(breaks("action") & hurt, jnp.nan, action), extras

    return agent._replace(act=act)


def bad_gradient(agent: Agent) -> Agent:
    """The gradient of the critics' only update in the iteration that ends at step 120 is NaN in one number."""
    its_key = derive(jax.random.key(0), CRITIC, FAULT - 1, 0, 0, 0, 0)

    def update_critic(critic: Any, policy: Any, batch: Any, key: Key) -> tuple[Any, Any]:
        new, metrics = agent.update_critic(critic, policy, batch, key)
        hit = breaks("gradient") & (jax.random.key_data(key) == jax.random.key_data(its_key)).all()

        def hurt(path: Any, x: jax.Array) -> jax.Array:
            touched = any(word in jax.tree_util.keystr(path) for word in (".mu", ".params", ".target_params"))
            return x.at[(0,) * x.ndim].add(jnp.where(hit, jnp.nan, 0.0)) if touched else x

        return jax.tree_util.tree_map_with_path(hurt, new), metrics

    return agent._replace(update_critic=update_critic)


plain_make = sac.make


def make(*arguments: Any) -> Agent:
    return bad_gradient(bad_action(plain_make(*arguments)))


def reported(folder: Path) -> dict[int, Any]:
    """What the lines of metrics tell of bad numbers, by their run_step."""
    return {m["run_step"]: m["nonfinite"] for m in metrics.read(folder / "metrics.jsonl") if "nonfinite" in m}


def assert_all_saved_is_finite(folder: Path) -> None:
    assert checkpoint.steps(folder / "resume")
    for place in ("resume", "checkpoints"):
        for step in checkpoint.steps(folder / place):
            for name, leaf in damage.leaves(folder / place, step).items():
                if np.issubdtype(np.asarray(leaf).dtype, np.floating):
                    assert np.isfinite(leaf).all(), f"{place}/{step}: {name}"


RESET = "nothing bad was saved. To go on, restart such environments by --on-nonfinite reset-env"
LOWER = "nothing bad was saved. To go on, lower the learning rate"
SKIP = "leave such updates out by --on-nonfinite skip"
NAN, INF, HUGE = float("nan"), float("inf"), 1e12  # what diverging physics passes through before it overflows
OUTCOMES: list[tuple[str, Brittle, str, Any]] = [  # policy, environment, agent; what is said, or told by metrics.jsonl
    ("stop", Brittle(observation=NAN), "", f"observation, of 4 environments; {RESET}"),
    ("stop", Brittle(), "action", f"action, of 1 environment; {LOWER}"),
    ("reset-env", Brittle(), "gradient", f"critic gradients, of 1 update; {LOWER}, or {SKIP}"),
    ("skip", Brittle(), "action", f"action, of 1 environment; {LOWER}"),
    ("reset-env", Brittle(observation=NAN), "", {"observation"}),
    ("reset-env", Brittle(observation=-HUGE), "", {"observation"}),
    ("skip", Brittle(observation=INF, reward=NAN), "gradient", {"observation", "reward", "critic gradients"}),
]


@pytest.mark.parametrize(("policy", "env", "broken", "outcome"), OUTCOMES, ids=range(len(OUTCOMES)))
def test_the_run_ends_or_goes_on(
    policy: str, env: Brittle, broken: str, outcome: Any, train: Callable[..., int], tmp_path: Path, capsys: Any
) -> None:
    """It ends with the step and the quantity's name; or environments start anew and bad updates are left out. All that
    is saved is finite."""
    code = train(env, "--on-nonfinite", policy, broken=broken)
    assert_all_saved_is_finite(tmp_path / "run")
    if isinstance(outcome, str):
        error = capsys.readouterr().err
        assert error.startswith("rlx: step 120: ") and error.endswith(f" in {outcome}\n") and error.count("\n") == 1
        assert code == 2 and json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
        assert checkpoint.steps(tmp_path / "run" / "resume")[-1] == 80
        return
    result = reported(tmp_path / "run")
    assert code == 0 and list(result) == [120, 240]  # after its reset, each breaks again 30 steps later
    assert set(result[120]) >= outcome and set(result[240]) == outcome - {"critic gradients"}
    assert result[120]["observation"] == {"run_step": 120, "number": 4}
    last = metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]
    assert np.isfinite(last["train/critic_loss"]).all() and last["critic_step"] == 50


@pytest.mark.parametrize("policy", ["stop", "reset-env"])
def test_outliers_are_named_once(policy: str, train: Callable, tmp_path: Path, capsys: Any) -> None:
    """And finite ones leave the statistics alone."""
    assert train(Brittle(observation=1e6), "--on-nonfinite", policy) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "step 124: the physics seems to diverge" in line and "lower --max-magnitude (now 1e+10)" in line
    assert ("--on-nonfinite reset-env" in line) == (policy == "stop")
    assert [result["observation outliers"]["number"] for result in reported(tmp_path / "run").values()] == [4]
    saved = damage.leaves(tmp_path / "run" / "checkpoints")
    assert saved["['statistics'].variance"].max() < 2 and saved["['statistics'].far"].max() > 0


def test_a_run_that_ended_goes_on_under_another_policy(train: Callable[..., int], tmp_path: Path, capsys: Any) -> None:
    assert train(Brittle(reward=INF)) == 2
    assert f"reward, of 4 environments; {RESET}" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(tmp_path / "run"), "--quiet", "--on-nonfinite", "reset-env"]) == 0
    assert "on_nonfinite stop is now reset-env" in capsys.readouterr().err
    assert reported(tmp_path / "run") == {step: {"reward": {"run_step": step, "number": 4}} for step in (120, 240)}
    assert_all_saved_is_finite(tmp_path / "run")


def test_a_diverged_step() -> None:
    """Is a truncation at the last finite observation, with no reward, and the environment starts a new episode."""
    keys = jax.random.split(jax.random.key(0), 3)
    env = vectorise(Brittle(observation=NAN, reward=INF), 3, 4, truncate_nonfinite=True)
    pool = jax.jit(env.make_pool)(jax.random.key(1))
    state, take = jax.jit(env.init)(pool, keys), jax.jit(env.step)
    before = state.env.observation
    for i in range(FAULT):
        before = state.env.observation
        state, step = take(state, np.zeros((3, 1), np.float32), pool, jax.random.split(jax.random.key(2 + i), 3))
        assert bool(step.truncated.all()) == (i == FAULT - 1)
    np.testing.assert_array_equal(step.next_observation, before)
    np.testing.assert_array_equal(step.reward, 0)
    np.testing.assert_array_equal(step.observation[:, 0], 0)  # of the new episode
    np.testing.assert_array_equal(state.env.time, 0)
    assert not step.terminated.any() and step.metrics["bad_observation"].all() and step.metrics["bad_reward"].all()
    assert np.isfinite(step.metrics["episode_return"]).all()


def test_a_bad_start_is_named_and_not_the_action_that_follows(train: Callable[..., int], capsys: Any) -> None:
    assert train(Brittle(start=NAN), "--on-nonfinite", "stop") == 2
    error = capsys.readouterr().err
    assert "step 4: " in error and "in reset observation, of 4 environments" in error
    assert "pass over such starts" in error and "mend" in host._remedy("reset observation", "skip")


def test_bad_starts_are_passed_over() -> None:
    """With truncation the next good row of the pool is taken, and counted; without, it is named when it is acted on."""
    keys = jax.random.split(jax.random.key(0), 64)
    starts = np.float32([[0.0, 1.0], [0.0, np.inf], [0.0, 1e11], [0.0, 4.0]])
    for truncate in (True, False):
        env = vectorise(Brittle(), 64, 4, truncate_nonfinite=truncate)
        pool = jax.jit(env.make_pool)(jax.random.key(1)).replace(observation=starts, time=np.zeros(4, np.int32))
        state, take = jax.device_get(jax.jit(env.init)(pool, keys)), jax.jit(env.step)
        first = state.env.observation[:, 1]
        assert set(np.unique(first).tolist()) == ({1.0, 4.0} if truncate else {1.0, 4.0, INF, float(np.float32(1e11))})
        state = state.replace(env=state.env.replace(time=np.full(64, 49, np.int32)))  # the time limit is one step away
        state, step = jax.device_get(take(state, np.zeros((64, 1), np.float32), pool, keys))
        assert (step.truncated.all() and 0 < step.metrics["bad_observation"].sum() < 64) or not truncate
        bad = np.abs(step.observation[:, 1]) > 1e10
        _, step = jax.device_get(take(state, np.zeros((64, 1), np.float32), pool, keys))
        np.testing.assert_array_equal(step.metrics["bad_reset"], bad)
        assert bad.any() != truncate


def test_statistics_are_watched() -> None:
    """They name themselves, before the losses that follow from them."""
    good = normalize.init(2).replace(count=jnp.float32(1000))
    bad, seen = good.replace(variance=jnp.array([1.0, jnp.inf])), jnp.array([[[0.0, 299.0], [-301.0, 301.0]]] * 3)
    for after, number in ((good, 0), (bad, 1)):
        alarms = nonfinite.watch_statistics(good, after, seen, ())
        assert alarms == {"observation outliers": 3, "observation statistics": number}
    assert not any(handles("observation statistics") for handles in host.HANDLED.values())
    assert host._place("observation statistics") < host._place("critic_loss")
    with pytest.raises(RlxError, match="--max-magnitude 1e\\+19"):
        config.resolve("sac", "gymnax:Pendulum-v1", max_magnitude=1e19)


def write(folder: Path, field: str, value: float) -> Path:
    rng, rows = np.random.default_rng(0), 60
    arrays: dict[str, np.ndarray] = {"reward": rng.normal(size=rows), "action": rng.uniform(-1, 1, size=(rows, 1))}
    arrays |= {name: rng.normal(size=(rows, 2)) for name in ("observation", "next_observation")}
    arrays[field][17] = value
    last = np.arange(rows) % 20 == 19
    data.write(data.make_dataset({"name": "brittle"}, **arrays, terminated=0 * last > 0, truncated=last), folder)
    return folder


@pytest.mark.parametrize(
    ("field", "value"), [("observation", NAN), ("observation", HUGE), ("action", NAN), ("reward", -INF)]
)
def test_a_data_set(field: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused before anything is learnt, naming the row; `skip` leaves its rows out and says so."""
    monkeypatch.setattr(envs, "make", lambda *arguments: Brittle())
    folder = write(tmp_path / "set", field, value)

    def setup(policy: str) -> build.Setup:
        settings = {"dataset": str(folder), "offline_steps": 10, "on_nonfinite": policy, "batch_size": 8}
        return build.setup(config.resolve("iql", "brittle", **settings))

    for policy in ("stop", "reset-env"):
        with pytest.raises(RlxError, match=f"{field} is not a finite number, .* in 1 rows, first in row 17;"):
            setup(policy)
    run_setup = setup("skip")
    assert run_setup.data is not None and run_setup.data.size == 59
    assert np.isfinite(getattr(run_setup.data.rows, field)).all()
    assert run_setup.notes[0] == f"{folder}: left out 1 rows with numbers that are not finite"


def test_alarms_keep_the_first_iteration_and_count_all() -> None:
    first = nonfinite.sound({"reward": jnp.float32(0), "action": jnp.float32(2)}, jnp.int32(5))
    second = nonfinite.sound({"reward": jnp.float32(3), "action": jnp.float32(1)}, jnp.int32(6))
    both = nonfinite.add(nonfinite.add(nonfinite.zeros_like(first), first), second)
    assert jax.tree.map(int, both) == {"reward": Alarm(6, 3), "action": Alarm(5, 3)}


def test_packed_reports_add_up_to_the_same() -> None:
    def report(number: float, bad: int, iteration: int) -> dict[str, Any]:
        sounded = nonfinite.sound({"reward": jnp.float32(bad), "action": jnp.float32(0)}, jnp.int32(iteration))
        counted = jnp.int32(2**24 + iteration)  # more digits than a float32 has
        rest = {"lags": jnp.arange(4) * number, "nan": jnp.float32(jnp.nan), "mean": number / 3}
        return rest | {"alarms": sounded, "counted": counted}

    reports = [jax.tree.map(jnp.asarray, report(*given)) for given in ((1, 0, 3), (2, 5, 4))]
    packed = nonfinite.add_packed(*map(nonfinite.pack, reports))
    assert len(packed) == 3  # first iterations, float32, int32
    chex.assert_trees_all_equal(nonfinite.unpack(packed, reports[0]), nonfinite.add(*reports), strict=True)


def test_watched_updates() -> None:
    """What is bad is told by name; with `skip` the half stays as it was, without it becomes bad."""

    def update(half: dict[str, jax.Array], gradient: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        return {"params": half["params"] - gradient}, {"loss": gradient.sum()}

    half = {"params": jnp.ones(3)}
    for gradient, bad in (([1.0, 2.0, 3.0], 0.0), ([1.0, np.nan, 0.0], 1.0), ([np.inf, 0.0, 0.0], 1.0)):
        for skip in (False, True):
            new, learned = jax.jit(nonfinite.watched("critic", update, skip))(half, jnp.asarray(gradient))
            assert learned.bad["loss"] == bad
            expected = np.ones(3) if bad and skip else 1 - np.asarray(gradient)
            np.testing.assert_array_equal(new["params"], expected)
            alarms = learned.inspected("critic", new).bad["critic parameters"]
            assert alarms == bad  # with `skip` what would have become of it, without what it became


def test_causes_come_before_consequences() -> None:
    """Within an iteration the environment's quantities are named first: bad losses follow from them."""
    names = ["actor gradients", "actor_loss", "critic gradients", "critic_loss", "entropy", "observation", "reward"]
    seen = {name: Alarm(np.asarray([7, 4 if name == "entropy" else 7]), np.ones(2)) for name in names}
    seen["action"] = Alarm(np.asarray([host.NEVER] * 2), np.zeros(2))

    plan = SimpleNamespace(run_step=lambda iteration: 10 * iteration)
    driver: Any = SimpleNamespace(task=SimpleNamespace(plan=plan))
    result = host.bad_numbers(driver, SimpleNamespace(alarms=seen))
    order = ["entropy", "observation", "reward", "critic_loss", "critic gradients", "actor_loss", "actor gradients"]
    assert list(result) == order and result["entropy"] == (50, 2) and result["reward"] == (80, 2)
