"""Frames packed into shards: plain tar files, for data that outgrows a local disk (docs/shards.md)."""
