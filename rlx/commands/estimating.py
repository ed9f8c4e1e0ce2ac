"""`rlx ope`: policies evaluated from a data set, without acting."""

from __future__ import annotations

from pathlib import Path

from rlx.commands.arguments import Parser, prepare_jax, show
from rlx.errors import RlxError


def ope(arguments: list[str]) -> int:
    """Evaluates policies from data: `rlx ope RUN... --dataset D`; what they are worth, without acting."""
    parser = Parser(prog="rlx ope", description=ope.__doc__)
    parser.add_argument("run", metavar="RUN", nargs="+", help="run folders whose policies are evaluated")
    parser.add_argument("--dataset", required=True, help="data set, a file or folder as for `rlx data info`")
    parser.add_argument(
        "--steps", nargs="+", default=["last"], help="checkpoints of each run: last, all, or their steps"
    )
    parser.add_argument("--member", type=int, default=0, help="which of a run's members, from 0 (default: 0)")
    parser.add_argument("--greedy", action="store_true", help="evaluate greedy policies (default: as they explore)")
    parser.add_argument("--gamma", type=float, default=0.99, help="discount of the returns (default: 0.99)")
    text = "updates of fitted Q evaluation; 0: no direct and no doubly robust estimates (default: 20000)"
    parser.add_argument("--updates", type=int, default=20_000, help=text)
    sizes = "hidden layers of its critics (default: 256 256)"
    parser.add_argument("--critic-hidden-sizes", type=int, nargs="+", default=[256, 256], metavar="INT", help=sizes)
    densities = "of who collected: data (its log_prob, else estimated), estimated, or none"
    parser.add_argument("--densities", default="data", help=f"{densities} (default: data)")
    number = "random features of marginal weights; 0: no estimates with them (default: 200)"
    parser.add_argument("--features", type=int, default=200, help=number)
    states = "clusters of states of STAR; 0: no estimate by it (default: 50)"
    parser.add_argument("--clusters", type=int, default=50, help=states)
    width = "of the kernel around deterministic policies' actions (default: by the data)"
    parser.add_argument("--bandwidth", type=float, help=width)
    kinds = "bootstrap over episodes, t, bernstein or hoeffding (default: bootstrap)"
    parser.add_argument("--interval", default="bootstrap", help=kinds)
    parser.add_argument("--seed", type=int, default=0, help="seed of bootstrap samples and of what is learnt")
    parser.add_argument("--format", default="table", choices=("table", "md", "csv"), help="how to print it")
    values = parser.parse(arguments)
    for name in ("updates", "features", "clusters"):
        if getattr(values, name) < 0:
            raise RlxError(f"--{name} {getattr(values, name)}: must be at least 0")
    from rlx.errors import say, say_compiling
    from rlx.ope import evaluate, from_run
    from rlx.settings import convert

    prepare_jax()
    steps = (
        values.steps[0] if values.steps in (["last"], ["all"]) else [convert("--steps", int, x) for x in values.steps]
    )
    policies = [policy for run in values.run for policy in from_run(Path(run), steps, values.member, values.greedy)]
    learnt = {"offline_steps": values.updates, "critic_hidden_sizes": values.critic_hidden_sizes}
    count = f"{len(policies)} policies" if len(policies) > 1 else "1 policy"
    table = evaluate(
        policies,
        values.dataset,
        gamma=values.gamma,
        values=learnt if values.updates else False,
        densities=values.densities,
        features=values.features,
        clusters=values.clusters,
        bandwidth=values.bandwidth,
        interval=values.interval,
        seed=values.seed,
        begins=lambda: say_compiling(f"evaluating {count} on {values.dataset}"),
    )
    show(table._replace(notes=[]).text(values.format))
    for note in table.notes:
        say(f"rlx: {note}")
    return 0
