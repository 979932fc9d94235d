"""How a sample goes from rows to other rows: by a relation, down to children or up to parents."""

from __future__ import annotations

from dataclasses import dataclass

from pipedag_dagster.sampling.rules import ChildrenOf, Relation, SampleSpec


@dataclass(frozen=True)
class Edge:
    """Rows of `target` come along with rows of `origin`, by a relation: down to children, or up to parents."""

    relation: Relation
    down: bool

    @property
    def origin(self) -> str:
        return self.relation.parent if self.down else self.relation.child

    @property
    def target(self) -> str:
        return self.relation.child if self.down else self.relation.parent

    def is_chosen_by(self, spec: SampleSpec) -> bool:
        """Whether the rule of the target takes the children of chosen rows by this edge."""
        rule = spec.rule(self.target)
        return self.down and isinstance(rule, ChildrenOf) and self.origin in rule.parents

    def cap(self, spec: SampleSpec) -> int | None:
        """How many rows each row of the origin brings at most; None for all."""
        rule = spec.rule(self.target)
        return rule.per_parent if self.is_chosen_by(spec) and isinstance(rule, ChildrenOf) else None
