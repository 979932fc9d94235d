"""Processes that work for a run, on this machine or on others. They know nothing of tasks.

A job is a text of bytes; a function that both sides name makes of it another text of bytes (see `worker.Entry`). While
it works, it tells the host what happens.

- `processes`: children of this machine, forked from a `template` that has imported the libraries.
- `dask_workers`: the workers of a cluster of Dask, which may be a `local_cluster`.
- `output`: what a job prints and logs, on its way to the host.
"""
