"""The thin bundle: all that is ever submitted to Flower is a pointer into the installed package."""

from __future__ import annotations

import hashlib

from flwr.cli.build import build_fab_from_files
from flwr.proto.fab_pb2 import Fab

import fedsus_server

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedsus-run"
version = "VERSION"
license = { file = "LICENSE" }
dependencies = []

[tool.flwr.app]
publisher = "fedsus"

[tool.flwr.app.components]
serverapp = "fedsus_server.flower.app:app"
clientapp = "fedsus_server.flower.app:nothing"

[tool.flwr.app.config]
folder = ""
"""


def build() -> Fab:
    """The bundle as Flower's control API takes it."""
    files = {
        "pyproject.toml": _PYPROJECT.replace("VERSION", fedsus_server.__version__).encode(),
        "LICENSE": b"Apache-2.0, as the installed fedsus-server package\n",
    }
    content, _ = build_fab_from_files(files)
    return Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
