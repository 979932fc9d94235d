"""The sections of a configuration: what all instances share, one for each instance, one for each flow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipedag_dagster.config import in_memory
from pipedag_dagster.config.keys import AnyFile, FlowSection, Section, SingleFile
from pipedag_dagster.config.layers import Layer, checked, get, read
from pipedag_dagster.config.section import keys_of
from pipedag_dagster.config.yaml_file import YamlFile
from pipedag_dagster.errors import Problem

ANY = "__any__"
"""The instance, and the flow, whose settings all others share."""

_NAMED = ("technical_setups", "table_store_connections", "blob_store_connections", "instances", "flows")


@dataclass(frozen=True)
class Sections:
    """The sections of a configuration that instances are made of.

    Args:
        shared: the file with setups, connections and flows.
        base: what all instances share.
        own: the section of each instance.
        flows: the section of each flow, which may have `instances` in it.
    """

    shared: Layer
    base: Layer
    own: Mapping[str, Layer]
    flows: Mapping[str, Layer]
    twice: tuple[Problem, ...] = ()
    """Instances or flows that are written in two files."""

    @property
    def problems(self) -> list[Problem]:
        """Every mistake that one section alone has."""
        layers = (self.shared, self.base, *self.own.values(), *self.flows.values())
        return [problem for layer in layers for problem in layer.problems]

    def of(self, instance: str | None, flow: str | None) -> list[Layer]:
        """The sections about one instance and one flow that are written, the lowest first."""
        sections = [self.base, *self._named(self.own, instance)]
        for name in dict.fromkeys((ANY, flow)):
            for section in self._named(self.flows, name):
                sections.append(section.without("instances"))
                known = get(section.data, ("instances",)) or {}
                inner = (key for key in dict.fromkeys((ANY, instance)) if key in known)
                sections += [section.part("instances", key) for key in inner if key is not None]
        return sections

    @staticmethod
    def _named(sections: Mapping[str, Layer], name: str | None) -> list[Layer]:
        return [sections[name]] if name is not None and name in sections else []

    def instance_names(self, flow: str | None = None) -> list[str]:
        """The instances that are written, also those that only a flow has."""
        flows = [section for name in dict.fromkeys((ANY, flow)) for section in self._named(self.flows, name)]
        in_flows = (name for section in flows for name in get(section.data, ("instances",)) or {})
        return [name for name in dict.fromkeys((*self.own, *in_flows)) if name != ANY]


def sections_of(path: Path, notes: list[str]) -> Sections:
    """The sections of a file, of a folder, or of a configuration in memory. Keys without an effect are added to
    `notes`."""
    if (given := in_memory.get(path)) is not None:
        return _of_file(checked(YamlFile(path, dict(given)), SingleFile, notes))
    return _of_folder(path, notes) if path.is_dir() else _of_file(read(path, SingleFile, notes))


def shared_problems(shared: Layer) -> list[Problem]:
    """The mistakes in a file that are not inside of a setup, connection, instance or flow that has a name."""

    def is_inside(path: tuple[str | int, ...]) -> bool:
        return len(path) > 1 and path[0] in _NAMED and path[1] in shared.keys(str(path[0]))

    return [problem for path, problem in shared.mistakes if not is_inside(path)]


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once, in the order of files and lines."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (str(problem.file or ""), problem.line or 0))


def _of_file(shared: Layer) -> Sections:
    own = {name: shared.part("instances", name) for name in shared.keys("instances") if name != ANY}
    return Sections(shared, shared.part("instances", ANY), own, _flows(shared))


def _of_folder(folder: Path, notes: list[str]) -> Sections:
    twice: list[Problem] = []
    files = _files(folder, twice)
    any_file = files.pop(ANY, None)
    shared = read(any_file, AnyFile, notes) if any_file else Layer(YamlFile(folder / f"{ANY}.yaml", {}))
    base = replace(
        shared,
        data={key: value for key, value in shared.data.items() if key in keys_of(Section)},
        mistakes=tuple(each for each in shared.mistakes if each[0][:1] not in {(name,) for name in _NAMED}),
    )
    flows = {name: read(file, FlowSection, notes) for name, file in _files(folder / "flows", twice).items()}
    for name in flows.keys() & _flows(shared).keys():
        twice.append(Problem(flows[name].source.file, None, f"the flow {name!r} is in __any__.yaml, too. Keep one."))
    own = {name: read(file, Section, notes) for name, file in files.items()}
    return Sections(shared, base, own, _flows(shared) | flows, tuple(twice))


def _flows(shared: Layer) -> dict[str, Layer]:
    return {name: shared.part("flows", name) for name in shared.keys("flows")}


def _files(folder: Path, twice: list[Problem]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix in (".yaml", ".yml") and not file.name.startswith("."):
            if file.stem in files:
                twice.append(Problem(file, None, f"has the same name as {files[file.stem]}. Keep one."))
            files.setdefault(file.stem, file)
    return files
