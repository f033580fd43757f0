"""Settings of the journal with real bridges: where it is, that it can be off, and what `inspect` shows of it.

What survives a restart is `test_restarts.py`'s.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tests.support.client import HANDSHAKE, MODERN, eventually, text_of
from tests.support.stage import Stage
from tests.support.stdio_client import Wire


def start(stage: Stage, config: Path, era: str = HANDSHAKE) -> Wire:
    bridge = stage.serve("--config", str(config), era=era)
    bridge.wait_for_tools("toy__echo")
    return bridge


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def inspected(stage: Stage, config: Path) -> dict[str, object]:
    ran = stage.run("inspect", "--json", "--config", str(config))
    assert ran.code == 0, ran.stderr
    return json.loads(ran.stdout)["journal"]


def test_by_default_there_is_one_private_file_in_the_state_folder(stage: Stage) -> None:
    """Beside it stand a log while it is in use, and large results; no other user can read them."""
    config = stage.config({"toy": stage.toy()})
    bridge = start(stage, config)
    future = bridge.submit("toy__big", {"n_bytes": 200_000}).id
    assert len(text_of(bridge.outcome(future))) == 200_000
    (journal,) = (stage.folder / "state" / "journal").glob("*/journal.db")
    (result,) = (path for path in files(journal.parent) if path.suffix == ".json")
    assert len(json.loads(result.read_text())["content"][0]["text"]) == 200_000
    for path in (stage.folder / "state").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_off_writes_nothing(stage: Stage) -> None:
    """Neither a file nor a folder; futures end with the bridge."""
    config = stage.config({"toy": stage.toy()}, journal="off")
    bridge = start(stage, config)
    future = bridge.submit("toy__echo", {"text": "hunter2"}).id
    bridge.outcome(future)
    bridge.close()
    assert not (stage.folder / "state" / "journal").exists()
    assert [path for path in files(stage.folder / "state") if b"hunter2" in path.read_bytes()] == []
    assert f"{future} is from before the restart" in text_of(start(stage, config).call("await_future", {"id": future}))
    assert inspected(stage, config) is None


def test_a_path_is_relative_to_the_configuration(stage: Stage) -> None:
    """Wherever the host starts the bridge."""
    config = stage.config({"toy": stage.toy()}, journal="./own/futures.db")
    folder = config.parent / "own"
    bridge = start(stage, config)
    future = bridge.submit("toy__echo", {"text": "kept"}).id
    bridge.outcome(future)
    bridge.close()
    assert (folder / "futures.db").exists()
    assert not (stage.folder / "state" / "journal").exists()
    assert "kept" in text_of(start(stage, config).await_future(future))


def test_two_configurations_do_not_share_a_journal(stage: Stage) -> None:
    """The second one says so and keeps its futures in memory: the calls of the first are not for its servers."""
    path = str(stage.folder / "shared.db")
    one, two = (stage.config({"toy": stage.toy()}, journal=path) for _ in range(2))
    first = start(stage, one)
    future = first.submit("toy__echo", {"text": "of the first"}).id
    first.outcome(future)
    second = start(stage, two)
    assert "belongs to another configuration" in second.stderr()
    assert text_of(second.call("await_future", {"future_id": future})).startswith(f"Unknown future '{future}'")
    assert second.submit("toy__echo", {"text": "of the second"}).id == future
    second.close()
    first.close()
    assert "of the first" in text_of(start(stage, one).await_future(future))


def test_inspect_shows_the_journal_and_takes_nothing_from_it(stage: Stage) -> None:
    """Not even the unfinished futures of a bridge that was killed: those are the next bridge's."""
    config = stage.config({"toy": stage.toy()})
    bridge = start(stage, config)
    done = bridge.submit("toy__echo", {"text": "x"}).id
    bridge.outcome(done)
    running = bridge.submit("toy__sleep", {"seconds": 600}).id
    waiting = bridge.submit("toy__echo", {"text": "later", "_after": running}).id
    eventually(lambda: inspected(stage, config)["futures"] == 3, "all are written")
    bridge.process.kill()
    bridge.process.wait()
    for _ in range(2):
        facts = inspected(stage, config)
        assert (facts["futures"], facts["unfinished"], facts["problem"]) == (3, 2, None)
    text = stage.run("inspect", "--config", str(config)).stdout
    assert f"Journal: {facts['path']}: 3 futures, 2 of them unfinished, " in text
    bridge = start(stage, config)
    assert "interrupted" in text_of(bridge.await_future(running))
    assert "not sent" in text_of(bridge.await_future(waiting))
    assert inspected(stage, config)["unfinished"] == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root can write everywhere")
def test_inspect_says_why_a_journal_cannot_be_used(stage: Stage) -> None:
    """As the bridge does in its log."""
    (stage.folder / "read-only").mkdir(mode=0o500)
    config = stage.config({"toy": stage.toy()}, journal="./read-only/j.db")
    assert inspected(stage, config)["problem"] == "Permission denied"


# --- large results ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_beyond_max_result_bytes_a_local_client_gets_the_path_of_the_file(stage: Stage, era: str) -> None:
    """Over stdio; the file has the whole result, also in the next run."""
    config = stage.config({"toy": stage.toy()}, max_result_bytes=1000)
    bridge = start(stage, config, era)
    future = bridge.submit("toy__big", {"n_bytes": 200_000}).id
    for _ in range(2):
        note = bridge.await_future(future)["content"][0]["text"]
        path = Path(note.partition(", or from the JSON file ")[2])
        assert len(json.loads(path.read_text())["content"][0]["text"]) == 200_000
        bridge.close()
        bridge = start(stage, config, era)
    small = bridge.submit("toy__big", {"n_bytes": 5000}).id
    assert "JSON file" not in bridge.await_future(small)["content"][0]["text"]


@pytest.mark.parametrize("local", [True, False])
def test_a_client_with_a_token_gets_no_path(stage: Stage, local: bool) -> None:
    """It may be on another machine; on loopback without a token it is not."""
    options = () if local else ("--auth-token-env", "T")
    env = {} if local else {"T": "secret-token-1"}
    bridge = stage.http_bridge({"toy": stage.toy()}, *options, env=env, max_result_bytes=1000)
    client = bridge.client(**({} if local else {"headers": {"Authorization": "Bearer secret-token-1"}}))
    client.wait_for_tools("toy__big")
    future = client.submit("toy__big", {"n_bytes": 200_000}).id
    note = client.await_future(future)["content"][0]["text"]
    assert f"Read the rest from future://{future}" in note
    assert ("JSON file" in note) is local
