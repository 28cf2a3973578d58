"""The layout of the topology: everybody has a place, nothing overlaps, at any size and for any number of peers."""

from __future__ import annotations

import pytest
import tui_scenarios as scenarios

from shadowmesh.model.clock import Now
from shadowmesh.model.status import Status
from shadowmesh_tui.state import Mesh, PeerKey
from shadowmesh_tui.topology import Picture, arrange, choose_leaves, draw


def picture_of(status: Status, width: int, height: int, selected: PeerKey | None = None) -> Picture:
    mesh = Mesh()
    mesh.observe(status, Now(0, 0))
    return arrange(mesh.all_rows(), "10.66.0.2", "relay1", selected, width, height)


SIZES = [(80, 17), (120, 33), (200, 50), (40, 10)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("count", [0, 1, 2, 5, 17, 34, 40, 300])
def test_marks_and_labels_stay_on_the_canvas_and_apart(width: int, height: int, count: int) -> None:
    picture = picture_of(scenarios.crowd(count), width, height)
    assert len({(p.side, p.y) for p in picture.leaves}) == len(picture.leaves)
    for placed in picture.leaves:
        assert 0 <= placed.y < height
        assert 0 <= placed.x < width
    rows = draw(picture, None).rows()
    assert len(rows) == height
    assert all(sum(len(part) for part, _ in row) == width for row in rows)


@pytest.mark.parametrize(("width", "height"), [(80, 17), (120, 33)])
@pytest.mark.parametrize("count", [5, 17, 33])
def test_where_there_is_room_every_peer_is_named(width: int, height: int, count: int) -> None:
    drawn = str(draw(picture_of(scenarios.crowd(count), width, height), None))
    for n in range(1, count + 1):
        assert f"host-{n:03d}" in drawn
    assert "this machine" in drawn and "relay1 (home)" in drawn


def test_peers_beyond_the_room_are_counted_and_none_is_forgotten() -> None:
    mesh = Mesh()
    mesh.observe(scenarios.crowd(300), Now(0, 0))
    leaves = choose_leaves(mesh.all_rows(), 34, None)
    named = [leaf for leaf in leaves if leaf.key]
    counted = {leaf.path: int(leaf.label.split()[0]) for leaf in leaves if not leaf.key}
    assert len(leaves) <= 34
    assert len(named) + sum(counted.values()) == 300
    assert set(counted) == {"direct", "relay", "none"}


def test_the_chosen_peer_is_always_in_the_picture() -> None:
    mesh = Mesh()
    mesh.observe(scenarios.crowd(300), Now(0, 0))
    for row in mesh.all_rows()[::37]:
        leaves = choose_leaves(mesh.all_rows(), 34, row.key)
        assert row.key in {leaf.key for leaf in leaves}
        assert len(leaves) <= 34


def test_relayed_peers_hang_on_their_relay_and_direct_ones_on_this_machine() -> None:
    status = scenarios.status(scenarios.network(scenarios.office_peers(0)))
    canvas = draw(picture_of(status, 80, 17), None)
    styles = {style for row in canvas.rows() for _, style in row}
    assert {"direct", "relay", "node", "me", "muted"} <= styles
    picture = picture_of(status, 80, 17)
    relay = picture.relays[0]
    assert relay.y > picture.centre[1]
    assert all(p.y >= picture.centre[1] for p in picture.leaves if p.leaf.relay)


def test_a_round_trip_stands_on_each_line_where_there_is_room() -> None:
    drawn = str(draw(picture_of(scenarios.status(scenarios.network(scenarios.office_peers(0))), 80, 17), None))
    assert drawn.count(" ms") == 5


def test_walking_visits_every_peer_once_and_comes_round() -> None:
    picture = picture_of(scenarios.crowd(12), 80, 17)
    key, seen = picture.step(None, 1), []
    for _ in range(12):
        seen.append(key)
        key = picture.step(key, 1)
    assert len(set(seen)) == 12 and key == seen[0]
    assert picture.step(seen[0], -1) == seen[-1]


def test_stepping_across_goes_to_the_other_side_and_clicks_find_labels() -> None:
    picture = picture_of(scenarios.crowd(12), 80, 17)
    left = next(p for p in picture.leaves if p.side == "left")
    other = next(p for p in picture.leaves if p.leaf.key == picture.across(left.leaf.key))
    assert other.side == "right"
    assert picture.at(left.x - 3, left.y) == left.leaf.key
    assert picture.at(*picture.centre) is None


def test_a_name_longer_than_its_place_is_shortened() -> None:
    peer = scenarios.office_peers(0)[0]
    long = type(peer)(name="x" * 90, client_id="c", ip="10.0.0.2", path="direct", reason="direct.lan", latency_ms=1.0)
    drawn = str(draw(picture_of(scenarios.status(scenarios.network((long,))), 80, 17), None))
    assert "…" in drawn and "x" * 30 not in drawn
