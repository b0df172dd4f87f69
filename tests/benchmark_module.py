"""The benchmarks, which are programs and no package, as modules."""

import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"


@contextmanager
def benchmark_module(name):
    """The benchmark of that name; known by it as long as it is used, as its dataclasses ask for."""
    specification = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[name]
