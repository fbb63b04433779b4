"""The commands of `cuekit`, one file each. `cuekit/__main__.py` says what such a file has."""
