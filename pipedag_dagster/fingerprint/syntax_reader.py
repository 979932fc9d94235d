"""Reads a syntax tree once: writes down what counts of it, and collects the names that it uses."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from pipedag_dagster.fingerprint.import_statement import Import, imports

Chain: TypeAlias = tuple[str, ...]
"""A name as code uses it: `helpers.clean` is `("helpers", "clean")`."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp

_IGNORED = {"ctx", "kind", "type_comment", "type_ignores"}  # of no effect
# Decorators that do not look at the annotations of the function.
_BLIND = {"staticmethod", "classmethod", "property", "cached_property", "cache", "lru_cache", "wraps", "override"}
_OURS, _EXAMPLES = "pipedag_dagster", "pipedag_dagster.examples"
# Methods that look for names of Python in a text: of frames, of polars and DuckDB.
_TEXT_QUERIES = {"query", "eval", "sql"}
# Attributes that lead to names, texts or annotations that this reader does not follow.
_REFLECTION = {
    *("__globals__", "__builtins__", "__subclasses__", "__loader__", "__spec__", "__doc__", "__annotations__"),
    *("f_globals", "f_builtins", "f_locals", "f_back", "tb_frame", "gi_frame", "cr_frame", "_getframe"),
}
_AT_NAME = re.compile(r"@([A-Za-z_]\w*)")


class SyntaxReader:
    """
    chains: the names that are used and not bound in the code itself, each as far as its attributes go.
    called: those of them that are called, with the line of the call.
    annotated: the first names in annotations, whether they count or not.
    imports: what the code imports itself, by the name that it binds.
    attributes: all attributes and texts that are words: names of methods that someone may have added to a class.
    opaque: what this reader does not follow, with its line.
    text_queries: names of texts that are given to `df.query()` and the like, with the line.
    """

    def __init__(self, module_imports: Mapping[str, Import]) -> None:
        self.chains: set[Chain] = set()
        self.called: dict[Chain, int] = {}
        self.annotated: set[str] = set()
        self.imports: dict[str, Import] = {}
        self.attributes: set[str] = set()
        self.opaque: dict[str, int] = {}
        self.text_queries: dict[Chain, int] = {}
        self._module_imports = module_imports
        self._within: list[ast.AST] = []
        self._scopes: list[set[str]] = []
        self._handled: set[int] = set()

    def plain(self, node: Any) -> str:
        """The canonical text of a node: its type, and its fields without what is empty."""
        if isinstance(node, list):
            return f"[{','.join(filter(None, map(self.plain, node)))}]"
        if not isinstance(node, ast.AST):
            return f"{type(node).__name__}:{node!r}"
        if isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return ""  # does nothing: docstrings too
        if isinstance(node, ast.Import | ast.ImportFrom) and self._within:
            self.imports |= imports(node)
        if isinstance(node, ast.Call):
            self._call(node)
        if isinstance(node, ast.Attribute):
            self._attribute(node)
        if isinstance(node, ast.JoinedStr):  # some releases of Python 3.12 end a nested format with an empty text
            node = ast.JoinedStr([part for part in node.values if getattr(part, "value", None) != ""])
        chain = chain_of(node)
        if chain:
            return f"Name:{'.'.join(self._use(chain, node))}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            self._text(node.value, node.lineno)
        if isinstance(node, ast.AnnAssign):
            return self._annotated(node)
        if isinstance(node, Function | ast.Lambda | ast.ClassDef):
            return self._definition(node)
        if isinstance(node, _Comprehension):
            return self._comprehension(node)
        return self._fields(node)

    # Names

    def _use(self, chain: Chain, node: ast.AST) -> Chain:
        """Note a name. In a class `__name` means `_Class__name`."""
        chain = tuple(self._mangled(name) for name in chain)
        for name in chain:
            if name in _REFLECTION:
                self.opaque.setdefault(name, getattr(node, "lineno", 0))
        if chain[0] in self.imports or not any(chain[0] in scope for scope in self._scopes):
            self.chains.add(chain)
        self.attributes.update(chain[1:])
        return chain

    def _mangled(self, name: str) -> str:
        owner = next((one.name for one in reversed(self._within) if isinstance(one, ast.ClassDef)), None)
        if owner is None or name[:2] != "__" or name[-2:] == "__" or not owner.strip("_"):
            return name
        return f"_{owner.lstrip('_')}{name}"

    def _is_free(self, name: str) -> bool:
        return not any(name in scope for scope in self._scopes)

    def _call(self, node: ast.Call) -> None:
        chain = chain_of(node.func)
        if chain and self._is_free(chain[0]) and "__hash__" not in [getattr(one, "name", "") for one in self._within]:
            self.called.setdefault(chain, node.lineno)
        method = _method(node.func)
        if method in _TEXT_QUERIES:
            self._handled.add(id(node.func))
            self._text_query(node, method)

    def _text_query(self, node: ast.Call, method: str) -> None:
        """`df.query(…)`: the names in a text that is written here count, and those in a constant of the module."""
        named = [one.value for one in node.keywords if one.arg in ("expr", "query", "sql")]
        text = next(iter([*node.args, *named]), None)
        chain = None if text is None else chain_of(text)
        if chain and self._is_free(chain[0]):
            self.text_queries.setdefault(chain, node.lineno)
        elif isinstance(text, ast.Constant) and isinstance(text.value, str) and method == "sql":
            self.chains.update((word,) for word in re.findall(r"[A-Za-z_]\w*", text.value))
        elif text is not None and not isinstance(text, ast.Constant):
            self.opaque.setdefault(f"{method}() of a text that is put together", node.lineno)

    def _attribute(self, node: ast.Attribute) -> None:
        self.attributes.add(node.attr)
        if node.attr in _REFLECTION:
            self.opaque.setdefault(node.attr, node.lineno)
        if node.attr in _TEXT_QUERIES and id(node) not in self._handled and isinstance(node.ctx, ast.Load):
            self.opaque.setdefault(f"{node.attr}() of a text that is put together", node.lineno)

    def _text(self, text: str, line: int) -> None:
        """`"amount > @LIMIT"` uses the name LIMIT; `"clean"` may be the name of a method."""
        if text.isidentifier():
            self.attributes.add(text)
            if text in _REFLECTION:
                self.opaque.setdefault(text, line)
        self.chains.update((name,) for name in names_in_text(text))

    # What counts

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

    def _definition(self, node: Definition) -> str:
        decorators = [one for one in getattr(node, "decorator_list", []) if not self._is_ours(one)]
        parts = [type(node).__name__, getattr(node, "name", ""), self.plain(decorators)]
        parameters = getattr(node, "type_params", [])
        parts += [self.plain(parameters)] if parameters else []
        if isinstance(node, ast.ClassDef):
            parts += [self.plain(node.bases), self.plain(node.keywords)]
            self._within.append(node)
            parts.append(self.plain(node.body))
        else:
            names = {(chain_of(getattr(one, "func", one)) or ("",))[-1] for one in decorators}
            seen = not names <= _BLIND and not isinstance(node, ast.Lambda)
            parts.append(self._arguments(node.args, seen))
            returns = getattr(node, "returns", None)
            if returns is not None:
                parts += [self.plain(returns)] if seen else []
                self._note(returns)
            self._within.append(node)
            self._scopes.append(bound_in(node))
            parts.append(self.plain(node.body))
            self._scopes.pop()
        self._within.pop()
        return f"Definition({','.join(parts)})"

    def _comprehension(self, node: ast.AST) -> str:
        """The names that a comprehension binds are its own, but for what it first iterates over."""
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]
        first = self.plain(generators[0].iter)
        self._scopes.append({name for one in generators for name in _stored(one.target)})
        parts = []
        for number, one in enumerate(generators):
            over = self.plain(one.iter) if number else first
            parts.append(f"for({self.plain(one.target)},{over},{self.plain(one.ifs)},{one.is_async})")
        inner = self._fields(node, without=("generators",))
        self._scopes.pop()
        return f"{inner}[{','.join(parts)}]"

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
        """`@materialize(…)`: its options are not the task's code."""
        chain = chain_of(getattr(decorator, "func", decorator))
        origin = self._module_imports.get(chain[0]) if chain else None
        return origin is not None and _below(origin.module, _OURS) and not _below(origin.module, _EXAMPLES)


