"""Tasks in processes and on Dask behave as tasks on threads do."""
