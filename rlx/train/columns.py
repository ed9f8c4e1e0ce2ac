"""Extra columns of replay rows: which an agent reads, and their providers, the run or a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from rlx import parallel
from rlx.errors import RlxError
from rlx.replay import FIELDS, Row
from rlx.types import RULES, Agent, Read, Spec

Shapes = Mapping[str, jax.ShapeDtypeStruct]
SOURCE = "source"  # where a row came from; a constant of each part of a minibatch, and not stored
RETURN_TO_GO = "return_to_go"  # of a data set's rows, computed when it is placed


class Columns(NamedTuple):
    """The extra columns of one part of a run."""

    shapes: dict[str, Any] = {}  # noqa: RUF012 -- of all that is stored, of one row
    recorded: tuple[str, ...] = ()  # those that `Agent.records` makes


def fields(spec: Spec) -> Row:
    """Shapes of the fields of one row."""
    scalar, flag = jax.ShapeDtypeStruct((), spec.observation.dtype), jax.ShapeDtypeStruct((), jnp.bool_)
    return Row(spec.observation, spec.action, scalar, flag, flag, spec.observation)  # type: ignore[arg-type]


def reads(agent: Agent, recorded: Sequence[str]) -> dict[str, Read]:
    """All extras of a minibatch: what the agent reads, and what it records by its own names."""
    return {name: Read(name) for name in recorded} | agent.reads


def resolve(
    name: str,
    agent: Agent,
    spec: Spec,
    online: bool,
    tables: Sequence[Row] = (),
    axes: parallel.Axes = (),
    noise: bool = False,
) -> Columns:
    """What to store for the agent called `name`, where rows come from the environment (`online`) and from `tables`.

    With exploration `noise` on top of `act`'s action, its info is that of another action, and not used.
    Raises RlxError for a column that one of them does not provide, or that they have in different shapes.
    """
    traced = agent.records or (online and agent.reads)  # most agents read no extras, and tracing takes its time
    by_act, records = _traced(agent, spec, axes, noise) if traced else ({}, {})
    providers: list[tuple[str, Shapes]] = []
    if online:
        run = "a run in this environment" + " (with --noise-max, nothing of act's info)" * noise
        providers.append((run, {**by_act, **spec.extras, **records}))
    computed = {RETURN_TO_GO: _struct((), jnp.float32)}
    for table in tables:
        extras = {k: _struct(v.shape[1:], v.dtype) for k, v in table.extras.items()}
        providers.append(("the data set", computed | extras))
    row, time = fields(spec)._asdict(), {"time": _struct((), jnp.int32)}
    wanted = reads(agent, tuple(records))
    for extra, (column, rule, normalize) in wanted.items():
        if rule not in RULES:
            raise RlxError(f"{name}: reads {extra!r} by the rule {rule!r}; choose from {', '.join(RULES)}")
        for provider, shapes in providers:
            known = row | dict(shapes) | time
            if column not in (*known, SOURCE):
                have = ", ".join(sorted(known.keys() - {"extras"}))
                raise RlxError(f"{name}: reads the column {column!r}, which {provider} does not provide; it has {have}")
            shape = () if column == SOURCE else known[column].shape
            if normalize and shape != spec.observation.shape:
                raise RlxError(f"{name}: {column!r} is {list(shape)} and cannot be normalised as observations are")
    for extra in set(agent.actor_reads) - {*FIELDS, *wanted}:
        raise RlxError(f"{name}: its actor half reads {extra!r}, which is no field and not in `reads`")
    stored = {r.column for r in wanted.values()} - {*row, SOURCE}
    if any(read.rule == "future" for read in wanted.values()):
        stored |= {"time"}
    shapes = {column: _agreed(name, column, [dict(s) | time for _, s in providers]) for column in sorted(stored)}
    return Columns(shapes, tuple(records))


def _agreed(name: str, column: str, providers: Sequence[Shapes]) -> Any:
    shapes = [shapes[column] for shapes in providers]
    if len({shape.shape for shape in shapes}) > 1:
        differing = " and ".join(str(list(shape.shape)) for shape in shapes)
        raise RlxError(f"{name}: the column {column!r} has different shapes, {differing}; use data of this environment")
    return shapes[0]


def _struct(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _traced(agent: Agent, spec: Spec, axes: parallel.Axes, noise: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes of `act`'s info and of what the agent records, of one row."""
    rows = jax.tree.map(
        lambda x: _struct((1, 1, *x.shape), x.dtype), fields(spec)._replace(extras=cast(Any, dict(spec.extras)))
    )

    def trace(key: Any, rows: Row) -> tuple[dict[str, Any], dict[str, Any]]:
        policy = agent.acting_params(agent.init(key))
        make = agent.carry or agent.noise
        carry = () if make is None else (jax.tree.map(lambda x: jnp.asarray(x)[None, None], make()),)
        info = {} if noise else agent.act(policy, rows.observation, key, *carry)[1]
        return info, agent.records(policy, rows, info) if agent.records else {}

    function: Any = trace
    for axis in axes:
        function = jax.vmap(function, in_axes=None, axis_name=axis, axis_size=1)
    shapes = jax.eval_shape(function, jax.eval_shape(lambda: jax.random.key(0)), rows)
    split: tuple[dict[str, Any], dict[str, Any]] = jax.tree.map(
        lambda x: _struct(x.shape[2 + len(axes) :], x.dtype), shapes
    )
    return split
