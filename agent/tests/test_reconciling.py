"""When both Kintos are compared: once a day, when asked, and at once after one of them was away."""

from __future__ import annotations

import pytest

from rig.replies import CLOSE
from rig.site import WAIT_S, Site, running
from rig.wait import wait_until
from unisat_agent.delivery.reconciling import AWAY_FIRST_S
from unisat_agent.service.app import Service


def comparisons(site: Site, side: str) -> int:
    """How often the side was counted."""
    return sum(request.method == "HEAD" for request in site.servers[side].requests)


def compared(agent: Service) -> None:
    """Waits for the comparison that follows a start."""
    wait_until(lambda: agent.reconciling and agent.reconciling.last, WAIT_S, "the first one")


@pytest.mark.parametrize("side", ["local", "hub"])
def test_is_done_at_once_when_a_kinto_is_back(site: Site, side: str) -> None:
    with running(site) as agent:
        site.send()
        site.delivered(1)
        compared(agent)
        server = site.servers[side]
        server.then(CLOSE, times=None)
        site.send()
        wait_until(
            lambda: site.status()["sinks"][side]["state"] == "backing_off", WAIT_S, "it to be away"
        )
        before = comparisons(site, side)
        server.forget_scripts()
        wait_until(lambda: comparisons(site, side) > before, WAIT_S, "a comparison")
        site.delivered(2)


def test_is_tried_again_soon_where_a_kinto_did_not_answer(site: Site) -> None:
    """With nothing to deliver nobody else would notice that it is back."""
    with running(site) as agent:
        compared(agent)
        site.servers["local"].then(CLOSE, times=None)
        assert agent.reconciling is not None
        agent.reconciling.hurry()
        wait_until(lambda: site.health()[1] == "degraded", WAIT_S, "the failure")
        site.servers["local"].forget_scripts()
        site.clock.advance(2 * AWAY_FIRST_S)
        wait_until(lambda: site.health()[1] == "ok", WAIT_S, "the comparison")
