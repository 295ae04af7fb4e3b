"""The shape of the package, read from its syntax trees: nothing is imported here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "evalib"

# A module imports only from modules that stand in an earlier row; the rows of one level are its inner order.
ROWS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (0, ("progress", "time_estimate", "interrupts", "files", "run_lock", "saver", "tables")),
    (0, ("copying", "file_lock")),
    (0, ("mirror", "remote_images", "checkup")),
    (0, ("metrics", "runtime", "recipes", "download", "archives", "weights", "muon", "averaging", "origin")),
    (0, ("cam_networks",)),
    (0, ("imagenet_networks",)),
    (0, ("models",)),
    (1, ("transforms", "history", "cam_maps", "imputation", "layouts")),
    (1, ("layer_trace",)),
    (1, ("layer_search",)),
    (1, ("checkpoint", "cam_layers", "cam_pass", "batch_augment")),
    (1, ("cam", "cam_masks", "cam_others")),
    (1, ("explain",)),
    (2, ("data.decoding", "data.car_names", "data.mat_files", "data.workers")),
    (2, ("data.image_files", "data.sources")),
    (2, ("data.image_data",)),
    (2, ("data.damage", "data.shapes")),
    (2, ("data.folder_layout",)),
    (2, ("data.near_duplicates",)),
    (2, ("data.folder", "data.hugging_face", "data.inspection")),
    (2, ("data.sample", "data.cifar10", "data.shapes", "data.stanford_cars_download")),
    (2, ("data.stanford_cars",)),
    (2, ("data.origins",)),
    (2, ("data",)),
    (2, ("data.order",)),
    (2, ("data.resident",)),
    (2, ("data.loaders",)),
    (2, ("optim", "execution", "rundir", "initialization")),
    (2, ("trained",)),
    (2, ("distributed", "evaluation", "training_step")),
    (2, ("epoch",)),
    (2, ("training_run",)),
    (2, ("engine",)),
    (3, ("scores", "perturbation")),
    (3, ("map_likeness", "map_makers")),
    (3, ("randomization",)),
    (3, ("localization",)),
    (3, ("mistakes", "faithfulness", "car_errors", "comparison", "ladder", "prediction")),
    (3, ("export_formats",)),
    (3, ("export",)),
    (3, ("neighbors",)),
    (3, ("mistake_groups",)),
    (3, ("contrast",)),
    (3, ("contrast_check",)),
    (3, ("broken_maps",)),
    (3, ("sanity",)),
    (3, ("ranking",)),
    (3, ("figures",)),
    (3, ("curves", "input_plots", "cam_plots", "mistake_plots")),
    (3, ("mistake_story",)),
    (3, ("plots",)),
    (3, ("image_prediction",)),
    (3, ("classifier",)),
    (3, ("own_folder", "own_recipe")),
    (3, ("calibration", "significance", "html_parts")),
    (3, ("exercises",)),
    (3, ("map_exercises",)),
    (3, ("html_tested",)),
    (3, ("html_facts", "html_scores")),
    (3, ("html_mistakes", "html_images", "html_charts", "html_tables")),
    (3, ("html_sections", "html_classes", "html_cards")),
    (3, ("html_gallery", "html_compare")),
    (4, ("report", "html_report")),
    (4, ("own_images", "app_state")),
    (4, ("app_parts",)),
    (4, ("app_tabs",)),
    (4, ("app",)),
    (4, ("commands.inventory", "commands.results", "commands.report", "commands.app", "commands.export")),
    (4, ("commands.running",)),
    (4, ("commands.own_images",)),
    (4, ("commands.training", "commands.trained")),
    (4, ("commands.predict", "commands.ranking")),
    (4, ("commands",)),
    (4, ("cli",)),
    (4, ("__main__",)),
)
ROW = {module: row for row, (_, modules) in enumerate(ROWS) for module in modules}
HEAVY = {
    "albumentations", "pytorch_grad_cam", "sklearn", "scipy", "matplotlib", "IPython", "torchsummary", "cv2",
    "datasets", "accelerate", "safetensors", "gradio", "onnx", "onnxruntime", "onnxscript", "playwright", "timm",
}  # fmt: skip


def module_name(path: Path) -> str:
    """`data.folder` for evalib/data/folder.py, `data` for its __init__.py, "" for evalib/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8"), str(path)) for name, path in MODULES.items()}
every_module = pytest.mark.parametrize("module", [name or "evalib" for name in MODULES])


def tree_of(module: str) -> ast.Module:
    return TREES["" if module == "evalib" else module]


def evalib_imports(module: str) -> set[str]:
    """Modules of evalib that a module imports anywhere, also inside functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: a relative import; write `from evalib...`"
            base = node.module or ""
            if base == "evalib" or base.startswith("evalib."):
                prefix = base.removeprefix("evalib").removeprefix(".")
                for alias in node.names:
                    submodule = f"{prefix}.{alias.name}".removeprefix(".")
                    # evalib.data.cifar10 is a module, but its name imported from evalib.data is the function.
                    is_function = prefix == "data" and alias.name in ("cifar10", "hugging_face", "sample", "shapes")
                    found.add(submodule if submodule in MODULES and not is_function else prefix)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("evalib.") for alias in node.names if alias.name.startswith("evalib.")}
    return found - {""}


def run_at_import(nodes: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run at an import: not those inside functions or under `if TYPE_CHECKING:`."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from run_at_import(node.orelse)
            continue
        yield node
        for field in ("body", "orelse", "finalbody", "handlers"):
            for child in getattr(node, field, []):
                yield from run_at_import(child.body if isinstance(child, ast.ExceptHandler) else [child])


def height(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def public_definitions(module: str) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Public functions and classes of a module and public methods of its public classes."""
    for node in TREES[module].body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            for method in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield f"{node.name}.{method.name}", method


