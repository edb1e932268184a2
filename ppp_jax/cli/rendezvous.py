"""The roll call: processes that are to train together find each other before JAX does.

Process 0 listens where the coordinator of `jax.distributed` will, the others say who they are and
what they were told, and all get the same answer: go on, or why not. JAX itself would abort, crash
or hang. Plain sockets: a request to stop is heard. Whoever else knocks at the port is ignored.
"""

import contextlib
import json
import os
import re
import selectors
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from ppp_jax.errors import InputError
from ppp_jax.sweep import agreement

GREETING = "ppp_jax roll call"
LONGEST_MESSAGE = 4 << 20  # bytes
MOST_GUESTS = 1024  # connections that have not said who they are
GUEST_SECONDS = 10.0  # until which they must have
LINGER_SECONDS = 3.0  # in which those who come late still hear why the others have ended
STRANGER_SECONDS = 10.0  # for which something else may answer at the port, such as an older run
NAME_SECONDS = 30.0  # for which a host's name may be unknown, such as that of a machine starting
PAUSE = 0.2
LAST_PORT = 65535


class Member(NamedTuple):
    """A process.

    Attributes:
      number: which one it is.
      size: how many there are, as it was told.
      fields: what else it was told, see `agreement`.
    """

    number: int
    size: int
    fields: Mapping[str, Any]


def address(coordinator: str) -> tuple[str, int]:
    """Returns host and port.

    Args:
      coordinator: `host:port`, an IPv6 address in brackets.

    Raises:
      InputError: it is something else.

    Example:
      >>> address("[::1]:1234")
      ('::1', 1234)
    """
    parts = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]@]+):([0-9]{1,5})", coordinator)
    if parts is None or not 0 < int(parts[2]) <= LAST_PORT:
        problem = f"must be host:port, such as 10.0.0.1:1234, with a port from 1 to {LAST_PORT}"
        raise InputError("coordinator", coordinator, problem)
    return parts[1].strip("[]"), int(parts[2])


def roll_call(coordinator: str, me: Member, *, wait_seconds: float) -> None:
    """Waits until all processes are here and were told the same.

    Args:
      coordinator: where process 0 listens.
      me: this process.
      wait_seconds: for how long.

    Raises:
      InputError: the same in all processes that are here: some are missing, a number is given
        twice, or they were told different things. Or process 0 cannot listen at that address.
    """
    deadline = time.monotonic() + wait_seconds
    if me.number:
        _attend(coordinator, me, deadline, wait_seconds)
        return
    try:
        listener = _listen(coordinator)
    except InputError:
        with contextlib.suppress(_NobodyThereError):  # another process 0 would be glad to know
            _attend(coordinator, me, time.monotonic() + 2, 2.0, patient=False)
        raise
    with _Host(listener, me) as host:
        verdict = host.call(deadline, wait_seconds)
    if verdict is not None:
        raise verdict


# ------------------------------------------------------------------------------- process 0


def _listen(coordinator: str) -> socket.socket:
    """Listens at all of this machine's addresses, as JAX's coordinator will.

    Raises:
      InputError: it cannot be, or the address is not this machine's.
    """
    host, port = address(coordinator)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        _check_local(found)
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except (OSError, UnicodeError) as error:
        reason = _reason(error)
        problem = (
            f"process 0 cannot listen there ({reason}); name an address of process 0's own "
            "machine, and a port that is free"
        )
        raise InputError("coordinator", coordinator, problem) from None


def _check_local(found: list[Any]) -> None:
    """Raises the system's OSError if none of the addresses is this machine's."""
    failure: OSError | None = None
    for family, kind, _, _, where in found:
        try:
            with socket.socket(family, kind) as probe:
                probe.bind((where[0], 0, *where[2:]))
            return
        except OSError as error:
            failure = error
    if failure is not None:
        raise failure


def _reason(error: Exception) -> str:
    # create_server adds the address to the system's words.
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and number:
        return os.strerror(number)
    return str(getattr(error, "strerror", None) or error)


