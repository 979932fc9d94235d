"""The strongly connected components of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set


def components(graph: Mapping[str, Set[str]]) -> Iterator[set[str]]:
    """The strongly connected components, each after those from which it can be reached.

    Args:
        graph: where each node leads to.

    Source: R. Tarjan, Depth-first search and linear graph algorithms (1972), written without recursion.

    >>> [sorted(component) for component in components({"a": {"b"}, "b": {"c"}, "c": {"b"}})]
    [['a'], ['b', 'c']]
    """
    return reversed(list(_last_first(graph)))


def _last_first(graph: Mapping[str, Set[str]]) -> Iterator[set[str]]:
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    for root in graph:
        if root in index:
            continue
        index[root] = lowest[root] = len(index)
        stack.append(root)
        work = [(root, iter(sorted(graph[root])))]
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in index:
                    index[target] = lowest[target] = len(index)
                    stack.append(target)
                    work.append((target, iter(sorted(graph[target]))))
                    break
                if target in stack:
                    lowest[node] = min(lowest[node], index[target])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[node])
                if lowest[node] == index[node]:
                    component = set()
                    while node not in component:
                        component.add(stack.pop())
                    yield component
