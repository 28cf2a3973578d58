"""The near side of a measurement: one connection to a listener, any number of tests over it."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType

from shadowmesh.bench import messages, traffic
from shadowmesh.bench.listener import PATIENCE
from shadowmesh.bench.statistics import highest_lossless, percentile
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError

_CONNECT = 5.0
_ASK_AGAIN = 0.1
RTT_INTERVAL = 0.005  # seconds between two questions: an idle way, not a loaded one
RTT_SIZE = 64
_RTT_TIMEOUT = 1.0
_TRY_SECONDS = 0.5  # of one rate in the search for the highest without loss


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Milliseconds; `lost` of `count` questions had no answer within a second."""

    count: int
    lost: int
    median_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Datagrams:
    """Per second; `lost` is a share from 0 to 1."""

    sent_pps: float
    received_pps: float
    lost: float


class Client:
    """Asks a listener. A context manager; every method raises ShadowMeshError in words for people."""

    def __init__(self, address: str, port: int = messages.PORT, *, name: str | None = None) -> None:
        """Connects. `name`: what to call the other side."""
        self._name = name or address
        self._address = address
        self._port = port
        self._sock = self._connect()
        self._lines = messages.Lines(self._sock)
        with self._errors_in_words():
            self._lines.send(messages.Hello())
            self._lines.expect(messages.Hello)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()

    def round_trip(self, seconds: float) -> RoundTrip:
        """Asks and waits for the answer, one at a time, with pauses, for so long."""
        with self._errors_in_words(), ExitStack() as stack:
            sock = self._begin_udp(stack, messages.Request(test="rtt", seconds=seconds))
            sock.settimeout(_RTT_TIMEOUT)
            times: list[float] = []
            asked = 0
            began = time.monotonic()
            while time.monotonic() < began + seconds:
                times += _ask(sock, asked)
                asked += 1
                time.sleep(RTT_INTERVAL)
            self._lines.send(messages.Sent(count=asked, seconds=time.monotonic() - began))
        if not times:
            return RoundTrip(asked, asked, None, None)
        return RoundTrip(asked, asked - len(times), statistics.median(times) * 1e3, percentile(times, 0.99) * 1e3)

    def tcp(self, seconds: float, *, streams: int = 1, reverse: bool = False) -> traffic.Flow:
        """What arrived, in bytes: there, or with `reverse` here."""
        with self._errors_in_words(), ExitStack() as stack:
            self._lines.send(messages.Request(test="tcp", seconds=seconds, streams=streams, reverse=reverse))
            token = self._lines.expect(messages.Ready).token
            socks = [stack.enter_context(self._connect()) for _ in range(streams)]
            for sock in socks:
                messages.Lines(sock).send(messages.Join(token=token))
                sock.settimeout(PATIENCE + seconds)
            self._lines.expect(messages.Go)
            if reverse:
                flow = traffic.receive_streams(socks)
                self._lines.expect(messages.Sent)
                return flow
            sent = traffic.send_streams(socks, seconds)
            self._lines.send(messages.Sent(count=sent.count, seconds=sent.seconds))
            return self._received()

    def udp(self, seconds: float, *, size: int = 64, rate: float = 0.0, reverse: bool = False) -> Datagrams:
        """Datagrams of `size` bytes at a rate per second, 0 for as many as go."""
        with self._errors_in_words(), ExitStack() as stack:
            request = messages.Request(test="udp", seconds=seconds, size=size, rate=rate, reverse=reverse)
            sock = self._begin_udp(stack, request)
            if reverse:
                counter = traffic.DatagramCounter(sock, size)
                self._lines.send(messages.Go())
                try:
                    told = self._expect_late(messages.Sent, seconds)
                finally:
                    received = counter.finish()
                sent = traffic.Flow(told.count, told.seconds)
            else:
                sent = traffic.send_datagrams(sock, size, rate, seconds)
                self._lines.send(messages.Sent(count=sent.count, seconds=sent.seconds))
                received = self._received()
        lost = max(0.0, 1 - received.count / sent.count) if sent.count else 1.0
        # by the sender's time where it is the longer one: few datagrams that came at once are no rate
        return Datagrams(sent.rate, received.count / max(sent.seconds, received.seconds), lost)

    def highest_lossless(self, start: float, *, size: int = 64, reverse: bool = False) -> float:
        """The highest rate, in datagrams per second, at which less than half a percent is lost. Takes about five seconds."""

        def loss_at(rate: float) -> float:
            seen = self.udp(_TRY_SECONDS, size=size, rate=rate, reverse=reverse)
            return max(seen.lost, 1 - seen.sent_pps / rate - 0.02)  # a sender that can't keep the pace counts as loss

        return highest_lossless(loss_at, start)

    # the parts

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in self._address else socket.AF_INET, socket.SOCK_STREAM)
        sock.settimeout(_CONNECT)
        traffic.use_cubic(sock)
        try:
            sock.connect((self._address, self._port))
        except OSError as e:
            sock.close()
            if isinstance(e, ConnectionRefusedError):
                raise ShadowMeshError(
                    "bench_not_served",
                    f"nobody serves at {self._name} ({self._address} port {self._port})",
                    "run `shadowmesh bench --serve` there first",
                    kind=Kind.UNREACHABLE,
                ) from None
            raise ShadowMeshError(
                "bench_no_answer",
                f"{self._name} ({self._address} port {self._port}) doesn't answer",
                f"see `shadowmesh why {self._name}`, and whether a firewall there lets the port in",
                kind=Kind.UNREACHABLE,
            ) from e
        sock.settimeout(PATIENCE)
        return sock

    def _begin_udp(self, stack: ExitStack, request: messages.Request) -> socket.socket:
        """A socket that the listener's is connected to."""
        self._lines.send(request)
        ready = self._lines.expect(messages.Ready)
        sock = stack.enter_context(traffic.open_udp("::" if ":" in self._address else "0.0.0.0"))
        sock.connect((self._address, ready.port))
        went: list[messages.Go] = []
        self._sock.settimeout(_ASK_AGAIN)
        deadline = time.monotonic() + PATIENCE
        while not went:
            with suppress(ConnectionRefusedError):  # what is wrong there, the connection tells
                sock.send(ready.token.encode())
            try:
                went.append(self._lines.expect(messages.Go))
            except TimeoutError:  # a line comes whole or not at all: it is shorter than any packet
                if time.monotonic() > deadline:
                    raise
        self._sock.settimeout(PATIENCE)
        return sock

    def _expect_late(self, kind: type[messages.M], seconds: float) -> messages.M:
        self._sock.settimeout(PATIENCE + seconds)
        try:
            return self._lines.expect(kind)
        finally:
            self._sock.settimeout(PATIENCE)

    def _received(self) -> traffic.Flow:
        seen = self._lines.expect(messages.Received)
        return traffic.Flow(seen.count, seen.seconds)

    @contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        """Makes words for people of what goes wrong inside."""
        try:
            yield
        except messages.RefusedError as e:
            raise ShadowMeshError(
                f"bench_{e.code}",
                f"{self._name} refused: {e.what}",
                "try again later" if e.code == "busy" else "use the same version of shadowmesh on both sides",
                kind=Kind.CONFLICT,
            ) from e
        except MalformedError as e:
            raise ShadowMeshError(
                "bench_malformed",
                f"{self._name} doesn't speak as a bench listener ({e})",
                "see what listens on that port there",
            ) from e
        except OSError as e:
            raise ShadowMeshError(
                "bench_cut_off",
                f"the connection to {self._name} was lost in the measurement ({e.strerror or e})",
                "see `shadowmesh status`, and try again",
            ) from e


def _ask(sock: socket.socket, number: int) -> list[float]:
    """The seconds until the answer, or nothing if none came."""
    question = number.to_bytes(8, "big").ljust(RTT_SIZE, b"\0")
    began = time.perf_counter()
    with suppress(TimeoutError, ConnectionRefusedError):
        sock.send(question)
        while sock.recv(2048) != question:  # a late answer to an earlier one
            pass
        return [time.perf_counter() - began]
    return []
