"""CDSA: corrections of a Gaussian's actions by hand, the model's loss, and policies of other runs: kept as they are,
made again from the run's own folder, and refused in one line where they do not fit."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import agents, config, diffusion
from rlx.agents import cdsa
from rlx.export import policy as export
from rlx.optim import Learner
from rlx.runs import origin, policies
from rlx.types import Spec, Transition, as_arrays
from rlx.user_files import code_of
from tests import probes
from tests.commands import Refused, Say, flags, one_line
from tests.kill_cases import write_dataset
from tests.loss_tools import BATCH, BATCHES, SPEC, normals, same, stub, two_ways
from tests.saved_runs import make_run

pytestmark = pytest.mark.usefixtures("reuse_programs")

CONTRACT = probes.Contract(
    config={"score_width": 8, "score_blocks": 1, "time_features": 4, "diffusion_steps": 5, "correction_steps": 2},
)

KEY, ENV = jax.random.key(0), "gymnax:Pendulum-v1"
# levels at which the noise deviates by 0.5 and by 1, in units of the data
SCHEDULE = diffusion.Schedule(np.float32([0.2, 0.375]), np.float32([0.8, 0.5]))
normal = normals()
SPREAD = (lambda root: root @ root.T)(normal(5, 5)) / 5  # of a Gaussian over three observed numbers and two actions


def make_nets(epsilon: Callable[..., Any], steps: int = 3, spec: Spec = SPEC) -> cdsa.Networks:
    return cdsa.Networks(stub(epsilon), SCHEDULE, spec, cdsa.Config(correction_steps=steps), axes=())


def gaussian(mean: Any, observation: Any, action: Any, time: Any) -> Any:
    """The noise in points whose data are Gaussian around `mean` with the covariance SPREAD."""
    bar = jnp.asarray(SCHEDULE.alpha_bar)[time][..., None]
    point = jnp.concatenate([observation, action], axis=-1) - jnp.sqrt(bar) * mean
    covariance = bar[..., None] * SPREAD + (1 - bar[..., None]) * jnp.eye(5)
    return jnp.sqrt(1 - bar) * jnp.linalg.solve(covariance, point[..., None])[..., 0]


def test_the_correction_of_one_number() -> None:
    """Deviation 1 of the data and of the noise: the mean near 0.8 is half-way to the data's, 0.4; so a rate of 0.5
    leaves three quarters of the way."""

    def epsilon(params: Any, observation: Any, action: Any, time: Any) -> Any:
        return jnp.concatenate([observation, jnp.sqrt(0.5) * (action - jnp.sqrt(0.5) * 0.4)], axis=-1)

    hypers = as_arrays(cdsa.Hypers(correction_rate=0.5, correction_noise=0.9))
    corrected = cdsa.correct(make_nets(epsilon, 2), cdsa.Policy(None, None, hypers), jnp.ones(3), jnp.full(2, 0.8))
    np.testing.assert_allclose(corrected, 0.4 + 0.4 * 0.75**2, rtol=1e-6)


def test_corrections_of_a_gaussian() -> None:
    """E[x | x + noise = y] = mean + C (C + noise²)⁻¹ (y - mean), in NumPy and float64, step after step; at 0 nothing
    changes, and no action leaves [-1, 1]."""
    nets, mean = make_nets(gaussian), normal(5)
    observation, action = 2 * BATCHES.observation, BATCHES.action

    def correct(mean: Any, rate: Any, noise: Any) -> Any:
        hypers = as_arrays(cdsa.Hypers(correction_rate=rate, correction_noise=noise))
        return cdsa.correct(nets, cdsa.Policy(None, mean, hypers), observation, action)

    for rate, noise, deviation in ((0.0, 0.5, 0.5), (0.3, 0.2, 0.5), (0.7, 0.6, 1.0), (1.0, 9.0, 1.0)):
        expected = action.astype(np.float64)
        for _ in range(3):
            point = np.concatenate([observation, expected], axis=-1) - mean
            near = mean + point @ np.linalg.solve(SPREAD + deviation**2 * np.eye(5), SPREAD)
            expected = np.clip(expected + rate * (near[:, 3:] - expected), -1, 1)
        for corrected in two_ways(correct, mean, rate, noise):
            np.testing.assert_allclose(corrected, expected, atol=1e-5)
            assert rate or (corrected == action).all()
    assert (abs(expected) == 1).any()


def test_the_time_of_a_noise() -> None:
    found = [int(diffusion.time_of_noise(SCHEDULE, deviation)) for deviation in (0.0, 0.49, 0.51, 0.99, 7.0)]
    assert found == [0, 0, 1, 1, 1]
    fine = diffusion.vp_schedule(100)
    time = jax.jit(jax.vmap(lambda x: diffusion.time_of_noise(fine, x)))(jnp.array([0.1, 0.25]))
    deviations = np.sqrt(1 / fine.alpha_bar - 1)
    assert (deviations[time] >= [0.1, 0.25]).all() and (deviations[time - 1] < [0.1, 0.25]).all()


@pytest.mark.usefixtures("plain_descent")
def test_score_loss() -> None:
    """Noise on observations and actions alike; the network's step is down this loss's slope."""
    nets = make_nets(lambda v, o, a, t: v * jnp.concatenate([o, a], axis=-1) * (1.0 + t[:, None]))
    time_key, noise_key = jax.random.split(KEY)
    t = np.asarray(jax.random.randint(time_key, (BATCH,), 0, 2))
    z = np.asarray(jax.random.normal(noise_key, (BATCH, 5)))
    bar, v = SCHEDULE.alpha_bar[t][:, None], np.float32(0.3)
    noisy = np.sqrt(bar) * np.concatenate([BATCHES.observation, BATCHES.action], -1) + np.sqrt(1 - bar) * z
    seen = noisy * (1.0 + t[:, None])
    error = v * seen - z

    def update(v: Any) -> Any:
        half = cdsa.ActorState.create(as_arrays(cdsa.Hypers(actor_lr=0.1)), Learner.create(v), original={"kept": v})
        half, metrics = cdsa.update_actor(nets, half, None, BATCHES, KEY)
        return metrics["score_loss"], half.learner.params, half.original["kept"], half.step

    for loss, params, kept, step in two_ways(update, v):
        np.testing.assert_allclose(loss, (error**2).sum(-1).mean(), rtol=1e-5)
        np.testing.assert_allclose(params, v - 0.1 * (2 * error * seen).sum(-1).mean(), rtol=1e-5)
        assert kept == v and step == 1


def test_only_what_policies_read_is_in_the_density() -> None:
    spec = SPEC._replace(parts={"own": (0, 2), "hidden": (2, 3)}, actor_parts=("own",))
    agent = cdsa.make(cdsa.Config(**CONTRACT.config), spec)
    policy = agent.acting_params(jax.jit(agent.init)(KEY))
    rows = jnp.asarray(BATCHES.observation)
    first, other = (agent.act_greedy(policy, rows.at[:, 2].set(x), KEY)[0] for x in (0.0, 9.0))
    np.testing.assert_array_equal(first, other)
    assert (first != agent.act_greedy(policy, rows.at[:, 0].set(9.0), KEY)[0]).any()


def test_climbing_from_the_middle_finds_a_mode() -> None:
    """Actions around 0.6 times the observation, with a deviation of 0.05."""
    agent = cdsa.make(
        cdsa.Config(score_width=32, score_blocks=1, time_features=8, diffusion_steps=10, correction_steps=30),
        probes.SPEC,
    )
    state = jax.jit(agent.init)(KEY, cdsa.Hypers(actor_lr=3e-3, correction_rate=0.5, correction_noise=0.2))
    rng = np.random.default_rng(0)
    place = rng.choice([-1.0, 1.0], (800, 128, 1)).astype(np.float32)
    action = 0.6 * place + 0.05 * rng.normal(size=place.shape).astype(np.float32)
    nothing = np.zeros(place.shape[:2], np.float32)

    @jax.jit
    def learn(state: Any) -> Any:
        def step(state: Any, i: Any) -> Any:
            rows = [jnp.asarray(x)[i] for x in (place, action, nothing, nothing, place)]
            return agent.update(state, Transition(*rows), jax.random.fold_in(KEY, i))[0], None

        return jax.lax.scan(step, state, jnp.arange(800))[0]

    learnt = learn(state)
    found, _ = agent.act_greedy(agent.acting_params(learnt), jnp.array([[-1.0], [1.0]]), KEY)
    np.testing.assert_allclose(found, [[-0.6], [0.6]], atol=0.1)
    assert learnt.critic.step == learnt.actor.step == 800


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("td3_bc", {"actor_hidden_sizes": (8,)}),
        ("fast_td3", {"actor_hidden_sizes": (8,), "critic_hidden_sizes": (8,)}),  # its exploration noise has a state
        ("qc", {"actor_hidden_sizes": (8,), "critic_hidden_sizes": (8,), "flow_steps": 2}),  # and all its acting has
        ("idql", {"score_width": 8, "score_blocks": 1, "time_features": 4, "num_samples": 2, "explore_samples": 2}),
        ("cdsa", CONTRACT.config),
    ],
)
def test_agents_whose_policy_is_corrected(name: str, settings: dict[str, Any]) -> None:
    """Rate 0 is the policy bit for bit, with its states from step to step; another is not."""
    module = agents.load(name)
    network = module.Config(**settings)
    config = cdsa.Config(**CONTRACT.config, policy=agents.to_text(name, network))
    original, agent = module.make(network, SPEC), cdsa.make(config, SPEC)
    theirs = jax.jit(original.init)(jax.random.key(1))
    state = jax.jit(lambda theirs: agent.adopts["policy"](agent.init(KEY), theirs))(theirs)
    same(state.actor.original, original.acting_params(theirs))

    kept, moved = (
        acted(agent, agent.acting_params(probes.with_hypers(state, correction_rate=jnp.float32(rate))))
        for rate in (0.0, 1.0)
    )
    plain = acted(original, original.acting_params(theirs))
    same(kept, plain)
    assert all((a != b).any() for a, b in zip(moved, plain, strict=True))


def acted(agent: Any, policy: Any) -> list[Any]:
    """Two actions that explore and two greedy ones, `[B, A]`."""
    actions = []
    for act, state in ((agent.act, agent.carry or agent.noise), (agent.act_greedy, agent.carry)):
        states = [] if state is None else [jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * BATCH), state())]
        for i in range(2):
            action, _, *states = act(policy, jnp.asarray(BATCHES.observation), jax.random.fold_in(KEY, i), *states)
            actions.append(action)
    return actions


SMALL: dict[str, Any] = {"actor_hidden_sizes": [8], "critic_hidden_sizes": [8]}
SIZES = CONTRACT.config | {"offline_steps": 8, "batch_size": 8, "pool_size": 4, "eval_episodes": 1, "num_seeds": 2}
TIMES: dict[str, Any] = {"log_every": 4, "eval_every": 4, "checkpoint_every": 4, "keep": 9}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "pendulum", env=ENV)


OWN = "from rlx.agents.bc import Config, Hypers, make\n"  # an agent in a file of the user's


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("td3_bc", ()),
        pytest.param("td3_bc", ("--driver", "pipelined"), marks=pytest.mark.slow),
        pytest.param("own.py", (), marks=pytest.mark.slow),
    ],
)
def test_a_run_that_corrects_another(
    agent: str, words: tuple[str, ...], dataset: Path, tmp_path: Path, monkeypatch: Any, say: Say
) -> None:
    """With rate 0 it acts as that run does, also after it is resumed, from a run of its own and exported, and when the
    other run is gone."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    make_run(Path("theirs"), agent, ENV, **theirs_sizes(agent))
    rows = normals(1)(5, 3)
    expected = [greedy(Path("theirs"), rows, member) for member in (0, 1)]
    command = [
        "train",
        "cdsa",
        "--dataset",
        dataset,
        "--correction-rate",
        0,
        "--quiet",
        *flags(**SIZES | TIMES),
        *words,
    ]
    said = say(*command, "--init-from", "policy=theirs", "--run-name", "ours")
    assert said.code == 0, said.err
    ours, again = Path("runs/ours"), Path("runs/again")
    described = json.loads(json.loads((ours / "config.json").read_text())["settings"]["policy"])
    assert described["agent"] == agent and described["network"]["actor_hidden_sizes"] == [8]

    shutil.rmtree("theirs")
    same([greedy(ours, rows, member) for member in (0, 1)], expected)
    shutil.copytree(ours, again)
    (again / "summary.json").unlink()
    shutil.rmtree(again / "resume" / "8")
    assert say("train", "--resume", again, "--quiet").code == 0 and say("eval", again).code == 0
    same([greedy(again, rows, member) for member in (0, 1)], expected)
    assert say("export", again, "--out", "exported").code == 0
    np.testing.assert_allclose(export.load(Path("exported"))(rows), expected[0], atol=1e-6)
    said = say(*command, "--init-from", ours, "--actor-lr", 0, "--run-name", "further")
    assert said.code == 0, said.err
    same([greedy(Path("runs/further"), rows, member) for member in (0, 1)], expected)
    files = json.loads((ours / "config.json").read_text())["files"]
    assert files["policy"]["path"].endswith("own.py") if agent == "own.py" else files == {}, files


