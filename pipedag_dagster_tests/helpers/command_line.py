"""A small shop as somebody writes it, in files, and what a command on it prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

FLOW = """\
import os
import time

import pandas as pd
import sqlalchemy as sa

from pipedag_dagster import Flow, Stage, Table, materialize


@materialize(input=True, outputs=["orders", "customers"], version="1.0")
def load():
    orders = pd.DataFrame({"id": [1, 2, 3], "customer": [1, 1, 2], "amount": [5, 7, 9]})
    return Table(orders, primary_key="id"), pd.DataFrame({"id": [1, 2]})


@materialize(lazy=True, input_type=sa.Table)
def revenue(orders):
    total = sa.func.sum(orders.c.amount).label("revenue")
    return sa.select(orders.c.customer, total).group_by(orders.c.customer)


def sort(frame):
    if os.environ.get("SHOP_BROKEN"):
        raise ValueError("this is broken")
    time.sleep(float(os.environ.get("SHOP_SLOW", 0)))
    return frame.sort_values("revenue", ascending=False)


@materialize(input_type=pd.DataFrame)
def ranking(revenue):
    return sort(revenue)


def build(instance):
    with Flow("shop") as flow:
        with Stage("raw"):
            orders, customers = load()
        with Stage("report"):
            ranking(revenue(orders))
    return flow
"""
DEFINITIONS = """\
from pathlib import Path

from pipedag_dagster import build_definitions
from shop_flow import build

folder = Path(__file__).parent / "instances"
full, midi, mini = (build_definitions(build, folder, instance=name) for name in ("full", "midi", "mini"))
"""
WORKSPACE = """\
load_from:
  - python_module: {module_name: shop_definitions, attribute: full, location_name: full}
  - python_module: {module_name: shop_definitions, attribute: midi, location_name: midi}
  - python_file: {relative_path: shop_definitions.py, attribute: mini, location_name: mini}
"""

MODULES = ("shop_flow", "shop_definitions")


def write_shop(folder: Path) -> None:
    """Write the project, but for its `instances/`."""
    for file, text in {"shop_flow.py": FLOW, "shop_definitions.py": DEFINITIONS, "workspace.yaml": WORKSPACE}.items():
        (folder / file).write_text(text)


class Done(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Done]
"""The fixture `command`."""

ShopAfter = Callable[..., str]
"""The fixture `shop_after`."""
