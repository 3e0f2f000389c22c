"""The arrows of import go one way, and the light parts stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import layerscope

PACKAGE = Path(layerscope.__file__).parent

# Each room may import the rooms named here, and itself.
ROOMS = {
    "errors": set(),
    "types": set(),
    "shipped": set(),
    "protocols": {"types"},
    "functional": {"errors", "types", "protocols"},
    "data": {"shipped", "functional", "errors", "types", "protocols"},
    "models": {"shipped", "functional", "errors", "types", "protocols"},
    "probes": {"functional", "errors", "types", "protocols"},
    "losses": {"functional", "errors", "types", "protocols"},
    "artifacts": {"errors", "types"},
    "report": {"artifacts", "functional", "errors", "types"},
    "launch": {"artifacts", "shipped", "errors"},
    "metrics": {"functional", "data", "models", "probes", "losses", "errors", "types", "protocols"},
    "tasks": {"metrics", "probes", "losses", "functional", "data", "artifacts", "errors", "types", "protocols"},
    "callbacks": {
        "metrics",
        "probes",
        "losses",
        "functional",
        "data",
        "artifacts",
        "report",
        "errors",
        "types",
        "protocols",
    },
}


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def test_rooms_import_only_what_stands_below_them() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in ROOMS:
            continue
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "layerscope" and len(parts) > 1 and parts[1] not in ROOMS[room] | {room}:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_only_models_know_the_model_libraries() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] != "models"
        for name in _imports(path)
        if name.split(".")[0] in {"diffusers", "timm", "transformers", "torchao"}
    ]
    assert not wrong


def test_help_artifacts_and_report_load_no_torch() -> None:
    for statement in (
        "from layerscope.cli import main; main(['--help']); main(['--version'])",
        "import layerscope.artifacts, layerscope.report.bottleneck, layerscope.report.figures_bottleneck",
        "import layerscope.cli.compare, layerscope.report.comparison.files, layerscope.report.comparison.console",
    ):
        code = f"import sys; {statement}; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
