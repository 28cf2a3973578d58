"""What the daemon does when the Node says that the host slept."""

from typing import cast

from shadowmesh.daemon.daemon import Daemon
from shadowmesh.daemon.links import Links
from shadowmesh.engine import Woke


class Kicked:
    def __init__(self) -> None:
        self.kicks = 0

    def kick(self) -> None:
        self.kicks += 1


def test_after_waking_the_links_to_controllers_are_tried_at_once() -> None:
    daemon = Daemon.__new__(Daemon)  # neither pump nor state: only what it does about this event
    links = Kicked()
    daemon.links = cast(Links, links)
    daemon._node_event(Woke(1000.0, 3600.0))
    assert links.kicks == 1
