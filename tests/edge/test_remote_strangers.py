"""However many connect to a served arm and say nothing, its clients go on, and a new one gets in."""

from __future__ import annotations

import pytest

from tests.arms import RecordingArm, fast_spec
from tests.edge.remote_rig import Raw, Rig
from tests.waiting import until
from tests.wire.crowd import flood


@pytest.mark.usefixtures("runtime")
def test_a_served_arm_bears_a_flood_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robotlearn.edge.arm_server._MAX_STRANGERS", 8)
    rig = Rig(RecordingArm(fast_spec()), "tcp://127.0.0.1:*")
    try:
        raw = Raw(rig.address, fast_spec())
        token = raw.acquire().token
        assert token is not None
        crowd = list(flood(rig.address, 200))
        until(lambda: rig.server.stats()["connections"] <= 1 + 8, "the bound")
        assert raw.rest(token).verdict == "done"
        late = Raw(rig.address, fast_spec())  # says Hello, and is welcome
        assert rig.server.stats()["clients"] == 2
        for connection in crowd:
            connection.close()
        late.close()
        raw.close()
    finally:
        rig.close()
