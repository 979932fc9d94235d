"""The order in which a sample takes rows: by a hash that is the same on every machine and in every PostgreSQL.

A key is hashed in the domain of the table whose key it is. So a reference has the hash of the row that it refers to,
and a reference to a row that is not there (an orphan) has the hash which that row would have had.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipedag_dagster.names import literal

_INTEGER = re.compile(r"(smallint|integer|bigint)$")
_LOW_HALF = 2**32 - 1
_LOWEST = -(2**63)
_HASHES = 2**64


def is_integer(kind: str) -> bool:
    """Whether a type of PostgreSQL has whole numbers of up to eight bytes."""
    return _INTEGER.match(kind) is not None


def key_hash(expressions: Sequence[tuple[str, str]], domain: str, seed: int) -> str:
    """An SQL expression of type bigint: the hash of a key.

    Args:
        expressions: the columns of the key as SQL, each with the type of the column of the table that `domain` names.
        domain: the table (and the columns) whose key it is.
        seed: another seed chooses another sample.

    >>> key_hash([("t.id", "integer")], "raw.orders", 0)
    "hashint8extended((t.id)::bigint, hashtextextended(E'raw.orders', 0))"
    """
    value = f"hashtextextended({literal(domain)}, {seed})"
    for expression, kind in expressions:
        if kind == "bigint":
            # PostgreSQL folds the halves of a bigint: -1 and 2^32 would have the same hash as others. So hash both.
            low = f"hashint8extended(({expression})::bigint & {_LOW_HALF}, {value})"
            value = f"hashint8extended(({expression})::bigint >> 32, {low})"
        elif is_integer(kind):
            value = f"hashint8extended(({expression})::bigint, {value})"
        else:
            value = f'hashtextextended((({expression})::{kind})::text COLLATE "C", {value})'
    return value


def share_limit(share: float) -> int:
    """The hash up to which lies this share of all hashes.

    >>> share_limit(1.0) == 2**63 - 1
    True
    """
    return min(_LOWEST + int(share * _HASHES), 2**63 - 1) if share > 0 else _LOWEST - 1