def names_in_text(text: str) -> list[str]:
    """
    >>> names_in_text("amount > @LIMIT and @clean(kind)")
    ['LIMIT', 'clean']
    """
    return _AT_NAME.findall(text)


def _method(called: ast.expr) -> str:
    """`query` of `df.query(…)` and of `getattr(df, "query")(…)`."""
    if isinstance(called, ast.Attribute):
        return called.attr
    if isinstance(called, ast.Call) and chain_of(called.func) == ("getattr",) and len(called.args) > 1:
        name = called.args[1]
        return str(name.value) if isinstance(name, ast.Constant) else ""
    return ""


def _below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def chain_of(node: ast.AST) -> Chain | None:
    """`a.b.c`, where it is read; None for everything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or (names == [] and not isinstance(node.ctx, ast.Load)):
        return None
    return (node.id, *reversed(names))


def bound_in(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> set[str]:
    """The names that are local in a function."""
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    bound = {one.arg for one in every if one is not None}
    outer: set[str] = set()
    for inner in _own_nodes(node):
        if isinstance(inner, ast.Global | ast.Nonlocal):
            outer.update(inner.names)
        elif isinstance(inner, ast.Import | ast.ImportFrom):
            bound.update(imports(inner))
        elif isinstance(inner, _NAMED):
            bound.update([inner.name] if inner.name else [])
        elif isinstance(inner, ast.MatchMapping):
            bound.update([inner.rest] if inner.rest else [])
        elif isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
            bound.add(inner.id)
    return bound - outer


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function's own scope: of comprehensions only what `:=` binds outside of them."""
    body = node.body if isinstance(getattr(node, "body", None), list) else [node.body]  # type: ignore[attr-defined]
    todo: list[tuple[ast.AST, bool]] = [(one, False) for one in body]
    while todo:
        one, comprehended = todo.pop()
        if not comprehended or isinstance(one, ast.NamedExpr):
            yield one
            if comprehended and isinstance(one, ast.NamedExpr):
                yield one.target
        if isinstance(one, Function | ast.ClassDef | ast.Lambda):
            continue
        comprehended = comprehended or isinstance(one, _Comprehension)
        todo += [(child, comprehended) for child in ast.iter_child_nodes(one)]


def _stored(target: ast.AST) -> Iterator[str]:
    return (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
