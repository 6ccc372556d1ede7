"""The floor plan, proven on the syntax trees: imports point only downwards, Flower stays in its rooms."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {
        "types", "errors", "seeding", "images", "layout", "vectors", "storage", "products", "mixing", "checks", "atomic", "trees",
        "lock", "rows", "attackers", "numbering", "jsontext", "targets", "watchdog",
    },
    {
        "data", "partition", "apportion", "contamination", "models", "weights", "etf", "losses", "metrics", "drops", "batchnorm",
        "augment", "optimizers", "alignment", "sanitising", "fusion", "ensembles", "privacy", "evasion", "purification",
        "checkpoint", "tensorfile", "device", "wording", "bounded", "convolutions",
    },
    {
        "training", "evaluation", "reporting", "records", "manifest", "config", "cli", "wire", "display", "plots", "html",
        "experiment", "composition", "site", "judgement", "predictions", "twins", "checkpoints", "training_settings",
        "attempts", "resistance", "sum_only", "compatible",
    },
]  # fmt: skip
FLOWER_ROOMS = (
    *("fedrobust/wire/", "fedrobust/engines/", "clients/app.py", "clients/remembering.py", "clients/secure.py", "strategies/app.py"),
    *("strategies/adapter.py", "strategies/replies.py", "strategies/secure.py"),
)
UPPER_STRATEGY_FILES = {"adapter.py", "replies.py", "app.py", "rounds.py", "keeper.py", "conduct.py", "evasion.py", "secure.py"}
ROOF = {"simulate", "job", "resume", "pictures", "compare", "comparison", "ablation", "sanitise", "meff", "meff_scores", "federation"}


def floor(module: str) -> int:
    """The floor of a module by its dotted name; 5 is the roof."""
    parts = module.split(".")
    if parts[0] == "clients":
        return 4 if parts[1:] in (["app"], ["remembering"], ["secure"]) else 3
    if parts[0] == "strategies":
        upper = 4 if len(parts) > 1 and f"{parts[1]}.py" in UPPER_STRATEGY_FILES else 3
        return 5 if parts[1:] == ["app"] else upper  # the ServerApp is an entry point, as the command lines are
    if parts == ["fedrobust"]:
        return 0
    if parts[1] == "engines":
        return 4
    if parts[1] in ROOF:
        return 5
    found = [number for number, names in enumerate(FLOORS) if parts[1] in names]
    assert found, f"{module} has no floor: put it into FLOORS"
    return found[0]


def sources() -> list[Path]:
    return sorted(path for top in ("fedrobust", "strategies", "clients") for path in (ROOT / top).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> list[str]:
    """Modules that a file imports, at any depth; `from package import module` counts as the module where it is one."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                exists = (ROOT / inner.replace(".", "/")).with_suffix(".py").exists() or (ROOT / inner.replace(".", "/")).is_dir()
                names.append(inner if exists else node.module)
    return names


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    for name in imports(path):
        top = name.split(".")[0]
        if top in ("fedrobust", "strategies", "clients"):
            assert floor(name) <= floor(module), f"{module} (floor {floor(module)}) imports {name} (floor {floor(name)})"
        if {top, module.split(".")[0]} == {"clients", "strategies"}:
            pytest.fail(f"{module} imports {name}: clients and strategies do not know each other")


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_flower_stays_in_its_rooms(path: Path) -> None:
    where = path.relative_to(ROOT).as_posix()
    assert where.startswith(FLOWER_ROOMS) or not [name for name in imports(path) if name.split(".")[0] == "flwr"]


def test_config_stops_at_the_door() -> None:
    """Below the roof and `config` nobody knows Hydra or OmegaConf."""
    for path in sources():
        if module_of(path) not in ("fedrobust.simulate", "fedrobust.config", "fedrobust.cli"):
            assert not [name for name in imports(path) if name.split(".")[0] in ("hydra", "omegaconf")], path


def test_no_pickle_and_no_eval() -> None:
    """Nothing that arrives may be unpickled or evaluated."""
    for path in sources():
        tree = ast.parse(path.read_text())
        assert not [name for name in imports(path) if name.split(".")[0] in ("pickle", "dill", "cloudpickle", "marshal")], path
        called = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        assert not {"eval", "exec"} & set(called), path
