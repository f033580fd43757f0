"""The start of a daemon, and what keeps a session from it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from asyncfc_mcp.thin.launch import Launcher, Source, Unusable


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="another user is needed")
@pytest.mark.parametrize("file", ["starting", "lock"])
def test_a_file_of_another_user_is_not_waited_for(file: str):
    """It may have been left in the folder while that was open to others, and be locked for as long as they like."""
    with tempfile.TemporaryDirectory(prefix="fc", dir="/tmp") as folder:
        launcher = Launcher(Source("/nonexistent.json", None, ()), {"ASYNCFC_RUNTIME_DIR": folder})
        path = Path(getattr(launcher.place, file))
        path.touch()
        os.chown(path, 65534, 65534)
        with pytest.raises(Unusable, match="belongs to another user"):
            launcher.join(5.0, resumed=False)
