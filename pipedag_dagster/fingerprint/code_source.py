"""The source of functions and classes: what of it counts, and which names it uses.

Source and not bytecode, because bytecode differs between versions of Python. Only the standard library is used here.
"""

from __future__ import annotations

import ast
import linecache
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Chain: TypeAlias = tuple[str, ...]
"""A name as code uses it: `helpers.clean` is `("helpers", "clean")`."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Node: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef

_IGNORED = {"ctx", "kind", "type_comment", "type_ignores", "type_params"}  # empty, or of no effect
# Decorators that do not look at the annotations of the function.
_BLIND = {"staticmethod", "classmethod", "property", "cached_property", "cache", "lru_cache", "wraps", "override"}
_OURS, _EXAMPLES = "pipedag_dagster", "pipedag_dagster.examples"


@dataclass(frozen=True)
class Import:
    """`from module import name as …`, or `import module` (without a name). `level` counts leading dots."""

    module: str
    name: str | None
    level: int = 0


@dataclass(frozen=True)
class CodeSource:
    """What was read of a function, a class or an expression.

    plain: the code without what does nothing: formatting, comments, docstrings, annotations that nobody reads.
    chains: the names that it uses, each as far as its attributes go.
    called: those of them that it calls, with the line of the call.
    annotated: the first names in its annotations, whether they count or not.
    imports: the names that it imports itself.
    text: for people.
    """

    plain: str
    chains: tuple[Chain, ...]
    called: Mapping[Chain, int]
    annotated: tuple[str, ...]
    imports: Mapping[str, Import]
    text: str
    file: str
    line: int
    is_class: bool


@dataclass
class Module:
    """A parsed file."""

    file: str
    lines: list[str]
    tree: ast.Module
    imports: dict[str, Import] = field(default_factory=dict)
    stars: list[Import] = field(default_factory=list)
    assigned: dict[str, ast.expr] = field(default_factory=dict)
    _nodes: dict[tuple[str, int], list[_Node]] = field(default_factory=dict)
    _classes: dict[str, list[ast.ClassDef]] = field(default_factory=dict)
    _codes: dict[tuple[str, int], list[types.CodeType]] | None = None
    _read: dict[Any, CodeSource] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index(self.tree, "")
        for statement in _statements(self.tree.body):
            self._assign(statement)

    def _index(self, node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            below = prefix
            if isinstance(child, _Function):
                self._nodes.setdefault((child.name, _first_line(child)), []).append(child)
                below = f"{prefix}{child.name}.<locals>."
            elif isinstance(child, ast.Lambda):
                self._nodes.setdefault(("<lambda>", child.lineno), []).append(child)
                below = f"{prefix}<lambda>.<locals>."
            elif isinstance(child, ast.ClassDef):
                self._classes.setdefault(f"{prefix}{child.name}", []).append(child)
                below = f"{prefix}{child.name}."
            self._index(child, below)

    def _assign(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found, stars = _imports(statement)
            self.imports |= found
            self.stars += stars
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                        self.assigned[name.id] = statement.value
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            self.assigned[statement.target.id] = statement.value

    def of_function(self, code: types.CodeType) -> CodeSource | None:
        """The source that `code` was compiled from; None when the file holds another one by now."""
        nodes = self._nodes.get((code.co_name, code.co_firstlineno), [])
        if not nodes or not self.has(code):
            return None
        node = nodes[0] if len(nodes) == 1 else _at(nodes, code)
        used = set(_names(code))
        return self._source(node, used)

    def has(self, code: types.CodeType) -> bool:
        """Whether the text of the file compiles to this code: it may have been edited since it was imported."""
        if "@pytest_ar" in set(_names(code)):
            return True  # pytest has rewritten its assertions
        if self._codes is None:
            self._codes = {}
            todo = [compile("".join(self.lines), self.file, "exec", dont_inherit=True)]
            while todo:
                found = todo.pop()
                self._codes.setdefault((found.co_name, found.co_firstlineno), []).append(found)
                todo += [part for part in found.co_consts if isinstance(part, types.CodeType)]
        return code in self._codes.get((code.co_name, code.co_firstlineno), [])

    def of_class(self, kind: type) -> CodeSource | None:
        """The source of a class; of several with its name, the one around its methods, else the last."""
        nodes = self._classes.get(kind.__qualname__)
        if not nodes:
            return None
        lines = [part.__code__.co_firstlineno for part in vars(kind).values() if isinstance(part, types.FunctionType)]
        around = [node for node in nodes if any(node.lineno <= line <= (node.end_lineno or 0) for line in lines)]
        return self._source((around or nodes)[-1], None)

    def of_constant(self, name: str) -> CodeSource | None:
        """The expression that a name of the module is assigned."""
        value = self.assigned.get(name)
        return None if value is None else self._source(value, None)

    def whole(self) -> CodeSource:
        """All of it."""
        return self._source(self.tree, None)

    def _source(self, node: ast.AST, used: set[str] | None) -> CodeSource:
        key = (node, None if used is None else frozenset(used))
        if key not in self._read:
            reader = _Reader(self.imports)
            plain = reader.plain(node)
            known = used if used is None else used | set(reader.imports)
            chains = sorted(c for c in reader.chains if known is None or c[0] in known or c in reader.around)
            line, end = _first_line(node), getattr(node, "end_lineno", 1)
            text = textwrap.dedent("".join(self.lines[line - 1 : end])).rstrip()
            if isinstance(node, ast.expr):
                text = ast.get_source_segment("".join(self.lines), node) or ast.unparse(node)
            self._read[key] = CodeSource(
                plain,
                tuple(chains),
                reader.called,
                tuple(sorted(reader.annotated)),
                reader.imports,
                text,
                self.file,
                line,
                isinstance(node, ast.ClassDef),
            )
        return self._read[key]


_parsed: dict[str, list[Module]] = {}
_KEPT = 4  # readings of a file that was edited while this process runs


def _readings(file: str | None, namespace: dict[str, Any]) -> list[Module]:
    """The file as it is, and before it as it was when it was read earlier. Empty when it is not there or no Python."""
    if file is None:
        return []
    linecache.checkcache(file)
    lines = linecache.getlines(file, namespace)
    known = _parsed.setdefault(file, [])
    if lines and not (known and known[0].lines == lines):
        try:
            known.insert(0, Module(file, lines, ast.parse("".join(lines))))
        except (SyntaxError, ValueError):
            return known
        del known[_KEPT:]
    return known


def module(file: str | None, namespace: dict[str, Any]) -> Module | None:
    """The parsed file of a module, as it was when it was imported, as far as the functions that it has can tell."""
    readings = _readings(file, namespace)
    if len(readings) < 2:
        return readings[0] if readings else None
    functions = (value for value in namespace.values() if isinstance(value, types.FunctionType))
    codes = [function.__code__ for function in functions if function.__code__.co_filename == file]
    return next((one for one in readings if all(map(one.has, codes))), readings[-1])


def of_function(function: types.FunctionType) -> CodeSource | None:
    """The source of a function or lambda; None when it has none, or the file has changed since it was imported."""
    code = function.__code__
    readings = _readings(code.co_filename, function.__globals__)
    return next(filter(None, (one.of_function(code) for one in readings)), None)


class _Reader:
    """Goes through a syntax tree once: writes down what counts, and collects the names that this uses."""

    def __init__(self, imports: Mapping[str, Import]) -> None:
        self.outer = imports
        self.chains: set[Chain] = set()
        self.around: set[Chain] = set()  # in what is around a function: decorators, annotations
        self.called: dict[Chain, int] = {}
        self.annotated: set[str] = set()
        self.imports: dict[str, Import] = {}
        self._within: list[ast.AST] = []
        self._silent = False
        self._outside = False

    def plain(self, node: Any) -> str:
        """The canonical text of a node: its type, and its fields without what is empty."""
        if isinstance(node, list):
            return f"[{','.join(filter(None, map(self.plain, node)))}]"
        if not isinstance(node, ast.AST):
            return f"{type(node).__name__}:{node!r}"
        if isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return ""  # does nothing: docstrings too
        if isinstance(node, ast.Import | ast.ImportFrom) and self._within:
            self.imports |= _imports(node)[0]
        if isinstance(node, ast.Call):
            chain = _chain(node.func)
            if chain and not self._silent and "__hash__" not in [getattr(one, "name", "") for one in self._within]:
                self.called.setdefault(chain, node.lineno)
        chain = _chain(node)
        if chain:
            if not self._silent:
                self.chains.add(chain)
                self.around |= {chain} if self._outside else set()
            return f"Name:{'.'.join(chain)}"
        if isinstance(node, ast.AnnAssign):
            return self._annotated(node)
        if isinstance(node, _Function | ast.Lambda | ast.ClassDef):
            return self._definition(node)
        return self._fields(node)

    def _fields(self, node: ast.AST, without: Iterable[str] = ()) -> str:
        parts = []
        for name in node._fields:
            value = getattr(node, name, None)
            if name in _IGNORED or name in without or (value is None and not isinstance(node, ast.Constant)):
                continue
            if isinstance(value, list) and not value:
                continue
            parts.append(f"{name}={self.plain(value)}")
        return f"{type(node).__name__}({','.join(parts)})"

    def _annotated(self, node: ast.AnnAssign) -> str:
        """Those in a class are fields: of a dataclass, of a pydantic model. Those of local names do nothing."""
        if self._within and isinstance(self._within[-1], ast.ClassDef):
            kept = self.plain(node.annotation)
            if isinstance(node.annotation, ast.Constant) and isinstance(node.annotation.value, str):
                self._look(node.annotation.value)
            return f"Field({self.plain(node.target)},{kept},{'' if node.value is None else self.plain(node.value)})"
        self._note(node.annotation)
        if node.value is None:
            return ""
        return f"Assign(targets=[{self.plain(node.target)}],value={self.plain(node.value)})"

    def _definition(self, node: _Node) -> str:
        in_class = bool(self._within) and isinstance(self._within[-1], ast.ClassDef) and not self._silent
        decorators = [one for one in getattr(node, "decorator_list", []) if not self._is_ours(one)]
        self._outside, outside = self._outside or not self._within, self._outside
        parts = [type(node).__name__, getattr(node, "name", ""), self.plain(decorators)]
        self._outside = outside
        self._within.append(node)
        if isinstance(node, ast.ClassDef):
            parts += [self.plain(node.bases), self.plain(node.keywords), self.plain(node.body)]
        else:
            names = {(_chain(getattr(one, "func", one)) or ("",))[-1] for one in decorators}
            seen = not names <= _BLIND and not isinstance(node, ast.Lambda)
            self._outside = outside or len(self._within) == 1
            parts.append(self._arguments(node.args, seen))
            returns = getattr(node, "returns", None)
            if returns is not None:
                parts += [self.plain(returns)] if seen else []
                self._note(returns)
            self._outside = outside
            # What a method uses is looked up from the method itself, which knows its closure.
            self._silent, before = self._silent or in_class, self._silent
            parts.append(self.plain(node.body))
            self._silent = before
        self._within.pop()
        return f"Definition({','.join(parts)})"

    def _arguments(self, arguments: ast.arguments, annotations: bool) -> str:
        parts = []
        for name in arguments._fields:
            value = getattr(arguments, name)
            if name in ("defaults", "kw_defaults"):
                parts.append(self.plain([part for part in value if part is not None]))
                parts.append(str([part is None for part in value]))
                continue
            for one in value if isinstance(value, list) else [value] if value else []:
                parts.append(f"{name}:{one.arg}")
                if one.annotation is not None:
                    self._note(one.annotation)
                    parts += [self.plain(one.annotation)] if annotations else []
        return f"arguments({','.join(parts)})"

    def _note(self, annotation: ast.expr) -> None:
        self.annotated.update(node.id for node in ast.walk(annotation) if isinstance(node, ast.Name))

    def _look(self, annotation: str) -> None:
        """The names in an annotation that is written as a text."""
        try:
            self.plain(ast.parse(annotation, mode="eval"))
        except SyntaxError:
            return

    def _is_ours(self, decorator: ast.expr) -> bool:
        """`@materialize(…)`: its options are no code of the task."""
        chain = _chain(getattr(decorator, "func", decorator))
        origin = self.outer.get(chain[0]) if chain else None
        return origin is not None and _below(origin.module, _OURS) and not _below(origin.module, _EXAMPLES)


def _below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _chain(node: ast.AST) -> Chain | None:
    names: list[str] = []
    while isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or (names == [] and not isinstance(node.ctx, ast.Load)):
        return None
    return (node.id, *reversed(names))


def _first_line(node: ast.AST) -> int:
    lines: list[int] = [one.lineno for one in getattr(node, "decorator_list", [])]
    return min([*lines, int(getattr(node, "lineno", 1))])


def _names(code: types.CodeType) -> Iterator[str]:
    """All names that code and the code in it use, but for its local ones."""
    yield from code.co_names
    yield from code.co_freevars
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _names(part)


def _at(nodes: list[_Node], code: types.CodeType) -> ast.AST:
    """Which of several lambdas of one line: the innermost one around all that the code says about its columns."""
    columns = [
        (line, start, end)
        for line, _, start, end in code.co_positions()
        if line is not None and start is not None and end is not None and (start, end) != (0, 0)
    ]

    def around(node: _Node) -> bool:
        body = node.body if isinstance(node, ast.Lambda) else node
        assert isinstance(body, ast.AST)
        first, last = (getattr(body, "lineno", 0), getattr(body, "col_offset", 0)), getattr(body, "end_lineno", 0)
        width = getattr(body, "end_col_offset", 0)
        return all(first <= (line, start) and (line < last or end <= width) for line, start, end in columns)

    found = [node for node in nodes if columns and around(node)]
    # Python can be told to forget columns: then all of them count.
    return found[-1] if found else ast.Tuple([node for node in nodes if isinstance(node, ast.expr)], ast.Load())


def _imports(statement: ast.Import | ast.ImportFrom) -> tuple[dict[str, Import], list[Import]]:
    """The names that a statement binds, and the modules that it takes all names of."""
    if isinstance(statement, ast.Import):
        return {
            one.asname or one.name.partition(".")[0]: Import(
                one.name if one.asname else one.name.partition(".")[0], None
            )
            for one in statement.names
        }, []
    origin, level = statement.module or "", statement.level
    named = {one.asname or one.name: Import(origin, one.name, level) for one in statement.names if one.name != "*"}
    return named, [Import(origin, "*", level) for one in statement.names if one.name == "*"]


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, also those in its `if`, `try`, `with` and `for`."""
    for statement in body:
        yield statement
        if not isinstance(statement, _Function | ast.ClassDef):
            for name in ("body", "orelse", "finalbody"):
                inner = getattr(statement, name, [])
                yield from _statements(inner if isinstance(inner, list) else [])
            for handler in getattr(statement, "handlers", []):
                yield from _statements(handler.body)
