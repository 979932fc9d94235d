"""The `attrs` of an instance: a dict whose keys are attributes, too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from pipedag_dagster.errors import FrozenAttrs, UnknownAttr, did_you_mean


class Attrs(dict[str, Any]):
    """The `attrs` of an instance, at any depth: `attrs["sizes"]["max"]` is `attrs.sizes.max`.

    They cannot be changed. A key that is no name in Python is an attribute with `_` in place of the other characters.

    Example:
        >>> attrs = Attrs({"sizes": {"max-rows": 5}}, where="attrs")
        >>> attrs.sizes.max_rows
        5
        >>> attrs.size
        Traceback (most recent call last):
        pipedag_dagster.errors.UnknownAttr: attrs has no key 'size'. Did you mean 'sizes'?
    """

    def __init__(self, values: Mapping[str, Any], where: str = "attrs") -> None:
        super().__init__({key: _frozen(value, f"{where}.{key}") for key, value in values.items()})
        object.__setattr__(self, "_where", where)

    def to_dict(self) -> dict[str, Any]:
        """A copy that can be changed, at any depth."""
        return {key: _plain(value) for key, value in self.items()}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python asks for special methods
            raise AttributeError(name)
        named = [key for key in self if key == name] or [key for key in self if _as_name(key) == name]
        return self[named[0] if named else name]

    def __missing__(self, key: str) -> NoReturn:
        raise UnknownAttr(f"{self._where} has no key {key!r}.{did_you_mean(str(key), map(str, self))}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *map(_as_name, self)]

    def __reduce__(self) -> tuple[Any, ...]:
        return Attrs, (self.to_dict(), self._where)

    def _refuse(self, *arguments: Any, **others: Any) -> NoReturn:
        raise FrozenAttrs(
            f"{self._where} cannot be changed. Write instance.with_attrs({{…}}) for an instance with other attrs, or "
            "change a copy: attrs.to_dict()."
        )

    __setitem__ = __delitem__ = __setattr__ = __delattr__ = __ior__ = _refuse
    update = pop = popitem = clear = setdefault = _refuse


def _frozen(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return Attrs(value, where)
    if isinstance(value, list):
        return [_frozen(part, f"{where}[{number}]") for number, part in enumerate(value)]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Attrs):
        return value.to_dict()
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _as_name(key: object) -> str:
    return re.sub(r"\W", "_", str(key))
