"""A dataset on disk: files, tables, truth, faults, and going on after an interruption."""