def theirs_sizes(agent: str) -> dict[str, Any]:
    return SMALL if agent == "td3_bc" else {"actor_hidden_sizes": [8]}


def greedy(folder: Path, rows: np.ndarray, member: int) -> np.ndarray:
    saved = policies.load(folder, (0, 1))
    actions: np.ndarray = policies.greedy(saved.task, saved.snapshot)(rows, member)
    return actions


def test_in_python(dataset: Path, tmp_path: Path) -> None:
    """A run in memory begins from a folder's policy, and another one from its result."""
    make_run(tmp_path / "theirs", "td3_bc", ENV, **SMALL)
    rows = normals(1)(5, 3)
    settings = SIZES | {"dataset": dataset, "progress": False}
    first = rlx.fit("cdsa", correction_rate=1, init_from=f"policy={tmp_path / 'theirs'}", **settings)
    second = rlx.fit("cdsa", correction_rate=0, init_from=first, **settings)
    assert second.config.network == first.config.network
    np.testing.assert_array_equal(second.act(rows), greedy(tmp_path / "theirs", rows, 0))
    assert (second.act(rows) != first.act(rows)).any()
    few = {name: value for name, value in settings.items() if name not in CONTRACT.config}
    for agent, other in (("cdsa", settings | {"score_width": 4}), ("bc", few | {"actor_hidden_sizes": (8,)})):
        with one_line("is of another agent, other networks or members; begin from one of the same"):
            rlx.fit(agent, init_from=second, **other)


