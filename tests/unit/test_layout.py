"""The shape of the package: who imports whom, where each dependency lives, sizes."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterable, Iterator

import pytest

import dockerpush
from dockerpush.errors import PusherError

ROOT = Path(dockerpush.__file__).parent
PATHS = sorted(ROOT.rglob("*.py"))

FLOORS: tuple[set[str], ...] = (
    {"errors", "expressions", "values"},
    {"strict_json"},
    {"oci"},
    {"documents", "events", "markup", "platforms", "reference"},
    {"system"},
    {"settings"},
    {"credentials"},
    {"state"},
    {"archive", "progress", "registry", "runtimes", "server"},
    {"upload"},
    {"transfer"},
    {"sync"},
    {"api", "cli"},
    {"__init__", "__main__"},
)
"""Who imports whom: only what stands on a lower floor. Units of one floor stand side by
side: what one of them needs of another is passed in by its caller."""

UPWARD: dict[tuple[str, str], str] = {}
"""(module, unit) that may import upward, with the reason."""

HOMES = {
    "urllib3": {"registry"},
    "tqdm": {"progress"},
    "argparse": {"cli"},
    "http.server": {"server"},
    "bcrypt": {"server"},
    "yaml": {"sync"},
    "fcntl": {"system"},
    "msvcrt": {"system"},
    "pwd": {"system"},
    "resource": {"system"},
    "termios": {"system"},
    "tty": {"system"},
}
WRITERS = {"write_bytes", "write_text", "touch", "NamedTemporaryFile", "mkdtemp"}
OPENED_ELSEWHERE = {
    "cli/console.py": "/dev/null",
    "cli/report.py": "the --digestfile, a file of the user's own choice",
    "runtimes/runtime.py": "a named pipe or a device that the user named",
    "server/records.py": "the --access-log, to which lines are added",
    "server/storage.py": "the time of an empty file that is there",
    "transfer/archive_target.py": "a named pipe or a device that the user named",
}
"""Who opens a file for writing elsewhere than in system/files.py, and what it is."""
THREADS = {"Thread", "Timer", "ThreadPoolExecutor", "start_new_thread"}
POSIX_ONLY = {"pread", "preadv", "fork", "getuid", "geteuid", "setsid", "killpg"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Each node of the code of *path*, its module first."""
    return list(ast.walk(ast.parse(path.read_text("utf-8"), str(path))))


Rule = Callable[[Path], None]


def each_module(rule: Rule) -> Callable[[], None]:
    """A test of all modules by *rule*, which names each one that breaks it."""

    def test() -> None:
        found = list(broken(rule, PATHS))
        assert not found, "\n".join(found)

    test.__name__, test.__doc__ = rule.__name__, rule.__doc__
    RULES[rule.__name__] = rule
    return test


RULES: dict[str, Rule] = {}


