"""The types of tables that tasks return and read: the one list of them.

Types are recognized by the names of their classes, so that optional libraries are not imported. To add a type of
frame: add it here, and teach `data.frames` to convert it to Arrow and back.
"""

from __future__ import annotations

import enum
import functools
import sys
from collections.abc import Iterable, Iterator
from typing import Any, get_args, get_origin

from pipedag_dagster.errors import did_you_mean


class FrameType(enum.StrEnum):
    """A type of table, by the name that `auto_table` has for it."""

    PANDAS = "pandas.DataFrame"
    POLARS = "polars.DataFrame"
    POLARS_LAZY = "polars.LazyFrame"
    ARROW = "pyarrow.Table"
    ARROW_STREAM = "pyarrow.RecordBatchReader"
    GENERATOR = "builtins.generator"
    SQL_TABLE = "sqlalchemy.Table"
    SQL_TEXT = "sqlalchemy.sql.expression.TextClause"
    SQL_QUERY = "sqlalchemy.sql.expression.Selectable"


STREAMS = frozenset({FrameType.ARROW_STREAM, FrameType.GENERATOR})
"""The types that give rows batch by batch, once."""

DATA = frozenset({FrameType.PANDAS, FrameType.POLARS, FrameType.POLARS_LAZY, FrameType.ARROW, FrameType.ARROW_STREAM})
"""The types that hold rows, or a plan for them, and that tables are read as. The others are SQL, and generators."""

READABLE = (
    "pd.DataFrame, sa.Table, pa.Table, pl.DataFrame, pl.LazyFrame, pa.RecordBatchReader, Iterator[pd.DataFrame], "
    "Iterator[pl.DataFrame], Iterator[pa.Table]"
)
"""The types that `input_type=` takes, for messages."""

DTYPE_BACKENDS = ("nullable", "numpy", "arrow")
"""The dtypes that pandas DataFrames can be read with. The first two are the same: pandas' own types that know NULL."""

# Classes move between the modules of their package, which differ between pandas 2 and 3: the package is enough.
_BY_CLASS = {f"{name.partition('.')[0]}.{name.rpartition('.')[2]}": name for name in FrameType}


def class_names(cls: type) -> list[str]:
    """The names of a class and its bases, each as `package.Class`.

    >>> class_names(FrameType)[:2]
    ['pipedag_dagster.FrameType', 'enum.StrEnum']
    """
    return list(_class_names(cls))


@functools.lru_cache(maxsize=1024)
def _class_names(cls: Any) -> tuple[str, ...]:
    return tuple(f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in cls.__mro__)


def types_of(value: object) -> frozenset[FrameType]:
    """Which types of table a value is an instance of: several for a query that is a table, none for other values.

    >>> import sqlalchemy as sa
    >>> sorted(types_of(sa.select(sa.literal(1)))), types_of([1, 2])
    ([<FrameType.SQL_QUERY: 'sqlalchemy.sql.expression.Selectable'>], frozenset())
    """
    return frozenset(_BY_CLASS[name] for name in class_names(type(value)) if name in _BY_CLASS)


def table_class(name: str) -> str:
    """The name that `auto_table` has for a class of tables, wherever its library defines it. The name of a class of
    another library is returned unchanged: no task can return a table of it.

    Raises:
        ValueError: a library whose tables are known here has no class of this name for tables; a close one is named.

    >>> table_class("pandas.core.frame.DataFrame"), table_class("pydiverse.transform.Table")
    ('pandas.DataFrame', 'pydiverse.transform.Table')
    """
    package, cls = name.partition(".")[0], name.rpartition(".")[2]
    if f"{package}.{cls}" in _BY_CLASS:
        return _BY_CLASS[f"{package}.{cls}"].value
    if "." not in name or package in {known.partition(".")[0] for known in _BY_CLASS}:
        raise ValueError(f"unknown class {name!r}.{did_you_mean(name, [each.value for each in FrameType])}")
    return name


def is_named(cls: type, names: Iterable[str]) -> bool:
    """Whether a class, or a base of it, has one of the names: where it is defined, or where an imported module has it.

    >>> is_named(dict, ["builtins.dict"]), is_named(dict, ["my_package.Model"])
    (True, False)
    """

    def is_one(name: str) -> bool:
        module, _, attribute = name.rpartition(".")
        other = getattr(sys.modules.get(module), attribute, None)
        return any(other is base or name == f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__)

    return any(map(is_one, names))


def data_type(cls: object) -> FrameType | None:
    """The type of frame that a class is, or a base of it is; None for everything else.

    >>> import pandas as pd
    >>> data_type(pd.DataFrame), data_type(dict)
    (<FrameType.PANDAS: 'pandas.DataFrame'>, None)
    """
    known = (_BY_CLASS.get(name) for name in (class_names(cls) if isinstance(cls, type) else ()))
    return next((name for name in known if name in DATA), None)


def is_sql(cls: object) -> bool:
    """Whether a class is SQLAlchemy's `FromClause`, or a subclass: a table to build queries on."""
    return isinstance(cls, type) and "sqlalchemy.FromClause" in class_names(cls)


def is_stream(value: object) -> bool:
    """Whether a value gives rows batch by batch, once: a generator, or a RecordBatchReader of Arrow."""
    return not types_of(value).isdisjoint(STREAMS)


def is_stream_class(cls: object) -> bool:
    """Whether tables that are read as this class are streams."""
    return batch_class(cls) is not None or data_type(cls) in STREAMS


def batch_class(cls: object) -> type | None:
    """The class of the batches in `Iterator[…]` of a frame; None for everything else.

    >>> import pandas as pd
    >>> batch_class(Iterator[pd.DataFrame]), batch_class(pd.DataFrame)
    (<class 'pandas.DataFrame'>, None)
    """
    if get_origin(cls) is not Iterator:
        return None
    (batch,) = get_args(cls)
    frames = (FrameType.PANDAS, FrameType.POLARS, FrameType.ARROW)
    return batch if isinstance(batch, type) and _BY_CLASS.get(class_names(batch)[0]) in frames else None


def is_readable(cls: object) -> bool:
    """Whether tables can be read as this class. Subclasses of DataFrames cannot: what is read is a plain one.

    >>> is_readable(dict)
    False
    """
    if batch_class(cls) is not None:
        return True
    return is_sql(cls) or (isinstance(cls, type) and _BY_CLASS.get(class_names(cls)[0]) in DATA)
