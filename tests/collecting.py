"""A small run that data sets are collected from."""

from pathlib import Path

from rlx.commands import main as cli
from rlx.runs.behaviours import Behaviour

ENV = "gymnax:Pendulum-v1"
SETTINGS = (  # the replay has 150 of the 250 vector steps
    "--num-envs 4 --total-env-steps 1000 --warmup-env-steps 200 --log-every 200 --eval-every 200 --eval-episodes 4"
    " --ratio 2:1 --batch-size 8 --replay-capacity 600 --pool-size 4 --actor-hidden-sizes 16 --critic-hidden-sizes 16"
    " --actor-lr 1e-2 --critic-lr 1e-2 --quiet"
)
STEPS = range(200, 1001, 200)  # of the evaluations
LAST = Behaviour("expert", STEPS[-1])


def trained(place: Path) -> Path:
    """The folder of a run of SAC, made in `place`."""
    assert cli.main(f"train sac --env {ENV} {SETTINGS} --run-dir {place} --run-name run".split()) == 0
    return place / "run"
