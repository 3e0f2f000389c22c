"""The one reader and writer of result files: names, versions, atomic writes. No torch, no Lightning.

docs/artifacts.md describes every file and every column.
"""

from layerscope.artifacts.history import HISTORY_COLUMNS, HISTORY_CSV, HISTORY_JSON, read_history, write_history
from layerscope.artifacts.names import safe_file_name
from layerscope.artifacts.run_directory import (
    UNREPORTED_SCORES,
    RunDirectory,
    Stage,
    open_run_directory,
    read_summary,
    write_table,
)
from layerscope.artifacts.scores import BottleneckScores, ClassifierScores
from layerscope.artifacts.tables import LONG_COLUMNS, read_csv
from layerscope.artifacts.thresholds import Thresholds
from layerscope.artifacts.versions import SCHEMA_VERSION, package_versions

__all__ = [
    "HISTORY_COLUMNS",
    "HISTORY_CSV",
    "HISTORY_JSON",
    "LONG_COLUMNS",
    "SCHEMA_VERSION",
    "UNREPORTED_SCORES",
    "BottleneckScores",
    "ClassifierScores",
    "RunDirectory",
    "Stage",
    "Thresholds",
    "open_run_directory",
    "package_versions",
    "read_csv",
    "read_history",
    "read_summary",
    "safe_file_name",
    "write_history",
    "write_table",
]