def test_every_module_has_a_place():
    strangers = set(MODULES) - set(ROW) - {""}
    assert not strangers, f"Give these modules a row in ROWS, or another home: {sorted(strangers)}"


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_imports_go_down_only(module):
    wrong = [name for name in evalib_imports(module) if ROW[name] >= ROW[module]]
    assert not wrong, f"evalib.{module} imports {sorted(wrong)}, which do not stand below it"


def test_the_package_itself_imports_nothing():
    """But a name that is asked for, by importlib; and for type checkers the same names from the same modules."""
    at_import = [node for node in run_at_import(TREES[""].body) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert at_import == []
    imports = [node for node in ast.walk(TREES[""]) if isinstance(node, ast.Import | ast.ImportFrom)]
    late = [node for node in imports if isinstance(node, ast.Import)]
    assert [alias.name for node in late for alias in node.names] == ["importlib"]
    named = [node for node in imports if isinstance(node, ast.ImportFrom)]
    seen = {alias.asname: node.module for node in named for alias in node.names}
    (table,) = (
        node.value for node in TREES[""].body if isinstance(node, ast.Assign) and ast.unparse(node.targets) == "_LATE"
    )
    assert seen == ast.literal_eval(table)


def test_no_cycles():
    order = TopologicalSorter({module: evalib_imports(module) for module in MODULES})
    assert set(order.static_order()) >= set(MODULES)  # raises CycleError, which names the cycle


def test_the_check_of_imports_sees_every_form(monkeypatch):
    """The checks above rest on `evalib_imports`: shown here on a text whose answer is known."""
    text = (
        "import evalib.cam\nfrom evalib import metrics, __version__\n"
        "from evalib.data import cifar10, folder\n"
        "def f():\n    from evalib.runtime import eval_mode\n"
    )
    names = ("cam", "metrics", "data", "data.cifar10", "data.folder", "runtime")
    monkeypatch.setitem(globals(), "MODULES", dict.fromkeys(names, PACKAGE))
    monkeypatch.setitem(globals(), "TREES", {"x": ast.parse(text)})
    assert evalib_imports("x") == {"cam", "metrics", "data", "data.folder", "runtime"}


@every_module
def test_heavy_packages_are_imported_where_they_are_used(module):
    for node in run_at_import(tree_of(module).body):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        heavy = {name.partition(".")[0] for name in names} & HEAVY
        assert not heavy, f"line {node.lineno}: import {heavy} inside the function that uses it"


@every_module
def test_prints_only_in_the_command_line(module):
    calls = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.Call)]
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert module.split(".")[0] in ("cli", "commands") or not lines, (
        f"print() in lines {lines}: return the result instead"
    )


@every_module
def test_docstrings(module):
    assert ast.get_docstring(tree_of(module)), "the module needs a docstring"
    if module != "evalib":
        bare = [name for name, node in public_definitions(module) if not ast.get_docstring(node)]
        # The shapes in `forward` stand in its comments; what it computes stands in the class.
        assert [name for name in bare if not name.endswith(".forward")] == []


@every_module
def test_sizes(module):
    """Modules of at most 300 lines, functions of at most 40 lines beside their docstring and 8 parameters."""
    text = MODULES["" if module == "evalib" else module].read_text("utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.FunctionDef):
            described = ast.get_docstring(node) is not None
            lines = height(node) - (height(node.body[0]) if described else 0)
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            count = len([a for a in arguments if a.arg not in ("self", "cls")])
            assert lines <= 40, f"{node.name}: {lines} lines"
            assert count <= 8, f"{node.name}: {count} parameters"


def test_no_drawer_for_odds_and_ends():
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert not [path for path in PACKAGE.rglob("*") if path.stem in drawers]


def test_no_unsafe_load():
    unsafe = "weights_only" + "=False"
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb"), ROOT / "README.md"]
    for file in filter(Path.is_file, files):
        assert unsafe not in file.read_text("utf-8").replace(" ", ""), file


def test_pickles_are_read_only_where_a_known_md5_stands_before_them():
    """CIFAR-10's own files; tests/data/test_cifar10.py shows it with tampered ones."""
    texts = {name: path.read_text("utf-8") for name, path in MODULES.items()}
    readers = {name for name, text in texts.items() if re.search(r"pickle\.(loads?|Unpickler)\b", text)}
    assert readers == {"data.cifar10"}
    assert not [name for name, text in texts.items() if "allow_pickle=" + "True" in text]


def test_the_package_docstring_maps_every_module():
    text = ast.get_docstring(TREES[""]) or ""
    mapped = {word.removeprefix("evalib.") for word in text.split() if word.startswith("evalib.")}
    existing = {name.partition(".")[0] for name in MODULES} - {"", "__main__"}
    assert mapped == existing