def broken(rule: Rule, paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        try:
            rule(path)
        except AssertionError as error:
            yield f"{relative(path)}: {error}"


def unit(path: Path) -> str:
    """The top-level module or package that *path* belongs to."""
    return path.relative_to(ROOT).parts[0].partition(".")[0]


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that *path* imports, wherever in the file."""
    package = ("dockerpush", *path.relative_to(ROOT).parts[:-1])
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*start, *filter(None, [node.module])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> Iterator[str]:
    """The units of ours that *path* imports."""
    for name in imports(path):
        first, _, rest = name.partition(".")
        if first == "dockerpush":
            yield rest.partition(".")[0]


def level(name: str) -> int:
    """On which floor a unit stands."""
    found = [number for number, floor in enumerate(FLOORS) if name in floor]
    assert found, f"{name} needs a place in FLOORS"
    return found[0]


@each_module
def test_imports_point_one_way(path):
    """errors and such ← oci ← the rest of the base ← the sides ← transfer ← cli."""
    if path == ROOT / "__init__.py":
        return  # the public API, which is loaded lazily
    mine = unit(path)
    for other in own_imports(path):
        if other in (mine, "__version__") or (dotted(path), other) in UPWARD:
            continue
        assert level(other) < level(mine), f"{dotted(path)} imports {other}"


JSON_READERS = {"load", "loads", "JSONDecoder", "raw_decode"}


@each_module
def test_one_module_reads_json(path):
    """There is one rule for what comes from outside; see strict_json."""
    if dotted(path) == "strict_json":
        return
    names = [node for node in nodes(path) if isinstance(node, ast.Attribute)]
    assert not [
        node.attr
        for node in names
        if node.attr in JSON_READERS
        and (node.attr == "raw_decode" or getattr(node.value, "id", "") == "json")
    ]
    assert not {f"json.{name}" for name in JSON_READERS}.intersection(imports(path))


OWN_FILES = {
    *("credentials.credential_files", "credentials.credential_store"),
    *("credentials.credential_helpers", "settings.config", "sync.list_document"),
    *("state.upload_sessions", "state.cache", "state.directory"),
    *("server.storage", "archive.writers"),
}
"""Who reads what this machine, or its user, wrote: it needs no shape."""


@each_module
def test_what_comes_from_outside_has_a_shape(path):
    calls = [node for node in nodes(path) if isinstance(node, ast.Call)]
    readers = [one for one in calls if getattr(one.func, "id", "") == "parse_json"]
    without = [one.lineno for one in readers if len(one.args) < 3]
    assert bool(without) is (dotted(path) in OWN_FILES), without


def dotted(path: Path) -> str:
    """The name of a module below dockerpush; that of a package for its __init__."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in PATHS}


def graph() -> dict[str, set[str]]:
    """Which of our modules each of them imports, wherever in the file."""
    found: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        full = [other.partition(".")[2] for other in imports(path) if is_ours(other)]
        modules = {
            other if other in MODULES else other.rpartition(".")[0] for other in full
        }
        found[name] = modules - {name, ""}
    return found


def is_ours(name: str) -> bool:
    return name.startswith("dockerpush.")


def reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for other in edges.get(waiting.pop(), set()) - found:
            found.add(other)
            waiting.append(other)
    return found


def circles(edges: dict[str, set[str]]) -> set[frozenset[str]]:
    """Groups of modules each of which leads to all others of its group."""
    below = {name: reachable(name, edges) for name in edges}
    return {
        frozenset({other for other in below[name] if name in below.get(other, ())})
        for name in edges
        if name in below[name]
    }


def test_no_modules_import_each_other():
    assert not circles(graph())


def test_a_circle_is_seen():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert circles(edges) == {frozenset({"a", "b", "c"})}


def test_what_is_shared_by_commands_uses_none_of_them():
    for name, others in graph().items():
        if name.startswith("cli.") and not name.startswith("cli.commands"):
            used = {other for other in others if other.startswith("cli.commands.")}
            assert not used, f"{name} imports {used}"


READERS_OF_ARGUMENTS = {"cli.main", "cli.options", "cli.side_options"}


@each_module
def test_only_commands_and_the_parser_see_parsed_arguments(path):
    """Everything below gets values, each side of a copy an `Endpoint` of its own."""
    name = dotted(path)
    if name not in READERS_OF_ARGUMENTS and not name.startswith("cli.commands."):
        assert "Namespace" not in names(path)


def test_no_two_modules_share_a_name():
    """But for commands, which are called as people call them."""
    names = [
        path.stem
        for path in PATHS
        if path.stem != "__init__" and path.parent.name != "commands"
    ]
    assert sorted(names) == sorted(set(names))


def test_no_two_public_classes_share_a_name():
    homes: dict[str, list[str]] = {}
    for path in PATHS:
        for node in nodes(path)[0].body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(relative(path))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


@each_module
def test_every_dependency_has_one_home(path):
    for name in imports(path):
        for dependency, homes in HOMES.items():
            if f"{name}.".startswith(f"{dependency}."):
                assert unit(path) in homes, f"{name} belongs in {homes}"


def names(path: Path) -> Iterator[str]:
    """Every name and attribute that *path* mentions in its code."""
    for node in nodes(path):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


@each_module
def test_only_workers_and_the_server_make_threads(path):
    if unit(path) not in ("system", "server"):
        assert THREADS.isdisjoint(names(path))


@each_module
def test_only_the_command_line_prints(path):
    if unit(path) != "cli":
        assert "print" not in names(path)


@each_module
def test_what_only_posix_has_is_in_one_module(path):
    if unit(path) != "system":
        assert POSIX_ONLY.isdisjoint(names(path))


@each_module
def test_partial_temp_and_lock_files_are_opened_in_one_module(path):
    """There a planted link is not followed; `tempfile` makes files without names."""
    opened = sorted(writing(path))
    if relative(path) == "system/files.py":
        assert "O_CREAT" in opened
    else:
        assert bool(opened) == (relative(path) in OPENED_ELSEWHERE), opened


def writing(path: Path) -> Iterator[str]:
    """How a module opens files that it may make or change."""
    for node in nodes(path):
        if isinstance(node, ast.Attribute) and node.attr in {"O_CREAT", *WRITERS}:
            yield node.attr
        if isinstance(node, ast.Call) and is_open_to_write(node):
            yield ast.unparse(node)


def is_open_to_write(node: ast.Call) -> bool:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    modes = (each.value for each in node.args if isinstance(each, ast.Constant))
    return name in {"open", "fdopen"} and any(
        isinstance(mode, str) and re.fullmatch(r"[rbt]*[wax+][wax+rbt]*", mode)
        for mode in modes
    )


@each_module
def test_modules_are_short_and_say_what_they_are(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 600
    assert not text or ast.get_docstring(nodes(path)[0])


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in nodes(path):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, its docstring apart."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@each_module
def test_functions_are_short_and_take_few_positional_parameters(path):
    for node in functions(path):
        assert body_lines(node) <= 49, node.name
        few = positional(node)
        if not node.name.startswith("_"):
            assert len(few) <= 4, f"{node.name}({', '.join(few)})"


def positional(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of the parameters that may be given by position."""
    taken = [argument.arg for argument in node.args.posonlyargs + node.args.args]
    return [name for name in taken if name not in ("self", "cls")]


def test_half_of_all_functions_have_ten_lines_at_most():
    sizes = sorted(body_lines(node) for path in PATHS for node in functions(path))
    assert sizes[len(sizes) // 2] <= 10


@each_module
def test_every_exception_derives_from_ours(path):
    """Whoever uses us as a library catches one class."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    module = importlib.import_module(".".join(parts).replace(".__init__", ""))
    for _, kind in inspect.getmembers(module, inspect.isclass):
        if kind.__module__ == module.__name__ and issubclass(kind, BaseException):
            assert issubclass(kind, PusherError)


IMPORTED = """
import sys
from dockerpush.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
heavy = {"urllib3", "tqdm", "ssl", "http.client", "tarfile", "asyncio", "unittest"}
print(sorted(heavy & sys.modules.keys()), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["push", "--help"], ["inspect", "--help"], []],
    ids=" ".join,
)
def test_help_and_version_load_neither_urllib3_nor_tqdm(arguments):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
    )
    loaded = done.stderr.splitlines()[-1]
    assert "urllib3" not in loaded and "tqdm" not in loaded
    if arguments in (["--version"], ["--help"]):
        assert done.stdout.strip()
        assert loaded == "[]"


def test_the_rules_of_this_file_see_what_they_forbid(tmp_path, monkeypatch):
    """Each of them names a module that breaks it, and a sound one is in none."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    wrong, sound = tmp_path / "archive" / "wrong.py", tmp_path / "archive" / "sound.py"
    wrong.parent.mkdir()
    sound.write_text('"""Nothing is wrong here."""\n')
    wrong.write_text("""
import fcntl
import urllib3.util
from ..registry import client
def long(a, b, c, d, e):
    print(threading.Thread, os.pread, argparse.Namespace, open(a, "w"))
    json.load(b)
    parse_json(c, d)
""")
    for name, rule in RULES.items():
        if name != "test_every_exception_derives_from_ours":  # it imports them
            (found,) = broken(rule, [wrong, sound])
            assert found.startswith("archive/wrong.py: "), (name, found)


def test_the_guide_for_contributors_names_files_that_there_are():
    guide = (ROOT.parent / ".github" / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"`((?:dockerpush/|tests/)?[a-z_/]+\.py)`", guide))
    assert len(named) >= 15
    for name in named:
        places = (ROOT / name, ROOT.parent / name)
        assert any(place.is_file() for place in places), name