@pytest.mark.parametrize(
    ("agent", "env", "settings", "words", "message"),
    [
        ("td3_bc", ENV, SMALL, ["critic={}"], "--init-from critic={}: cdsa adopts policy, not 'critic'"),
        (
            "td3_bc",
            ENV,
            SMALL,
            ["policy={}", "--policy", "{{}}"],
            "--policy: is written down by --init-from policy=RUN",
        ),
        ("td3_bc", ENV, SMALL, ["policy={}", "--no-normalize-observations"], "--normalize-observations False: {} has"),
        ("td3_bc", ENV, SMALL, ["{}"], "; the run has another agent or networks"),
        ("td3_bc", "gymnax:MountainCarContinuous-v0", SMALL, ["policy={}"], "{}: observes 2 numbers and acts with 1, "),
        ("dqn", "gymnax:CartPole-v1", {"critic_hidden_sizes": [8]}, ["policy={}"], "and dqn has discrete ones"),
    ],
)
def test_what_does_not_fit(
    agent: str, env: str, settings: Any, words: Any, message: str, dataset: Path, tmp_path: Path, refused: Refused
) -> None:
    folder = tmp_path / "theirs"
    make_run(folder, agent, env, **settings)
    begin = [word.format(folder) for word in words]
    line = refused("train", "cdsa", "--dataset", dataset, *flags(**SIZES), "--init-from", *begin)
    assert message.format(folder) in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "--policy: describes no agent ("),
        ('{"agent": "iql"}', "--policy: describes no agent ('network'); leave it to --init-from, which fills it in"),
        ('{"agent": "iqll", "network": {}}', "--policy: unknown agent 'iqll': did you mean iql?"),
        ('{"agent": "iql", "network": {"width": 3}}', "--policy: describes no agent ('width')"),
        (
            '{"agent": "iql", "network": {"num_critics": 0}}',
            "--policy: num_critics 0: must be at least 1 and at most 1000000",
        ),
        (
            '{"agent": "iql", "network": {"activation": "rleu"}}',
            "--policy: activation rleu: unknown; did you mean relu?",
        ),
    ],
)
def test_texts_that_describe_no_agent(text: str, message: str) -> None:
    with one_line(message) as caught:
        cdsa.make(cdsa.Config(policy=text), SPEC)
    assert str(caught.value).count("--policy") == 1


def test_files_of_policies_within_policies_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corrected policy that is a corrected one itself, of the user's own agent."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    inner = cdsa.Config(policy=agents.to_text("own.py", agents.load("own.py").Config()))
    outer = config.resolve("cdsa", ENV)
    outer = replace(outer, network=replace(outer.network, policy=agents.to_text("cdsa", inner)))
    (what,) = files = code_of(outer)
    assert what == "policy.policy" and files[what]["path"].endswith("own.py")
    found = {"files": files}
    assert origin.changed_files(found, outer) == []
    Path("own.py").write_text(OWN + "x = 1\n")
    (line,) = origin.changed_files(found, outer)
    assert "own.py: has changed since the run began (its policy.policy)" in line


def test_a_description_is_that_of_the_agent() -> None:
    for name in agents.REGISTRY:
        network = agents.load(name).Config()
        assert agents.from_text("--policy", agents.to_text(name, network)) == (name, network)
