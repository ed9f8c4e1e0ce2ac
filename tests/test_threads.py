"""One thread a member, as on a CPU: its bits do not depend on the others, and the host sees what `vmap` gives."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from rlx.errors import RlxError
from rlx.train import loop as host
from rlx.train.fused import Fused
from rlx.train.threads import Threads
from tests import test_fused
from tests.loss_tools import same
from tests.test_fused import RATES, SEEDS, Run, close

MANY: dict[str, Any] = {"num_seeds": len(SEEDS), "critic_lr": RATES}
drivers = test_fused.make


@pytest.fixture(scope="module")
def make(drivers: Callable[..., Any]) -> Callable[..., Any]:
    return partial(drivers, members="threads")


@pytest.fixture(scope="module")
def many(make: Callable[..., Any]) -> Run:
    return Run(make(**MANY))


@pytest.fixture(scope="module")
def together(make: Callable[..., Any]) -> Run:
    return Run(make(members="vmap", **MANY))


@pytest.fixture(scope="module")
def saved_states(many: Run) -> list[host.Resumed]:
    """The full training state at each report of that run, on the host."""
    driver = many.driver
    return [host.Resumed(driver.training_state(r.state, r.totals), r.iteration, r.learned) for r in host.train(driver)]


def test_every_member_is_its_solo_run_to_the_bit(make: Callable[..., Any], many: Run) -> None:
    """And one member's programs serve all."""
    assert isinstance(many.driver, Threads) and many.driver.members == 4
    assert len(many.compiled) == len(many.driver.programs) == 4
    driver = make()
    assert isinstance(driver, Fused)
    for i, (rate, seed) in enumerate((rate, seed) for rate in RATES for seed in SEEDS):
        if i in (0, 3):
            driver.first = make(seed=seed, critic_lr=rate).first  # arguments of the programs, which serve both
            solo = Run(driver)
            same(many.reports[-1].state[i], solo.reports[-1].state)
            for one, other in zip(many.reports, solo.reports, strict=True):
                member = jax.tree.map(lambda x, i=i: x[i : i + 1], (one.metrics, one.evaluation))
                same(member, (other.metrics, other.evaluation))


def test_reports_are_those_of_members_together(many: Run, together: Run) -> None:
    """The same names and shapes, and after one learning iteration the same numbers, before chaos has its way."""
    assert isinstance(together.driver, Fused)
    for one, other in zip(many.reports, together.reports, strict=True):
        assert one[:6] == other[:6] and one.bad == other.bad == {}
        shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), (r.metrics, r.evaluation)) for r in (one, other)]
        assert shapes[0] == shapes[1]
    close(many.reports[0].metrics, together.reports[0].metrics)


def test_a_training_state_is_that_of_members_together(
    many: Run, together: Run, saved_states: list[host.Resumed]
) -> None:
    """So what one way saves has the leaves, shapes and types of the other; and nothing is lost in placing it."""
    one, other, saved = many.driver, together.driver, saved_states[-1].training_state
    placed = one.place_training_state(saved)
    policy = one.fetch(one.policy_snapshot(placed[0]))
    shapes = one.training_state_shapes, other.training_state_shapes
    snapshots = one.policy_snapshot_shapes, other.policy_snapshot_shapes
    for states in ((*shapes, saved), (*snapshots, policy)):
        first, *rest = (jax.tree.map(lambda x: (tuple(x.shape), np.dtype(x.dtype)), state) for state in states)
        assert all(kinds == first for kinds in rest)
    same(one.training_state(*placed), saved)
    same(policy["agent"], saved["state"].agent)


def test_a_resumed_run_has_the_same_bits(many: Run, saved_states: list[host.Resumed]) -> None:
    *_, last = host.train(many.driver, resumed=saved_states[1])
    same(jax.device_get(last.state), many.reports[-1].state)


def test_members_go_on_from_what_was_learned(
    make: Callable[..., Any], many: Run, saved_states: list[host.Resumed]
) -> None:
    """Each with its own agent, under the hyper-parameters of the new run."""
    driver = make(num_seeds=len(SEEDS), critic_lr=[rate * 2 for rate in RATES])
    state = saved_states[-1].training_state["state"]
    adopted = driver.adopt(driver.init(), {"agent": state.agent, "statistics": state.statistics})
    agent = driver.fetch(driver.policy_snapshot(adopted))["agent"]
    same(agent.critic.learner.params, state.agent.critic.learner.params)
    np.testing.assert_allclose(agent.critic.hypers.critic_lr, np.repeat(RATES, len(SEEDS)) * 2, rtol=1e-6)


def test_a_hidden_transfer_is_an_error(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard holds on the members' threads, too."""
    driver = make(**MANY)
    passes = lambda state, totals, n: driver.one.train(state, totals, None, np.full(1, n, np.int32))  # noqa: E731
    monkeypatch.setattr(driver.one, "advance", passes)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        next(host.train(driver))


def test_what_is_chosen(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads on one CPU, and only there; one member needs no thread."""
    chosen = make(members="auto", **MANY)
    assert isinstance(chosen, Threads) and chosen.task.config.members == "threads"
    assert isinstance(make(members="auto"), Fused) and make(members="auto").task.config.members == "vmap"
    monkeypatch.setattr("rlx.parallel.on_cpu", lambda: False)
    assert isinstance(make(members="auto", **MANY), Fused)
    monkeypatch.setattr("rlx.parallel.pick_devices", lambda count: jax.devices() * 2)
    with pytest.raises(RlxError, match=r"^--members threads: goes with one device; .*--num-devices 1$"):
        make(**MANY)
