"""On PYTHONPATH of a test's ComfyUI: the packages named in XDIT_TEST_WITHOUT are as if they were not installed."""

import importlib.metadata
import os
from importlib.machinery import PathFinder

WITHOUT = set(filter(None, os.environ.get("XDIT_TEST_WITHOUT", "").split(",")))

_find_spec, _from_name = PathFinder.find_spec, importlib.metadata.Distribution.from_name


def find_spec(fullname, path=None, target=None):
    return None if fullname.partition(".")[0] in WITHOUT else _find_spec(fullname, path, target)


def from_name(name):
    if name.replace("-", "_") in WITHOUT:
        raise importlib.metadata.PackageNotFoundError(name)
    return _from_name(name)


if WITHOUT:
    PathFinder.find_spec = find_spec
    importlib.metadata.Distribution.from_name = from_name
