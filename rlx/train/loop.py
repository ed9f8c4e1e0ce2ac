"""The host's side of training: dispatches stretches of iterations, and reports at the points where somebody
looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import jax

from rlx import normalize, parallel
from rlx.envs import no_env
from rlx.errors import RlxError
from rlx.train.compile import Program
from rlx.train.nonfinite import NEVER, OUTLIERS
from rlx.train.report import Report, Seconds
from rlx.train.task import Task, Totals

STRETCH_S = 1.0  # about how long a stretch of iterations takes, and so how long a run takes to end when it is asked to
OF_ENVS = ("reset observation", "action", "observation", "reward")
OF_COLLECTING = (*OF_ENVS, OUTLIERS, "observation statistics", "return statistics")
COURSE = (*OF_COLLECTING, "critic_loss", "critic gradients", "critic parameters")  # of an iteration
CONTAINED = (OUTLIERS, "observation", "reward")
HANDLED = {  # bad numbers that a policy of --on-nonfinite deals with; others end the run
    "stop": lambda quantity: quantity == OUTLIERS,
    "reset-env": lambda quantity: quantity in CONTAINED,
    "skip": lambda quantity: quantity in CONTAINED or quantity not in OF_COLLECTING,
}


class Driver(Protocol):
    """What `train` needs of a driver; every result leads with the devices and stays on them until fetched."""

    @property
    def task(self) -> Task: ...

    @property
    def programs(self) -> Sequence[Program]: ...  # in the order to compile them; the last evaluates

    @property
    def policy_snapshot_shapes(self) -> Any: ...  # of what `learned` returns, fetched, [M, ...]

    @property
    def training_state_shapes(self) -> Any: ...  # of what `training_state` returns

    @property
    def members(self) -> int: ...  # training runs in all, M

    def init(self) -> Any: ...

    def zeros(self) -> Any: ...

    def advance(self, state: Any, totals: Any, iterations: int) -> tuple[Any, Any]: ...

    def read(self, totals: Any) -> Totals: ...

    def refresh(self, state: Any) -> Any: ...

    def policy_snapshot(self, state: Any) -> Any: ...

    def adopt(self, state: Any, learned: Any) -> Any: ...

    def evaluate(self, learned: Any) -> Any: ...  # an Evaluation, once fetched

    def timing(self) -> dict[str, float]: ...

    def place(self, tree: Any) -> Any: ...

    def fetch(self, tree: Any) -> Any: ...

    def training_state(self, state: Any, totals: Any) -> Any: ...

    def place_training_state(self, saved: Any) -> tuple[Any, Any]: ...


class Resumed(NamedTuple):
    """Where a run was when everything was saved."""

    training_state: Any  # of `Driver.training_state`, on the host
    iteration: int
    learned: int  # iterations that learned


class Stop(NamedTuple):
    """An iteration to report after."""

    iteration: int
    evaluates: bool
    saves: bool


def stops(driver: Driver) -> Iterator[Stop]:
    """First update, log points, evaluations, checkpoints, the end."""
    plan = driver.task.plan

    def points(every: int) -> set[int]:
        return {*range(every, plan.iterations, every), plan.iterations}

    evaluations, checkpoints = points(plan.eval_iterations), points(plan.checkpoint_iterations)
    for iteration in sorted(
        {min(plan.warmup_iterations + 1, plan.iterations)} | points(plan.log_iterations) | evaluations | checkpoints
    ):
        yield Stop(iteration, iteration in evaluations, iteration in checkpoints)


class Pace:
    """How many iterations make a stretch: as many as took about `stretch_s`, but no sudden leaps."""

    def __init__(self, stretch_s: float = STRETCH_S) -> None:
        self.iterations, self.stretch_s = 1, stretch_s

    def saw(self, iterations: int, seconds: float) -> None:
        """A stretch of `iterations` took `seconds`. Processes agree, since they must make the same stretches."""
        fitting = int(iterations * self.stretch_s / max(seconds, 1e-6))
        proposed, processes = parallel.sum_over_processes(max(1, min(fitting, 4 * self.iterations)), 1)
        self.iterations = proposed // processes


def train(
    driver: Driver,
    learned: Any = None,
    resumed: Resumed | None = None,
    asked_to_end: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda phase: None,
    stretch_s: float = STRETCH_S,
) -> Iterator[Report]:
    """Trains to the last iteration, yielding a report at every stop; from `learned` [M, ...] or `resumed`, if any.

    Programs compile on parallel threads, the evaluation once training is at its pace. Nothing but explicit
    transfers crosses between host and device. `tell` is called with each phase that begins: compiling, warming up,
    training, evaluating. A stretch takes about `stretch_s`: each begins with a copy of the data set, which is much
    where the data are large and iterations short.
    Raises RlxError where a number is not finite and the policy is to stop.
    """
    plan = driver.task.plan
    *training, evaluator = driver.programs
    lap = _laps()
    tell("compiling")
    with ThreadPoolExecutor(2) as pool:
        for program in training:
            program.start(pool)
        for program in training:
            program.compiled()
        state, totals, iteration, updates = _begin(driver, learned, resumed)
        compile_s, pace = lap(), Pace(stretch_s)
        for stop in stops(driver):
            if stop.iteration < iteration or stop.iteration == iteration < plan.iterations:
                continue  # it was reported before the run was resumed
            tell("warming up" if iteration < plan.warmup_iterations else "training")
            read_totals = driver.read(totals)
            while iteration < stop.iteration:
                stretch, started = min(pace.iterations, stop.iteration - iteration), time.perf_counter()
                with jax.transfer_guard("disallow"):
                    state, totals = driver.advance(state, totals, stretch)
                    read_totals = driver.read(totals)
                iteration += stretch
                took_s = time.perf_counter() - started
                if took_s > STRETCH_S / 2:  # tracing holds Python's lock, which would be in the way of shorter ones
                    evaluator.start(pool)
                pace.saw(stretch, took_s)
                _check(driver, read_totals)
                if iteration < stop.iteration and _anybody(asked_to_end):
                    steps = plan.steps(iteration, updates + _iterations(read_totals))
                    yield Report(
                        *(iteration, updates, plan.run_step(iteration), *steps, {}, {}, None, state, totals),
                        *(Seconds(compile_s, lap(), 0.0), True, False, True),
                    )
                    return
            if iteration <= plan.warmup_iterations + 1:
                pace = Pace(stretch_s)  # iterations that learn take far longer than those before
            updates += _iterations(read_totals)
            metrics, totals = means(read_totals) | driver.timing(), driver.zeros()
            train_s = lap()
            evaluation = None
            if stop.evaluates and not no_env.is_none(driver.task.env):
                tell("evaluating")
                evaluator.compiled()
                compile_s += lap()
                evaluation = driver.fetch(driver.evaluate(driver.policy_snapshot(state)))
            seconds, compile_s = Seconds(compile_s, train_s, lap()), 0.0
            ended = iteration < plan.iterations and _anybody(asked_to_end)
            yield Report(
                *(
                    iteration,
                    updates,
                    plan.run_step(iteration),
                    *plan.steps(iteration, updates),
                    metrics,
                    bad_numbers(driver, read_totals),
                ),
                *(evaluation, state, totals, seconds, stop.saves or ended, stop.evaluates, ended),
            )
            if ended:
                return
            lap()  # what was done with the report is not training
            if iteration % plan.log_iterations == 0:
                state = driver.refresh(state)


def _laps() -> Callable[[], float]:
    """A function that returns the seconds since it was called last."""
    last = time.perf_counter()

    def lap() -> float:
        nonlocal last
        before, last = last, time.perf_counter()
        return last - before

    return lap


def _anybody(asked_to_end: Callable[[], bool]) -> bool:
    """Whether any process was asked."""
    return parallel.sum_over_processes(int(asked_to_end()))[0] > 0


def _begin(driver: Driver, learned: Any, resumed: Resumed | None) -> tuple[Any, Any, int, int]:
    """State, totals, iterations made, and how many of them learned."""
    if resumed is None:
        state = driver.init()
        if learned is not None:
            shapes = driver.policy_snapshot_shapes["statistics"]
            learned = learned | {"statistics": normalize.with_returns_as(learned["statistics"], shapes)}
            state = driver.adopt(state, learned)
        return state, driver.zeros(), 0, 0
    state, totals = driver.place_training_state(resumed.training_state)
    if resumed.iteration % driver.task.plan.log_iterations == 0:
        state = driver.refresh(state)
    return state, totals, resumed.iteration, resumed.learned


def _iterations(totals: Totals) -> int:
    """How many iterations learned; all members alike."""
    return int(totals.learned.reshape(-1)[0])


def means(totals: Totals) -> dict[str, Any]:
    """The reported sums as means per member; what did not happen since the last report is left out."""
    learned, (count, returns, lengths, sums) = totals.learned, totals.episodes
    metrics = {name: value / learned for name, value in totals.metrics.items()} if learned.all() else {}
    if count.all():
        metrics |= {"episode_return": returns / count, "episode_length": lengths / count}
    metrics |= {f"env/{name}": value / sums["steps"] for name, value in sums.items() if name != "steps"}
    lags = {f"lag_{name}": histogram[0] for name, histogram in totals.lags.items()}  # all members alike
    return metrics | {"episodes": count} | lags


def bad_numbers(driver: Driver, totals: Totals) -> dict[str, tuple[int, int]]:
    """What was not finite or an outlier, causes before consequences: the run_step after its first iteration, and how
    often."""
    firsts = {quantity: int(alarm.first.min()) for quantity, alarm in totals.alarms.items()}
    alarms = [(first, _place(quantity), quantity) for quantity, first in firsts.items() if first != NEVER]
    run_step = driver.task.plan.run_step
    return {
        quantity: (run_step(first + 1), int(totals.alarms[quantity].number.sum()))
        for first, _, quantity in sorted(alarms)
    }


def _place(quantity: str) -> int:
    """Where in an iteration a quantity comes, so that causes are named before what follows from them."""
    late = quantity.endswith((" gradients", " parameters"))
    return COURSE.index(quantity) if quantity in COURSE else len(COURSE) + late


def _check(driver: Driver, totals: Totals) -> None:
    """Raises RlxError naming the first bad number that the policy does not deal with."""
    config = driver.task.config
    for quantity, (run_step, number) in bad_numbers(driver, totals).items():
        if HANDLED[config.on_nonfinite](quantity):
            continue
        what = "NaN or infinity"
        if quantity in OF_ENVS and quantity != "action":
            what = f"NaN, infinity or a number beyond --max-magnitude {config.max_magnitude:g}"
        where = "environment" if quantity in OF_ENVS else "update"
        raise RlxError(
            f"step {run_step}: {what} in {quantity}, of {number} {where}{'s' * (number > 1)};"
            f" nothing bad was saved. To go on, {_remedy(quantity, config.on_nonfinite)}"
        )


def _remedy(quantity: str, policy: str) -> str:
    """What helps against a bad number that ended the run."""
    if quantity == "reset observation":
        again = "mend the environment's reset"
        return again if policy != "stop" else f"{again}, or pass over such starts by --on-nonfinite reset-env"
    if quantity == "observation statistics":
        return "lower --max-magnitude, or leave observations as they are by --no-normalize-observations"
    if quantity == "return statistics":
        return "lower --max-magnitude, or leave rewards as they are by --no-normalize-rewards"
    if quantity in ("observation", "reward"):
        return "restart such environments by --on-nonfinite reset-env"
    skip = ", or leave such updates out by --on-nonfinite skip" if HANDLED["skip"](quantity) else ""
    return f"lower the learning rate{skip}"
