"""nuScenes' tables as columns in one memory-mapped file, written once and opened in a blink."""
