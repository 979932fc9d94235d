"""The source of functions, classes and constants, as it was when their file was imported.

Source and not bytecode, because bytecode differs between versions of Python. Only the standard library is used here.
"""

from __future__ import annotations

import ast
import linecache
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipedag_dagster.fingerprint.import_statement import Import, imports, stars
from pipedag_dagster.fingerprint.syntax_reader import Chain, Definition, Function, SyntaxReader


@dataclass(frozen=True)
class CodeSource:
    """What was read of a function, a class or an expression. For the fields see `SyntaxReader`.

    plain: the code without what does nothing: formatting, comments, docstrings, annotations that nobody reads.
    annotations: of a function, the plain text of its annotations, which count where a library may read them.
    text: for people.
    """

    plain: str
    annotations: str
    chains: tuple[Chain, ...]
    called: Mapping[Chain, int]
    annotated: tuple[str, ...]
    imports: Mapping[str, Import]
    attributes: frozenset[str]
    opaque: Mapping[str, int]
    text_queries: Mapping[Chain, int]
    text: str
    file: str
    line: int
    is_class: bool


@dataclass
class CodeFile:
    """A parsed file.

    assigned: the statements that bind each name of the module, in their order.
    """

    file: str
    lines: list[str]
    tree: ast.Module
    imports: dict[str, Import] = field(default_factory=dict)
    stars: list[Import] = field(default_factory=list)
    assigned: dict[str, list[ast.AST]] = field(default_factory=dict)
    _nodes: dict[tuple[str, int], list[Definition]] = field(default_factory=dict)
    _classes: dict[str, list[ast.ClassDef]] = field(default_factory=dict)
    _codes: dict[tuple[str, int], list[types.CodeType]] | None = None
    _read: dict[Any, CodeSource] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index(self.tree, "")
        for statement in statements(self.tree.body):
            self._assign(statement)

    def _index(self, node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            below = prefix
            if isinstance(child, Function):
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
            self.imports |= imports(statement)
            self.stars += stars(statement)
        elif isinstance(statement, Function | ast.ClassDef):
            self.assigned[statement.name] = [statement]
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for name in (name for target in targets for name in _stored(target)):
                self.assigned[name] = [statement.value] if statement.value else self.assigned.get(name, [])
        else:
            for part in _own_parts(statement):
                for name in _stored(part):
                    self.assigned.setdefault(name, []).append(statement)

    def of_function(self, code: types.CodeType) -> CodeSource | None:
        """The source that `code` was compiled from; None when the file has changed since."""
        nodes = self._nodes.get((code.co_name, code.co_firstlineno), [])
        if not nodes or not self.has(code):
            return None
        return self.read(nodes[0] if len(nodes) == 1 else _at(nodes, code))

    def has(self, code: types.CodeType) -> bool:
        """Whether the text of the file compiles to this code: it may have been edited since it was imported."""
        if _is_rewritten(code):
            return True
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
        return self.read((around or nodes)[-1])

    def of_constant(self, name: str) -> CodeSource | None:
        """The expression that a name of the module is assigned, or the statements that make it."""
        nodes = self.assigned.get(name)
        if not nodes:
            return None
        return self.read(nodes[0]) if len(nodes) == 1 else self.read(*nodes)

    def read(self, *nodes: ast.AST) -> CodeSource:
        """What counts of some nodes of this file, and the names in them."""
        if nodes not in self._read:
            reader = SyntaxReader(self.imports)
            plain = "".join(map(reader.plain, nodes))
            node = nodes[-1]
            self._read[nodes] = CodeSource(
                plain,
                _annotations(node),
                tuple(sorted(reader.chains)),
                reader.called,
                tuple(sorted(reader.annotated)),
                reader.imports,
                frozenset(reader.attributes),
                reader.opaque,
                reader.text_queries,
                self._text(node),
                self.file,
                _first_line(node),
                isinstance(node, ast.ClassDef),
            )
        return self._read[nodes]

    def _text(self, node: ast.AST) -> str:
        if isinstance(node, ast.expr):
            return ast.get_source_segment("".join(self.lines), node) or ast.unparse(node)
        line, end = _first_line(node), getattr(node, "end_lineno", 1)
        return textwrap.dedent("".join(self.lines[line - 1 : end])).rstrip()


_parsed: dict[str, list[CodeFile]] = {}
_KEPT = 4  # readings of a file that was edited while this process runs


def _readings(file: str | None, namespace: dict[str, Any]) -> list[CodeFile]:
    """The file as it is, and before it as it was when it was read earlier. Empty when there is no such file, or it is
    not Python."""
    if file is None:
        return []
    linecache.checkcache(file)
    lines = linecache.getlines(file, namespace)
    known = _parsed.setdefault(file, [])
    if lines and not (known and known[0].lines == lines):
        try:
            known.insert(0, CodeFile(file, lines, ast.parse("".join(lines))))
        except (SyntaxError, ValueError):
            return known
        del known[_KEPT:]
    return known


def code_file(file: str | None, namespace: dict[str, Any]) -> CodeFile | None:
    """The parsed file of a module, as it was when it was imported, as far as the functions that it has can tell."""
    readings = _readings(file, namespace)
    if len(readings) < 2:
        return readings[0] if readings else None
    functions = (value for value in namespace.values() if isinstance(value, types.FunctionType))
    codes = [function.__code__ for function in functions if function.__code__.co_filename == file]
    return next((one for one in readings if all(map(one.has, codes))), readings[-1])


def function_source(function: types.FunctionType) -> CodeSource | None:
    """The source of a function or lambda; None when it has none, or the file has changed since it was imported."""
    code = function.__code__
    readings = _readings(code.co_filename, function.__globals__)
    return next(filter(None, (one.of_function(code) for one in readings)), None)


def class_source(kind: type, namespace: dict[str, Any]) -> CodeSource | None:
    """The source of a class, from the file of its module or of its methods; None for one that was made by a call."""
    files = [namespace.get("__file__")]
    files += [part.__code__.co_filename for part in vars(kind).values() if isinstance(part, types.FunctionType)]
    for file in dict.fromkeys(files):
        found = code_file(file, namespace)
        source = found and found.of_class(kind)
        if source:
            return source
    return None


def mentions_file(own: CodeFile, name: str) -> bool:
    """Whether a constant comes from the path of its module, by way of other constants too."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        one = todo.pop()
        source = None if one in seen else own.of_constant(one)
        seen.add(one)
        roots = [chain[0] for chain in source.chains] if source else []
        if "__file__" in roots:
            return True
        todo += roots
    return False


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, also those in its `if`, `try`, `with`, `for` and `match`."""
    for statement in body:
        yield statement
        if not isinstance(statement, Function | ast.ClassDef):
            for name in ("body", "orelse", "finalbody"):
                inner = getattr(statement, name, [])
                yield from statements(inner if isinstance(inner, list) else [])
            for part in (*getattr(statement, "handlers", []), *getattr(statement, "cases", [])):
                yield from statements(part.body)


def _annotations(node: ast.AST) -> str:
    if not isinstance(node, Function):
        return ""
    every = [one.annotation for one in ast.walk(node.args) if isinstance(one, ast.arg)]
    return ",".join("" if one is None else ast.dump(one) for one in (*every, node.returns))


def _own_parts(statement: ast.stmt) -> list[ast.AST]:
    """What a compound statement has before its body: `for` targets, `with … as`, `:=` in a condition."""
    bodies = ("body", "orelse", "finalbody", "handlers", "cases")
    return [child for name, child in _children(statement) if name not in bodies]


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield name, child


def _stored(target: ast.AST) -> Iterator[str]:
    return (node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))


