"""The house of ARCHITECTURE.md, held by machine: who imports whom, what pure parts may not know, sizes, docstrings."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MIN_DOCSTRING_CHARS = 20

# From top to bottom; each part imports only from parts below it and from its own.
PARTS = ["mqttprov.cli", "mqttprov_simulator", "mqttprov.embed", "mqttprov.brokers", "mqttprov.admin",
         "mqttprov.responder", "mqttprov.store", "mqttprov.pki", "mqttprov.wire", "mqttprov.gateway", "mqttprov.mqtt",
         "mqttprov.core"]  # fmt: skip
# The package itself holds only its version, which anybody may know, and starts the command line.
PACKAGE = "mqttprov"
STARTER = "mqttprov.__main__"

PURE_PARTS = ("mqttprov.core", "mqttprov.mqtt", "mqttprov.gateway.machine")
# Clock, randomness, files, network, threads and processes: everything by which a pure part could meet the world.
IMPURE = {"asyncio", "concurrent", "ctypes", "datetime", "fileinput", "glob", "io", "logging", "multiprocessing", "os",
          "pathlib", "queue", "random", "sched", "secrets", "select", "selectors", "shutil", "signal", "socket",
          "socketserver", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid",
          "uvloop", "_thread"}  # fmt: skip
IMPURE_BUILTINS = {"open", "input", "print", "exec", "eval", "__import__"}


def module_name(path: Path, base: Path) -> str:
    """Give a module's dotted name."""
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {
    module_name(path, base): path for base in (ROOT / "src", ROOT / "simulator") for path in sorted(base.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in PATHS.items()}
FILES = sorted(
    path
    for folder in ("src", "simulator", "bench", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if path.is_file()
)


def imports(module: str) -> Iterator[tuple[int, str]]:
    """Give line and full name of everything that a module imports, also inside functions; for `from a import b` a.b."""
    package = module.split(".") if PATHS[module].name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
            for alias in node.names:
                yield node.lineno, ".".join([*start, alias.name] if node.level else [node.module or "", alias.name])


def module_of(name: str) -> str | None:
    """Give the module of ours that an imported name lies in."""
    while name and name not in PATHS:
        name = name.rpartition(".")[0]
    return name or None


def part_of(module: str) -> str | None:
    """Give the part that a module belongs to; None for the package itself and its starter."""
    return next((part for part in PARTS if module == part or module.startswith(part + ".")), None)


def is_pure(module: str) -> bool:
    """Tell whether a module must know no clock, randomness, file or network."""
    return any(module == part or module.startswith(part + ".") for part in PURE_PARTS)


def test_there_is_something_to_check() -> None:
    """A moved folder must not make these tests pass for nothing."""
    assert {part_of(module) for module in PATHS} - {None} == set(PARTS)
    assert any(is_pure(module) for module in PATHS)


def test_every_module_belongs_to_a_part() -> None:
    """A new part is put into the table first."""
    assert {module for module in PATHS if part_of(module) is None} <= {PACKAGE, STARTER}


@pytest.mark.parametrize("module", PATHS)
def test_imports_go_downwards(module: str) -> None:
    """Each part imports only from those below it and from its own."""
    own = part_of(module)
    if module == STARTER:
        return  # it starts the command line and nothing imports it
    lowest = PARTS.index(own) if own else len(PARTS)
    wrong = []
    for line, name in imports(module):
        target = module_of(name)
        if target is None or target == PACKAGE:
            continue
        part = part_of(target)
        if part is None or PARTS.index(part) < lowest:
            wrong.append(f"{PATHS[module]}:{line}: {module} must not import {name}")
    assert wrong == []


@pytest.mark.parametrize("module", [module for module in PATHS if is_pure(module)])
def test_pure_parts_know_no_clock_randomness_or_outside(module: str) -> None:
    """`now` and entropy are arguments, so that every run can be repeated (ARCHITECTURE.md)."""
    wrong = [f"line {line}: {name}" for line, name in imports(module) if name.split(".")[0] in IMPURE]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_BUILTINS:
            wrong.append(f"line {node.lineno}: {node.func.id}()")
        if isinstance(node, ast.AsyncFunctionDef | ast.Await):
            wrong.append(f"line {node.lineno}: async")
    assert wrong == []


@pytest.mark.parametrize("module", [module for module in PATHS if is_pure(module)])
def test_pure_parts_import_only_pure_parts(module: str) -> None:
    """Nothing impure comes in through the own part either."""
    targets = {module_of(name) for _, name in imports(module)}
    assert [target for target in targets if target and target != PACKAGE and not may_be_imported(target)] == []


def may_be_imported(module: str) -> bool:
    """Tell whether a module of ours imports, itself and through others, nothing impure."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        seen.add(current)
        names = [name for _, name in imports(current)]
        if any(name.split(".")[0] in IMPURE for name in names):
            return False
        waiting += [target for name in names if (target := module_of(name)) and target not in seen]
    return True


def top_level_imports(module: str) -> set[str]:
    """Give the modules of ours that importing a module imports at once (not under TYPE_CHECKING, not in functions)."""
    body = [node for node in TREES[module].body if isinstance(node, ast.Import | ast.ImportFrom)]
    lines = {node.lineno for node in body}
    return {
        t for line, name in imports(module) if line in lines and (t := module_of(name)) and t not in {module, PACKAGE}
    }


def test_there_are_no_cycles() -> None:
    """Modules form a directed graph without cycles, within a part too."""
    graph = {module: top_level_imports(module) for module in PATHS}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small_and_say_what_they_are(path: Path) -> None:
    """At most 400 lines for a file and 60 for a function; every module says what lives there."""
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    wrong = []
    if text.count("\n") > MAX_FILE_LINES:
        wrong.append(f"{text.count(chr(10))} lines in the file")
    if len(ast.get_docstring(tree) or "") < MIN_DOCSTRING_CHARS:
        wrong.append("no docstring that says what lives here")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                wrong.append(f"line {node.lineno}: {node.name} has {lines} lines")
    assert wrong == []
