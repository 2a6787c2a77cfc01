"""Flower's search for dead tasks runs at times, not in every request, and leaves a slow start alone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fedsus_server.flower.superlink import _LAUNCH_SECONDS, _let_tasks_start_slowly, _look_for_dead_tasks_less_often


class _State:
    def __init__(self) -> None:
        self.looks = 0

    def _cleanup_expired_task_tokens(self) -> None:
        self.looks += 1


def test_requests_of_one_second_look_once_and_a_later_one_again() -> None:
    state, now = _State(), [100.0]
    _look_for_dead_tasks_less_often(state, lambda: now[0])
    for _ in range(50):
        state._cleanup_expired_task_tokens()
    assert state.looks == 1
    now[0] += 0.99
    state._cleanup_expired_task_tokens()
    assert state.looks == 1
    now[0] += 0.02
    state._cleanup_expired_task_tokens()
    assert state.looks == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of typer and alembic, which flwr uses
def test_a_round_loop_that_starts_slowly_is_not_launched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it has had its time."""
    from flwr.server.superlink.linkstate import LinkStateFactory
    from flwr.supercore.corestate import sql_corestate
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.superlink.federation import NoOpFederationManager

    database, passed, now = str(tmp_path / "state.db"), [0.0], sql_corestate.now
    monkeypatch.setattr(sql_corestate, "now", lambda: now() + timedelta(seconds=passed[0]))
    state: Any = LinkStateFactory(database, NoOpFederationManager(), ObjectStoreFactory(database)).state()
    task = state.create_task("flwr-serverapp", 1)

    def kept(seconds: float) -> bool:
        """Whether a launch is still the task's so many seconds later."""
        passed[0] = 0.0
        token = state.claim_task(task)
        assert token is not None
        passed[0] = seconds
        state._cleanup_expired_task_tokens()
        return state.get_task_by_token(token) is not None

    assert not kept(40.0), "of Flower alone"
    _let_tasks_start_slowly(state)
    assert not kept(_LAUNCH_SECONDS + 10)
    assert kept(40.0)
    assert state.claim_task(task) is None