def _first_line(node: ast.AST) -> int:
    lines: list[int] = [one.lineno for one in getattr(node, "decorator_list", [])]
    return min([*lines, int(getattr(node, "lineno", 1))])


def _is_rewritten(code: types.CodeType) -> bool:
    """Whether pytest has rewritten the assertions."""
    return "@pytest_ar" in code.co_names or any(
        _is_rewritten(part) for part in code.co_consts if isinstance(part, types.CodeType)
    )


def _at(nodes: list[Definition], code: types.CodeType) -> ast.AST:
    """Which of several lambdas of one line: the innermost one around all that the code says about its columns."""
    columns = [
        (line, start, end)
        for line, _, start, end in code.co_positions()
        if line is not None and start is not None and end is not None and (start, end) != (0, 0)
    ]

    def around(node: Definition) -> bool:
        body = node.body if isinstance(node, ast.Lambda) else node
        assert isinstance(body, ast.AST)
        first, last = (getattr(body, "lineno", 0), getattr(body, "col_offset", 0)), getattr(body, "end_lineno", 0)
        width = getattr(body, "end_col_offset", 0)
        return all(first <= (line, start) and (line < last or end <= width) for line, start, end in columns)

    found = [node for node in nodes if columns and around(node)]
    # Python can be told to forget columns: then all of them count.
    return found[-1] if found else ast.Tuple([node for node in nodes if isinstance(node, ast.expr)], ast.Load())
