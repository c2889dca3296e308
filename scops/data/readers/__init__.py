"""Data sets in the forms that people have: a container (JSON, parquet, tar shards) of rows in one of a few forms."""

from scops.data.readers.dataset import Dataset, open_dataset

__all__ = ["Dataset", "open_dataset"]
