"""Prefect runs the pipeline; DVC says what it is; nothing is computed here.

Prefect reads its environment when it is first imported, so what this project asks of it stands here, before any flow.
"""

import os
from pathlib import Path

from flows.home import INSTEAD, homeless

for key, value in {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}.items():
    os.environ.setdefault(key, value)
os.environ.update(homeless(os.environ, Path.cwd() / INSTEAD))
