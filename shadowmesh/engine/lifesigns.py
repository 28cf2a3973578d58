"""Whether a peer still answers: what it was asked for since it was last heard, and for how long nothing has come."""

from __future__ import annotations

from math import inf

SILENT = 15.0  # seconds of questions without an answer after which a peer counts as silent …
SILENT_OFFLINE = 5.0  # … and so many where the controller says that it is offline
LEAST_QUESTIONS = 3  # one may be lost, with its answer
QUESTIONS_EVERY = 1.2  # seconds between the questions to a peer that is said to be offline


class LifeSigns:
    """Times are CLOCK_BOOTTIME seconds, `offline` is what the controller says. `deadline`: when to look, or to ask, again."""

    __slots__ = ("_asked", "_asked_at", "_offline_since", "_question_at", "deadline", "offline")

    def __init__(self) -> None:
        self.offline = False
        self.deadline = inf
        self._asked = 0  # questions since the last sign …
        self._asked_at = inf  # … and when the first of them went out
        self._offline_since = inf  # when it went offline, if it wasn't heard since
        self._question_at = inf

    def asked(self, now: float) -> None:
        """Something that a living peer answers went out, on a way that leads to it."""
        self._asked_at = min(self._asked_at, now)
        self._asked += 1
        self._settle(now)

    def heard(self, at: float) -> None:
        """Something came of it that is no replay: an answer, a handshake, data."""
        if at >= min(self._asked_at, self._offline_since):
            self.reset()

    def reset(self) -> None:
        """It lives; or what was asked says nothing of it, as our own ways were in doubt."""
        self._asked, self._asked_at = 0, inf
        self._offline_since = self._question_at = self.deadline = inf

    def went_offline(self, now: float) -> None:
        """The controller doesn't see it any more: asks it."""
        self._offline_since = self._question_at = now
        self._settle(now)

    def question_due(self, now: float) -> bool:
        """Whether it is to be asked now."""
        if now < self._question_at:
            return False
        self._question_at = now + QUESTIONS_EVERY if self._asked + 1 < LEAST_QUESTIONS else inf
        return True

    def silent(self, now: float) -> bool:
        return self._asked >= LEAST_QUESTIONS and now >= self._asked_at + self._patience

    def looked(self, now: float) -> None:
        """At `deadline`."""
        self._settle(now)

    @property
    def _patience(self) -> float:
        return SILENT_OFFLINE if self.offline else SILENT

    def _settle(self, now: float) -> None:
        look_at = self._asked_at + self._patience
        self.deadline = min(self._question_at, look_at if look_at > now else inf)
