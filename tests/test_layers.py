"""Imports run one way, algorithms stay out of the framework, and one package names devices: read from the source."""

import ast
import graphlib
import itertools
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "rlx"

# A module may import what stands above it, and its own package; imports inside functions count too.
LAYERS = """
    errors user_code json_files settings types parallel losses distributions networks diffusion normalize replay
    optim halves categorical policies envs agents rollout evaluate statistics data train config user_files
    agent_checks build experiment visual runs export analysis ope sweeps api commands __main__
""".split()
REGISTRY_READERS = {"config", "user_files", "build", "api", "commands", "rlx"}
VARIANTS = {  # an agent that is another with parts exchanged may import that one
    ("rlx.agents.tqc", "rlx.agents.sac"),
    ("rlx.agents.redq", "rlx.agents.sac"),
    ("rlx.agents.dsac", "rlx.agents.sac"),
    ("rlx.agents.dsac_t", "rlx.agents.sac"),
    ("rlx.agents.dsac_t", "rlx.agents.dsac"),
    ("rlx.agents.ace", "rlx.agents.sac"),
    ("rlx.agents.mdpo", "rlx.agents.sac"),
    ("rlx.agents.pmoe", "rlx.agents.sac"),
    ("rlx.agents.sac_flow", "rlx.agents.sac"),
    ("rlx.agents.crossq", "rlx.agents.sac"),
    ("rlx.agents.xqc", "rlx.agents.sac"),
    ("rlx.agents.xqc", "rlx.agents.crossq"),
    ("rlx.agents.flash_sac", "rlx.agents.sac"),
    ("rlx.agents.flash_sac", "rlx.agents.crossq"),
    ("rlx.agents.flash_sac", "rlx.agents.xqc"),
    ("rlx.agents.sac_discrete", "rlx.agents.sac"),
    ("rlx.agents.pqn", "rlx.agents.dqn"),
    ("rlx.agents.fast_td3", "rlx.agents.td3"),
    ("rlx.agents.aro_ddpg", "rlx.agents.td3"),
    ("rlx.agents.cql", "rlx.agents.sac"),
    ("rlx.agents.edac", "rlx.agents.sac"),
    ("rlx.agents.riql", "rlx.agents.iql"),
    ("rlx.agents.odice", "rlx.agents.iql"),
    ("rlx.agents.dual_rl", "rlx.agents.iql"),
    ("rlx.agents.td3_bc", "rlx.agents.td3"),
    ("rlx.agents.rebrac", "rlx.agents.td3"),
    ("rlx.agents.mcep", "rlx.agents.td3"),
    ("rlx.agents.mcep", "rlx.agents.td3_bc"),
    ("rlx.agents.pql", "rlx.agents.td3"),
    ("rlx.agents.idql", "rlx.agents.iql"),
    ("rlx.agents.ifql", "rlx.agents.iql"),
    ("rlx.agents.ifql", "rlx.agents.idql"),
    ("rlx.agents.cfgrl", "rlx.agents.iql"),
    ("rlx.agents.srpo", "rlx.agents.iql"),
    ("rlx.agents.eda", "rlx.agents.iql"),
    ("rlx.agents.dql", "rlx.agents.edp"),
    ("rlx.agents.expo", "rlx.agents.sac"),
    ("rlx.agents.expo", "rlx.agents.redq"),
    ("rlx.agents.qc", "rlx.agents.fql"),
    ("rlx.agents.bc", "rlx.agents.iql"),
    ("rlx.agents.lpo", "rlx.agents.ppo"),
    ("rlx.agents.spo", "rlx.agents.ppo"),
    ("rlx.agents.ppo_ewma", "rlx.agents.ppo"),
    ("rlx.agents.props", "rlx.agents.ppo"),
}

