"""What a module does to libraries while it is imported: it registers accessors, replaces methods, sets options.

What it does to the user's own objects is seen in these objects when they are reached.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

from pipedag_dagster.fingerprint.code_source import CodeFile, code_file
from pipedag_dagster.fingerprint.import_statement import imported_names, package_of
from pipedag_dagster.fingerprint.module_origin import UserCode
from pipedag_dagster.fingerprint.syntax_reader import Function, chain_of
from pipedag_dagster.graph.task import Task

_HARMLESS = {"print", "len", "super", "isinstance", "sorted"}
_QUIET = {"logging", "pipedag_dagster", "pydantic", "attr", "attrs", "pytest", "_pytest", "hypothesis"}
_UNKNOWN = object()
_DEPTH = 4  # of functions that call functions

_known: dict[int, tuple[CodeFile, tuple[ast.AST, ...], frozenset[str]]] = {}


def loaded_modules(names: set[str], user_code: UserCode) -> list[types.ModuleType]:
    """Some modules of the user and all others that were loaded by them: what they import at first, their packages."""
    found: dict[str, types.ModuleType] = {}
    todo = sorted(names)
    while todo:
        name = todo.pop()
        module = sys.modules.get(name)
        if name in found or module is None or user_code.is_library_module(name):
            continue
        found[name] = module
        parent = name.rpartition(".")[0]
        todo += [parent] if parent else []
        file = code_file(vars(module).get("__file__"), vars(module))
        if file is not None:
            todo += sorted(_read(file, vars(module), user_code)[1])
    return [found[name] for name in sorted(found)]


def import_effects(file: CodeFile, namespace: dict[str, Any], user_code: UserCode) -> tuple[ast.AST, ...]:
    """The statements of a module that may change a library, with the conditions and loops around them."""
    return _read(file, namespace, user_code)[0]


def _read(file: CodeFile, namespace: dict[str, Any], user_code: UserCode) -> tuple[tuple[ast.AST, ...], frozenset[str]]:
    if id(file) not in _known:
        found = tuple(_Effects(file, namespace, user_code).of_body(file.tree.body))
        _known[id(file)] = (file, found, frozenset(imported_names(file.tree, package_of(namespace))))
    return _known[id(file)][1:]


class _Effects:
    def __init__(self, file: CodeFile, namespace: dict[str, Any], user_code: UserCode, depth: int = 0) -> None:
        self._file = file
        self._namespace = namespace
        self._user_code = user_code
        self._depth = depth

    def of_body(self, body: list[ast.stmt]) -> Iterator[ast.AST]:
        for statement in body:
            if _is_main_guard(statement):
                continue
            if isinstance(statement, Function | ast.ClassDef):
                yield from [statement] if self._of_definition(statement) else []
                continue
            inner = list(self.of_body(_body(statement)))
            if inner:
                yield from _header(statement)
                yield from inner
            elif not _body(statement) and self._of_statement(statement):
                yield statement

    def _of_statement(self, statement: ast.stmt) -> bool:
        calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
        if isinstance(statement, ast.Expr):
            return any(map(self._is_effect, calls))
        stored = [node for node in ast.walk(statement) if isinstance(node, ast.Attribute | ast.Subscript)]
        targets = (_root(node) for node in stored if not isinstance(node.ctx, ast.Load))
        if any(self._is_of_library(chain) for chain in targets if chain):
            return True
        return any(map(self._registers, calls))

    def _of_definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
        for decorator in node.decorator_list:
            value = self._value(chain_of(getattr(decorator, "func", decorator)) or ())
            if self._is_third_party(value) or self._touches_library(value):
                return True
        kind = self._namespace.get(node.name)
        if not isinstance(node, ast.ClassDef) or not isinstance(kind, type):
            return False
        hooks = [type(kind), *(one for one in kind.__mro__ if "__init_subclass__" in vars(one))]
        return any(self._is_third_party(hook) for hook in hooks)

    def _is_effect(self, call: ast.Call) -> bool:
        """Whether a call whose result nobody takes may change a library."""
        chain = chain_of(call.func)
        value = self._value(chain or ())
        if chain in (("setattr",), ("delattr",)):
            return self._is_library(self._value(chain_of(call.args[0]) or ())) if call.args else False
        if chain and chain[0] in _HARMLESS and len(chain) == 1:
            return False
        if value is _UNKNOWN:
            return chain is None and not isinstance(call.func, ast.Attribute)
        if isinstance(value, Task) or _top(value) in _QUIET:
            return False
        code = type | types.FunctionType | types.BuiltinFunctionType | types.MethodType | types.ModuleType
        return isinstance(value, code) and not self._is_method_of_data(chain or ())

    def _is_method_of_data(self, chain: tuple[str, ...]) -> bool:
        """`REGISTRY.append(f)`: seen in REGISTRY."""
        owner = self._namespace.get(chain[0], _UNKNOWN) if len(chain) > 1 else _UNKNOWN
        own = owner is not _UNKNOWN and not isinstance(owner, types.ModuleType | type)
        return own and not self._is_of_library(chain)

    def _is_of_library(self, chain: tuple[str, ...]) -> bool:
        """Whether a name means an object of a library: `os.environ`, also after `from os import environ`."""
        origin = self._file.imports.get(chain[0])
        if origin is not None and not origin.level and self._user_code.is_library_module(origin.module):
            return True
        return self._is_library(self._namespace.get(chain[0])) or self._is_library(self._value(chain))

    def _registers(self, call: ast.Call) -> bool:
        """Whether a call whose result is kept may change a library as well."""
        value = self._value(chain_of(call.func) or ())
        if self._is_third_party(value):
            given = [self._value(chain_of(one) or ()) for one in call.args]
            return any(isinstance(one, type | types.FunctionType) and not self._is_library(one) for one in given)
        return self._touches_library(value)

    def _touches_library(self, function: Any) -> bool:
        """Whether a function of the user may change a library when it is called."""
        function = inspect.unwrap(function) if isinstance(function, types.FunctionType) else function
        if not isinstance(function, types.FunctionType) or self._is_library(function) or self._depth > _DEPTH:
            return False
        file = code_file(function.__code__.co_filename, function.__globals__)
        if file is None:
            return False
        inner = _Effects(file, function.__globals__, self._user_code, self._depth + 1)
        nodes = [node for node in ast.walk(file.tree) if isinstance(node, Function)]
        same = [node for node in nodes if node.name == function.__name__]
        todo = [statement for node in same for statement in ast.walk(node) if isinstance(statement, ast.stmt)]
        return any(not _body(one) and not isinstance(one, Function) and inner._of_statement(one) for one in todo)

    def _value(self, chain: tuple[str, ...]) -> Any:
        """What a name means, as far as it can be looked up without calling anything."""
        if not chain:
            return _UNKNOWN
        value = self._namespace.get(chain[0], getattr(builtins, chain[0], _UNKNOWN))
        for name in chain[1:]:
            value = inspect.getattr_static(value, name, _UNKNOWN)
            value = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        return value

    def _is_library(self, value: Any) -> bool:
        name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        code = isinstance(value, types.ModuleType | type | types.FunctionType | types.BuiltinFunctionType)
        return code and (name is None or self._user_code.is_library_module(str(name)))

    def _is_third_party(self, value: Any) -> bool:
        top = _top(value)
        return self._is_library(value) and top not in sys.stdlib_module_names and top not in {*_QUIET, "builtins", ""}


def _top(value: Any) -> str:
    name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return str(name or "").partition(".")[0]


def _root(node: ast.AST) -> tuple[str, ...]:
    """Of `a.b["c"].d = …` the name `a.b`, as far as it is one."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
        chain = chain_of(node)
        if chain:
            return chain
    return ()


def _body(statement: ast.stmt) -> list[ast.stmt]:
    parts = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
    parts += [part.body for part in (*getattr(statement, "handlers", []), *getattr(statement, "cases", []))]
    return [one for part in parts if isinstance(part, list) for one in part]


def _header(statement: ast.stmt) -> Iterator[ast.AST]:
    for name in ("target", "iter", "test", "items", "subject"):
        part = getattr(statement, name, None)
        yield from part if isinstance(part, list) else [part] if part is not None else []


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__main__" in ast.dump(statement.test)
