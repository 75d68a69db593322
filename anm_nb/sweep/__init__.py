"""Run notebooks in batch: cases through papermill, each in a process of its own, here or on a Dask cluster."""