DEVICE_NAMES = set(
    """
    Mesh NamedSharding PartitionSpec SingleDeviceSharding addressable_data addressable_shards device_count device_put
    jax.devices jax.distributed jax.sharding local_device_count local_devices make_mesh mesh_utils multihost_utils pmap
    process_count process_index shard_map with_sharding_constraint
    """.split()
)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of rlx by its name, through the links to agents/ and envs/."""
    files = [*PACKAGE.glob("*.py"), *PACKAGE.glob("*/*.py")]
    return {module_name(path): ast.parse(path.read_text(), str(path)) for path in files}


def imports(tree: ast.Module, name: str, known: set[str]) -> Iterator[tuple[int, str]]:
    """Line and name of each rlx module that `name` imports, wherever in the file."""
    known = known | {f"rlx.{module}" for module in LAYERS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: write the import in full, from rlx"
            targets = [f"{node.module}.{alias.name}" for alias in node.names if alias.name != "__version__"]
            found = [target if target in known else node.module or "" for target in targets]
        else:
            continue
        yield from ((node.lineno, target) for target in found if target.split(".")[0] == "rlx")


def layer(module: str) -> str:
    """`rlx.train.fused` is of the layer `train`; the package itself stands above all."""
    return module.split(".")[1] if "." in module else "rlx"


def order(module: str) -> int:
    return (*LAYERS, "rlx").index(layer(module))


def wrong_imports(trees: dict[str, ast.Module]) -> list[str]:
    """One line for each import that breaks a rule."""
    wrong = []
    for name, tree in trees.items():
        for line, target in imports(tree, name, set(trees)):
            where = f"{name}:{line} imports {target}"
            if layer(target) == layer(name) == "agents":
                if "rlx.agents" not in (name, target) and (name, target) not in VARIANTS:
                    wrong.append(f"{where}: agents do not import each other; share through a lower layer")
            elif layer(target) == "agents" and layer(name) not in REGISTRY_READERS:
                wrong.append(f"{where}: only {sorted(REGISTRY_READERS)} read the registry of agents")
            elif order(target) > order(name):
                wrong.append(f"{where}, which stands below it")
    return wrong


def device_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of everything in the file that names devices."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            found = [ast.unparse(node)]
        else:
            continue
        for dotted in found:
            parts = dotted.split(".")
            if "parallel" in parts[:2]:  # our own words for devices are everybody's
                continue
            if not DEVICE_NAMES.isdisjoint([*parts, ".".join(parts[:2])]):
                yield node.lineno, dotted


def test_imports_run_one_way() -> None:
    """Every module has a layer, and there is no cycle inside one either."""
    trees = modules()
    assert {layer(name) for name in trees} <= {*LAYERS, "rlx"} and wrong_imports(trees) == []
    graph = {name: {target for _, target in imports(tree, name, set(trees))} for name, tree in trees.items()}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_only_parallel_names_devices() -> None:
    trees = {name: tree for name, tree in modules().items() if layer(name) != "parallel"}
    assert [f"{name}:{line}: {word}" for name, tree in trees.items() for line, word in device_names(tree)] == []


def test_folders_are_imported_through_rlx() -> None:
    """A top-level `agents` would be another distribution's."""
    for name, tree in modules().items():
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [a.name if isinstance(node, ast.Import) else node.module or "" for node in nodes for a in node.names]
        assert not {"agents", "envs"} & {target.split(".")[0] for target in names}, name


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("rlx.losses", "from rlx.networks import mlp", "below"),
        ("rlx.losses", "from rlx import networks", "below"),
        ("rlx.losses", "def f():\n    import rlx.commands", "below"),
        ("rlx.types", "import rlx", "below"),
        ("rlx.agents.sac", "from rlx.rollout import collect", "below"),
        ("rlx.agents.sac", "from rlx.agents.iql import Config", "each other"),
        ("rlx.train.fused", "from rlx.agents.sac import make", "registry"),
        ("rlx.train.fused", "from rlx import agents", "registry"),
        ("rlx.agents.sac", "from rlx.losses import td_target", None),
        ("rlx.agents.sac", "from rlx.agents import names", None),
        ("rlx.agents.tqc", "from rlx.agents import sac", None),
        ("rlx.agents.sac", "from rlx.agents import tqc", "each other"),
        ("rlx.train.fused", "from rlx.train.loop import f\nfrom rlx import replay\nimport jax", None),
        ("rlx.config", "from rlx import agents", None),
    ],
)
def test_the_rules_themselves(name: str, source: str, complaint: str | None) -> None:
    others = ("rlx", "rlx.agents", "rlx.agents.iql", "rlx.agents.sac", "rlx.agents.tqc", "rlx.train.loop")
    trees = {module: ast.parse("") for module in others} | {name: ast.parse(source)}
    found = wrong_imports(trees)
    assert found == [] if complaint is None else len(found) == 1 and complaint in found[0]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import jax\nx = jax.devices()[0]", True),
        ("from jax import pmap", True),
        ("from jax.sharding import Mesh", True),
        ("import jax.distributed", True),
        ("y = x.addressable_shards[0].data", True),
        ("from jax.experimental.shard_map import shard_map", True),
        ("y = jax.device_get(x)\nn = config.num_devices", False),
        ("from rlx.parallel import pmap\nf = parallel.pmap(g)", False),
    ],
)
def test_the_device_rule_itself(source: str, names: bool) -> None:
    assert bool(list(device_names(ast.parse(source)))) == names


def code_lines(path: Path) -> Counter[str]:
    """Lines of at least 20 characters, without imports, headers of classes and functions, or docstrings."""
    skipped = ("import ", "from ", "#", "@", "class ", "def ", '"""', ") -> ", "nets: ")
    lines = (line.strip() for line in path.read_text().splitlines())
    return Counter(line for line in lines if len(line) >= 20 and not line.startswith(skipped))


def test_any_two_agents_share_less_than_a_fifth_of_their_lines() -> None:
    files = {path.stem: code_lines(path) for path in (PACKAGE / "agents").glob("*.py") if path.stem != "__init__"}
    pairs = {(a, b): (files[a] & files[b]).total() for a, b in itertools.combinations(sorted(files), 2)}
    shares = {(a, b): n / min(files[a].total(), files[b].total()) for (a, b), n in pairs.items()}
    assert {pair: share for pair, share in shares.items() if share >= 0.2} == {}
