"""Finding the definitions for a command: in a module, or in the modules that `workspace.yaml` names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipedag_dagster.config import yaml_file
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError, EmptySelection, PipedagError, Problem, UnknownInstance, did_you_mean
from pipedag_dagster.graph.flow import Stage
from pipedag_dagster.orchestration.deferred import deferred, deferring
from pipedag_dagster.orchestration.table_names import find_table
from pipedag_dagster.orchestration.tags import INPUT

if TYPE_CHECKING:
    import dagster as dg

WORKSPACE = Path("workspace.yaml")
_PACKAGE = str(Path(__file__).parent.parent)


def nearest_workspace() -> Path:
    """`workspace.yaml` in the working directory or in the nearest folder above it that has one. If there is none, the
    path in the working directory."""
    if WORKSPACE.is_file():
        return WORKSPACE
    return next((folder / WORKSPACE for folder in Path.cwd().parents if (folder / WORKSPACE).is_file()), WORKSPACE)


@dataclass(frozen=True)
class Location:
    """The definitions of one instance. `name` says where they are: `module:attribute`.

    A table is named by its stage and its asset.
    """

    name: str
    instance: ConfigContext
    stages: Sequence[Stage]
    definitions: dg.Definitions

    def tables(self) -> list[tuple[str, str]]:
        """All tables of the instance, stage by stage, without the tables of its `copy_source`."""
        if deferred(self.definitions) is not None:  # they have no plain assets
            return [(stage.name, asset) for stage in self.stages for asset in sorted(_assets(stage))]
        return [(key.path[1], key.path[2]) for assets in self.assets() for key in sorted(assets.keys)]

    def plain_inputs(self) -> list[tuple[str, str]]:
        """The input tables that plain assets make."""
        specs = (spec for assets in self.assets() for spec in assets.specs)
        return [(spec.key.path[1], spec.key.path[2]) for spec in specs if spec.metadata.get(INPUT)]

    def select(self, text: str | None) -> list[tuple[str, str]]:
        """The tables of a selection: a stage, `stage.table` (see `table_names`), or Dagster's own syntax (`group:raw`,
        `+key:"mini/raw/orders"`). Without a selection, all of them.

        Raises:
            EmptySelection: nothing is selected. (Dagster's own command line would run everything.)
        """
        tables = self.tables()
        if text is None:
            return tables
        chosen = [table for table in tables if table[0] == text.lower()]
        if not chosen:
            named = find_table(text, tables, self.instance.store.table_store)
            chosen = [table for table in tables if table == named]
        if not chosen:
            selected = self._selected_by_dagster(text)
            chosen = [table for table in tables if table in selected]
        if not chosen:
            known = {".".join(table) for table in tables} | {stage for stage, _ in tables}
            raise EmptySelection(f"--select {text!r} selects no table.{did_you_mean(text, known)}")
        return chosen

    def assets(self) -> list[dg.AssetsDefinition]:
        """The assets of the instance: one definition for each stage, and the plain ones. None if there are only stages
        and Dagster is not imported yet."""
        if deferred(self.definitions) is not None:
            return []
        import dagster as dg  # noqa: PLC0415

        return [assets for assets in self.definitions.assets or () if isinstance(assets, dg.AssetsDefinition)]

    def _selected_by_dagster(self, text: str) -> set[tuple[str, ...]]:
        import dagster as dg  # noqa: PLC0415

        try:
            keys = dg.AssetSelection.from_string(text).resolve(self.definitions.resolve_asset_graph())
        except dg.DagsterError:
            return set()
        return {tuple(key.path[1:]) for key in keys if key.path[0] == self.instance.instance_id}


def _assets(stage: Stage) -> list[str]:
    return [asset for call in stage.calls for asset in call.assets]


def locations(module: str | None = None, workspace: Path = WORKSPACE, *, checked: bool = False) -> list[Location]:
    """All definitions made by `build_definitions` in a module, or in the modules that the workspace names.

    Args:
        checked: make the definitions of Dagster, to find all their mistakes. Without it they are made when somebody
            looks at them, and Dagster is not imported before.

    Raises:
        ConfigError: definitions cannot be loaded. All mistakes are listed.
    """
    loaded: list[Location] = []
    problems: list[Problem] = []
    for name, load, line in _targets(module, workspace):
        try:
            with deferring(not checked):
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
    owner: dict[tuple[str, ...], Location] = {}
    for location in loaded:
        for table in location.tables():
            key = (location.instance.instance_id, *table)
            other = owner.setdefault(key, location)
            if other is not location:
                raise ConfigError(
                    f"{other.name} and {location.name} both have {'/'.join(key)}. Give their instances ids of "
                    "their own (instance_id), or load only one of them in this workspace."
                )


def of_instance(loaded: Iterable[Location], name: str) -> list[Location]:
    """The locations of one instance.

    Raises:
        UnknownInstance: there is no such instance; a close name is given.
    """
    loaded = list(loaded)
    chosen = [location for location in loaded if location.instance.config.name == name]
    if not chosen:
        known = {location.instance.config.name for location in loaded}
        raise UnknownInstance(f"There is no instance {name!r}.{did_you_mean(name, known)}")
    return chosen


def _targets(module: str | None, workspace: Path) -> Iterator[tuple[str, Any, int | None]]:
    """The name of each module, a function that loads its definitions, and the line that names it."""
    if module is not None:
        yield module, lambda: _in_module(module, None, Path()), None
        return
    if not workspace.is_file():
        above = " here or in a folder above" if workspace == WORKSPACE else ""
        raise ConfigError(
            f"There is no {workspace}{above}. Name the module of your definitions: -m my_pipeline.definitions"
        )
    source = yaml_file.load(workspace)
    for number, entry in enumerate(source.data.get("load_from") or []):
        line = source.line(("load_from", number))
        origin, target = next(iter(entry.items())) if isinstance(entry, dict) and entry else ("", None)
        if origin == "python_module":
            name, attribute = _target(target, "module_name", workspace, line)
            yield name, lambda name=name, attribute=attribute: _in_module(name, attribute, workspace.parent), line
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


def _in_module(name: str, attribute: str | None, folder: Path) -> list[Location]:
    place = (
        "" if folder == Path() else str(folder.absolute())
    )  # "": the working directory, as for `python -m` and Dagster
    if place not in sys.path:
        sys.path.insert(0, place)
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
        known = deferred(value)
        if known is not None:
            result.append(Location(f"{name}:{key}", known.instance, known.stages, value))
        elif "dagster" in sys.modules:  # else it cannot be one of Dagster's objects
            result += _made(value, f"{name}:{key}")
    return result


def _made(value: Any, name: str) -> list[Location]:
    """The definitions that a value is, if they are of `build_definitions`."""
    import dagster as dg  # noqa: PLC0415
    from dagster.components.definitions import LazyDefinitions  # noqa: PLC0415

    from pipedag_dagster.orchestration.resources import InstanceResource  # noqa: PLC0415

    if isinstance(value, LazyDefinitions):  # of a `dg` project
        value = value()
    resource = value.resources.get("instance") if isinstance(value, dg.Definitions) and value.resources else None
    return [Location(name, resource.context, resource.stages, value)] if isinstance(resource, InstanceResource) else []
