"""Finding the definitions for a command: in a module, or in the modules that `workspace.yaml` names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
from dagster import DagsterError
from dagster.components.definitions import LazyDefinitions

from pipedag_dagster.config import yaml_file
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError, EmptySelection, PipedagError, Problem, UnknownInstance, did_you_mean
from pipedag_dagster.orchestration.dagster_assets import INPUT
from pipedag_dagster.orchestration.resources import InstanceResource
from pipedag_dagster.orchestration.table_names import find_table

_PACKAGE = str(Path(__file__).parent.parent)


@dataclass(frozen=True)
class Location:
    """The definitions of one instance. `name` says where they are: `module:attribute`."""

    name: str
    definitions: dg.Definitions
    resource: InstanceResource

    @property
    def instance(self) -> ConfigContext:
        return self.resource.context

    def keys(self) -> list[dg.AssetKey]:
        """The keys of all tables of the instance, stage by stage, without the tables of its `copy_source`."""
        own = (assets for assets in self.definitions.assets or () if isinstance(assets, dg.AssetsDefinition))
        return [key for assets in own for key in sorted(assets.keys)]

    def plain_inputs(self) -> list[tuple[str, str]]:
        """Stage and name of the input tables that plain assets make."""
        own = (assets for assets in self.definitions.assets or () if isinstance(assets, dg.AssetsDefinition))
        return [
            (spec.key.path[1], spec.key.path[2]) for assets in own for spec in assets.specs if spec.metadata.get(INPUT)
        ]

    def select(self, text: str | None) -> list[dg.AssetKey]:
        """The assets of a selection: a stage, `stage.table` (see `table_names`), or Dagster's own syntax (`group:raw`,
        `+key:"mini/raw/orders"`). Without a selection, all of them.

        Raises:
            EmptySelection: nothing is selected. (Dagster's own command line would run everything.)
        """
        keys = self.keys()
        if text is None:
            return keys
        chosen = [key for key in keys if key.path[1] == text.lower()]
        if not chosen:
            assets = {(key.path[1], key.path[2]) for key in keys}
            table = find_table(text, assets, self.instance.store.table_store)
            chosen = [key for key in keys if tuple(key.path[1:]) == table]
        if not chosen:
            try:
                selected = dg.AssetSelection.from_string(text).resolve(self.definitions.resolve_asset_graph())
            except DagsterError:
                selected = set()
            chosen = [key for key in keys if key in selected]
        if not chosen:
            known = {".".join(key.path[1:]) for key in keys} | {key.path[1] for key in keys}
            raise EmptySelection(f"--select {text!r} selects no table.{did_you_mean(text, known)}")
        return chosen


def locations(module: str | None = None, workspace: Path = Path("workspace.yaml")) -> list[Location]:
    """All definitions made by `build_definitions` in a module, or in the modules that the workspace names.

    Raises:
        ConfigError: definitions cannot be loaded. All mistakes are listed.
    """
    loaded: list[Location] = []
    problems: list[Problem] = []
    for name, load, line in _targets(module, workspace):
        try:
            loaded.extend(load())
        except ConfigError as error:
            problems.extend(error.problems)
        except Exception as error:  # the user's module may raise anything
            message = str(error) if isinstance(error, PipedagError) else f"{type(error).__name__}: {error}"
            message += _raised_at(error)
            problems.append(Problem(None if module else workspace, line, f"{name} cannot be loaded: {message}"))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    if not loaded:
        raise ConfigError(f"{module or workspace} has no definitions made by build_definitions().")
    return loaded


def refuse_shared_keys(loaded: Iterable[Location]) -> None:
    """
    Raises:
        ConfigError: two locations have a table of the same instance id, stage and name. Dagster would show them as one.
    """
    owner: dict[dg.AssetKey, Location] = {}
    for location in loaded:
        own = location.keys()
        for key in own:
            other = owner.setdefault(key, location)
            if other is not location:
                raise ConfigError(
                    f"{other.name} and {location.name} both have {key.to_user_string()}. Give their instances ids of "
                    "their own (instance_id), or load only one of them in this workspace."
                )


def of_instance(loaded: Iterable[Location], name: str) -> list[Location]:
    """The locations of one instance.

    Raises:
        UnknownInstance: there is no such instance; a close name is given.
    """
    loaded = list(loaded)
    chosen = [location for location in loaded if location.resource.instance == name]
    if not chosen:
        known = {location.resource.instance for location in loaded}
        raise UnknownInstance(f"There is no instance {name!r}.{did_you_mean(name, known)}")
    return chosen


def _targets(module: str | None, workspace: Path) -> Iterator[tuple[str, Any, int | None]]:
    """The name of each module, a function that loads its definitions, and the line that names it."""
    if module is not None:
        yield module, lambda: _in_module(module, None), None
        return
    if not workspace.is_file():
        raise ConfigError(
            f"There is no {workspace} here. Name the module of your definitions: -m my_pipeline.definitions"
        )
    source = yaml_file.load(workspace)
    for number, entry in enumerate(source.data.get("load_from") or []):
        line = source.line(("load_from", number))
        origin, target = next(iter(entry.items())) if isinstance(entry, dict) and entry else ("", None)
        if origin == "python_module":
            name, attribute = _target(target, "module_name", workspace, line)
            yield name, lambda name=name, attribute=attribute: _in_module(name, attribute), line
        elif origin == "python_file":
            name, attribute = _target(target, "relative_path", workspace, line)
            path = workspace.parent / name
            yield name, lambda path=path, attribute=attribute: _definitions(_file(path), str(path), attribute), line
        elif origin == "grpc_server":
            message = (
                "grpc_server: the definitions are in another process. Name their module: -m my_pipeline.definitions"
            )
            raise ConfigError(Problem(workspace, line, message))


def _target(target: Any, key: str, workspace: Path, line: int | None) -> tuple[str, str | None]:
    if isinstance(target, str):
        return target, None
    if not isinstance(target, dict) or key not in target:
        raise ConfigError(Problem(workspace, line, f"{key} is missing."))
    return target[key], target.get("attribute")


def _raised_at(error: Exception) -> str:
    """The line of the user's own code in which it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [
        frame
        for frame in frames
        if not frame.filename.startswith((_PACKAGE, "<")) and "importlib" not in frame.filename
    ]
    return f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""


def _in_module(name: str, attribute: str | None) -> list[Location]:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working directory, as with `python -m` and Dagster
    return _definitions(importlib.import_module(name), name, attribute)


def _file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _definitions(module: ModuleType, name: str, attribute: str | None) -> list[Location]:
    names = [attribute] if attribute else [key for key in vars(module) if not key.startswith("_")]
    result = []
    for key in names:
        value = getattr(module, key)
        if isinstance(value, LazyDefinitions):  # of a `dg` project
            value = value()
        resource = value.resources.get("instance") if isinstance(value, dg.Definitions) and value.resources else None
        if isinstance(resource, InstanceResource):
            result.append(Location(f"{name}:{key}", value, resource))
    return result
