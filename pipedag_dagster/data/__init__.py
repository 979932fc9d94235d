"""How data gets in and out: DataFrames, columns, JSON values, blobs, plans of polars."""
