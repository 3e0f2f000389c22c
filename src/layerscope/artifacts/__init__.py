"""The one reader and writer of result files: names, versions, atomic writes. No torch, no Lightning.

docs/artifacts.md describes every file and every column.
"""

from layerscope.artifacts.headline import Headline
from layerscope.artifacts.history import HISTORY_COLUMNS, HISTORY_CSV, HISTORY_JSON, read_history, write_history
from layerscope.artifacts.names import mirrored_file_name, safe_file_name
from layerscope.artifacts.pictures import PictureFormat, encode_picture, read_picture
from layerscope.artifacts.run_directory import (
    PARTIAL_SUFFIX,
    UNFINISHED,
    UNREPORTED_SCORES,
    RunDirectory,
    Stage,
    npz_bytes,
    open_run_directory,
    read_summary,
    to_plain,
    whole_file,
    write_file,
    write_json_file,
    write_table,
)
from layerscope.artifacts.scores import BottleneckScores, ClassifierScores
from layerscope.artifacts.tables import (
    AGGREGATE_COLUMNS,
    COMPARISON_COLUMNS,
    LOCALISATION_COLUMNS,
    LONG_COLUMNS,
    PAIR_COLUMNS,
    PAIRWISE_COLUMNS,
    SWEEP_COLUMNS,
    TOKEN_COLUMNS,
    format_csv,
    read_csv,
)
from layerscope.artifacts.thresholds import Thresholds
from layerscope.artifacts.versions import SCHEMA_VERSION, package_versions

__all__ = [
    "AGGREGATE_COLUMNS",
    "COMPARISON_COLUMNS",
    "HISTORY_COLUMNS",
    "HISTORY_CSV",
    "HISTORY_JSON",
    "LOCALISATION_COLUMNS",
    "LONG_COLUMNS",
    "PAIRWISE_COLUMNS",
    "PAIR_COLUMNS",
    "PARTIAL_SUFFIX",
    "SCHEMA_VERSION",
    "SWEEP_COLUMNS",
    "TOKEN_COLUMNS",
    "UNFINISHED",
    "UNREPORTED_SCORES",
    "BottleneckScores",
    "ClassifierScores",
    "Headline",
    "PictureFormat",
    "RunDirectory",
    "Stage",
    "Thresholds",
    "encode_picture",
    "format_csv",
    "mirrored_file_name",
    "npz_bytes",
    "open_run_directory",
    "package_versions",
    "read_csv",
    "read_history",
    "read_picture",
    "read_summary",
    "safe_file_name",
    "to_plain",
    "whole_file",
    "write_file",
    "write_history",
    "write_json_file",
    "write_table",
]