class _Guest:
    """A connection that process 0 has accepted."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.text = b""
        self.until = time.monotonic() + GUEST_SECONDS
        self.member: Member | None = None


class _Host:
    """Process 0's side of a roll call."""

    def __init__(self, listener: socket.socket, me: Member):
        self.listener, self.me = listener, me
        self.guests: list[_Guest] = []
        self.selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ)

    def __enter__(self) -> "_Host":
        return self

    def __exit__(self, *_: object) -> None:
        for guest in list(self.guests):
            self._dismiss(guest)
        self.selector.close()
        self.listener.close()

    def call(self, deadline: float, wait_seconds: float) -> InputError | None:
        """Returns the verdict, which all who are here have been told."""
        while True:
            verdict = self._verdict()
            if verdict is not None or len(self._members()) >= self.me.size:
                break
            if time.monotonic() > deadline:
                verdict = self._missing(wait_seconds)
                break
            self._serve()
        self._answer(verdict)
        linger = time.monotonic() + LINGER_SECONDS
        while verdict and time.monotonic() < linger and len(self._members()) < self.me.size:
            self._serve()
            self._answer(verdict)
        return verdict

    def _members(self) -> list[Member]:
        return [self.me, *(guest.member for guest in self.guests if guest.member is not None)]

    def _verdict(self) -> InputError | None:
        members = self._members()
        for place, member in enumerate(members):
            if member.size != self.me.size:
                problem = (
                    f"in process 0, but {member.size} in process {member.number}; "
                    f"{agreement.REMEDY}"
                )
                return InputError("num_processes", self.me.size, problem)
            if member.number in [other.number for other in members[:place]]:
                problem = "is given to two processes; each has a number of its own, from 0"
                return InputError("process_id", member.number, problem)
        for member in members[1:]:
            try:
                # In their places, so that the line names the right one.
                between = [self.me.fields] * member.number
                agreement.check([*between, member.fields])
            except InputError as error:
                return error
        return None

    def _missing(self, wait_seconds: float) -> InputError:
        here = {member.number for member in self._members()}
        absent = [number for number in range(min(self.me.size, 100)) if number not in here]
        names = ", ".join(map(str, absent[:8])) + (", …" if len(absent) > 8 else "")
        problem = (
            f"process 0 of {self.me.size} has waited in vain for process {names}; start the same "
            "command on every machine, each with its own --process_id"
        )
        return InputError("wait_seconds", f"{wait_seconds:g}", problem)

    def _answer(self, verdict: InputError | None) -> None:
        told = verdict and [verdict.field, str(verdict.value), verdict.problem]
        text = json.dumps({"greeting": GREETING, "refusal": told}).encode() + b"\n"
        for guest in self.guests:
            if guest.member is not None:
                with contextlib.suppress(OSError):  # it has gone
                    guest.connection.sendall(text)

    def _serve(self) -> None:
        """Accepts, reads and dismisses for a moment."""
        for key, _ in self.selector.select(PAUSE):
            if key.fileobj is self.listener:
                self._accept()
            else:
                self._read(key.data)
        for guest in list(self.guests):
            if guest.member is None and time.monotonic() > guest.until:
                self._dismiss(guest)

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:  # gone again, or no descriptors left
            time.sleep(PAUSE)
            return
        connection.setblocking(False)
        guest = _Guest(connection)
        unknown = [other for other in self.guests if other.member is None]
        if len(unknown) >= MOST_GUESTS:
            self._dismiss(unknown[0])
        self.guests.append(guest)
        self.selector.register(connection, selectors.EVENT_READ, guest)

    def _read(self, guest: _Guest) -> None:
        if guest not in self.guests:  # dismissed since
            return
        try:
            piece = guest.connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece or guest.member is not None:  # it has ended; nobody speaks twice
            self._dismiss(guest)
            return
        guest.text += piece
        if b"\n" in guest.text:
            guest.member = _member(guest.text.split(b"\n")[0])
        opening = json.dumps({"greeting": GREETING}).encode()[:-1]
        ours = guest.text.startswith(opening[: len(guest.text)])
        if (
            not ours
            or len(guest.text) > LONGEST_MESSAGE
            or (b"\n" in guest.text and guest.member is None)
        ):
            self._dismiss(guest)

    def _dismiss(self, guest: _Guest) -> None:
        self.selector.unregister(guest.connection)
        guest.connection.close()
        self.guests.remove(guest)


def _member(line: bytes) -> Member | None:
    """Returns who says this, or None if it is not one of ours."""
    said = _message(line)
    try:
        member = Member(said["number"], said["count"], said["fields"])
    except KeyError:
        return None
    if not all(type(number) is int for number in member[:2]) or not isinstance(member.fields, dict):
        return None
    return member if 0 <= member.number < member.size else None


def _message(line: bytes) -> dict[str, Any]:
    """Returns a message, empty if it is not one of ours."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) and said.get("greeting") == GREETING else {}


# ------------------------------------------------------------------------------ the others


class _NobodyThereError(Exception):
    """No roll call is held at the address."""


def _attend(
    coordinator: str, me: Member, deadline: float, wait_seconds: float, *, patient: bool = True
) -> None:
    """Tells process 0 who this is, and waits for its answer.

    Raises:
      InputError: the answer is no, or there is none within the time.
      _NobodyThereError: there is none, and the caller is not `patient`.
    """
    began, strange, reason = time.monotonic(), None, "nobody answers"
    while time.monotonic() < deadline:
        try:
            answer = _ask(address(coordinator), me, deadline)
        except (OSError, UnicodeError) as error:
            answer, reason = None, _reason(error)
            unknown = isinstance(error, (socket.gaierror, UnicodeError))
            if unknown and time.monotonic() - began > NAME_SECONDS:
                break
        if answer:
            if answer["refusal"] is not None:
                raise InputError(*answer["refusal"])
            return
        if answer is not None:
            reason, strange = "something else answers there", strange or time.monotonic()
            if time.monotonic() - strange > STRANGER_SECONDS:
                break
        time.sleep(PAUSE)
    if not patient:
        raise _NobodyThereError
    waited = min(wait_seconds, time.monotonic() - began)
    problem = (
        f"process {me.number} of {me.size} has waited {waited:.0f} s in vain for process 0 "
        f"({reason}); start the same command on every machine, with the address of process 0"
    )
    raise InputError("coordinator", coordinator, problem)


def _ask(where: tuple[str, int], me: Member, deadline: float) -> dict[str, Any] | None:
    """Returns process 0's answer; nothing if it is not ours; None if the connection ended."""
    said = {"greeting": GREETING, "number": me.number, "count": me.size, "fields": me.fields}
    with socket.create_connection(where, timeout=2) as connection:
        connection.sendall(json.dumps(said).encode() + b"\n")
        connection.settimeout(PAUSE)
        text = b""
        while time.monotonic() < deadline + LINGER_SECONDS:  # process 0 may be about to say so
            try:
                piece = connection.recv(1 << 16)
            except TimeoutError:
                continue
            text += piece
            if b"\n" in text or len(text) > LONGEST_MESSAGE:
                break
            if not piece:
                return {} if text else None
            if not text.startswith(b'{"greeting"'[: len(text)]):
                return {}
    answer = _message(text.split(b"\n")[0])
    refusal = answer.get("refusal", ())
    well = refusal is None or (isinstance(refusal, list) and len(refusal) == 3)
    return answer if well else {}
