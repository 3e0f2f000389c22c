"""Its presence puts this directory on the import path: tests import ``oracles``, as configurations by class_path do."""
