"""The roll call, in which processes that train together find each other before JAX starts.

Process 0 listens at the address that the coordinator of `jax.distributed` will use. The others send
their number and their settings, and all receive the same answer: to continue, or an error. Without
the roll call, JAX would abort, crash or hang if a process is missing or differs. The roll call uses
plain sockets, so that it can be interrupted. Other connections to the port are ignored.
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
LONGEST_MESSAGE = 4 << 20  # most bytes of a message
MOST_GUESTS = 1024  # most connections that have not identified themselves
GUEST_SECONDS = 10.0  # longest time in which a connection must identify itself
LINGER_SECONDS = 3.0  # for which process 0 sends an error to processes that come late
STRANGER_SECONDS = 10.0  # for which another program, such as an older run, may use the port
NAME_SECONDS = 30.0  # for which a host's name may be unknown, because the machine is starting
PAUSE = 0.2
LAST_PORT = 65535


class Member(NamedTuple):
    """A process of the roll call.

    Attributes:
      number: Number of the process, from 0.
      size: Number of processes according to this one's flags.
      fields: Other settings of this process, see `agreement`.
    """

    number: int
    size: int
    fields: Mapping[str, Any]


def address(coordinator: str) -> tuple[str, int]:
    """Returns host and port of an address.

    Args:
      coordinator: The address, `host:port`, in which an IPv6 address is in brackets.

    Raises:
      InputError: The address has another form.

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
    """Waits until all processes have joined the roll call with the same settings.

    Args:
      coordinator: Address at which process 0 listens.
      me: This process.
      wait_seconds: Longest time to wait, in seconds.

    Raises:
      InputError: A process is missing, two have the same number, the settings differ, or process 0
        cannot listen at the address. All processes that have joined raise the same error.
    """
    deadline = time.monotonic() + wait_seconds
    if me.number:
        _attend(coordinator, me, deadline, wait_seconds)
        return
    try:
        listener = _listen(coordinator)
    except InputError:
        with contextlib.suppress(_NobodyThereError):  # tell a second process 0, if there is one
            _attend(coordinator, me, time.monotonic() + 2, 2.0, patient=False)
        raise
    with _Host(listener, me) as host:
        verdict = host.call(deadline, wait_seconds)
    if verdict is not None:
        raise verdict


# ------------------------------------------------------------------------------- process 0


def _listen(coordinator: str) -> socket.socket:
    """Opens a socket at all of this machine's addresses, as JAX's coordinator will.

    Raises:
      InputError: The port cannot be opened, or the address is not this machine's.
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
            f"process 0 cannot listen there ({reason}); give an address of process 0's own "
            "machine, and a free port"
        )
        raise InputError("coordinator", coordinator, problem) from None


def _check_local(found: list[Any]) -> None:
    """Raises the system's OSError if none of the addresses is this machine's."""
    failure: OSError | None = None
    for family, kind, _, _, socket_address in found:
        try:
            with socket.socket(family, kind) as probe:
                probe.bind((socket_address[0], 0, *socket_address[2:]))
            return
        except OSError as error:
            failure = error
    if failure is not None:
        raise failure


def _reason(error: Exception) -> str:
    # create_server adds the address to the system's message.
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
        """Holds the roll call, sends the verdict to all members, and returns it."""
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
        for index, member in enumerate(members):
            if member.size != self.me.size:
                problem = (
                    f"in process 0, but {member.size} in process {member.number}; "
                    f"{agreement.REMEDY}"
                )
                return InputError("num_processes", self.me.size, problem)
            if member.number in [other.number for other in members[:index]]:
                problem = "is given to two processes; give each process its own number, from 0"
                return InputError("process_id", member.number, problem)
        for member in members[1:]:
            try:
                # The list is padded so that the error names the right number.
                between = [self.me.fields] * member.number
                agreement.check([*between, member.fields])
            except InputError as error:
                return error
        return None

    def _missing(self, wait_seconds: float) -> InputError:
        present = {member.number for member in self._members()}
        absent = [number for number in range(min(self.me.size, 100)) if number not in present]
        names = ", ".join(map(str, absent[:8])) + (", …" if len(absent) > 8 else "")
        problem = (
            f"process 0 of {self.me.size} has waited in vain for process {names}; start the same "
            "command on every machine, each with its own --process_id"
        )
        return InputError("wait_seconds", f"{wait_seconds:g}", problem)

    def _answer(self, verdict: InputError | None) -> None:
        refusal = verdict and [verdict.field, str(verdict.value), verdict.problem]
        text = json.dumps({"greeting": GREETING, "refusal": refusal}).encode() + b"\n"
        for guest in self.guests:
            if guest.member is not None:
                with contextlib.suppress(OSError):  # the connection is closed
                    guest.connection.sendall(text)

    def _serve(self) -> None:
        """Accepts and reads connections for a moment, and closes those that take too long."""
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
        except OSError:  # the connection is closed already, or no descriptors are left
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
        if guest not in self.guests:  # it was dismissed meanwhile
            return
        try:
            piece = guest.connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece or guest.member is not None:  # it is closed, or has sent a second message
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
    """Returns the member that a message describes, or None if it is not of a roll call."""
    message = _message(line)
    try:
        member = Member(message["number"], message["count"], message["fields"])
    except KeyError:
        return None
    if not all(type(number) is int for number in member[:2]) or not isinstance(member.fields, dict):
        return None
    return member if 0 <= member.number < member.size else None


def _message(line: bytes) -> dict[str, Any]:
    """Returns the content of a message, which is empty if it is not of a roll call."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) and message.get("greeting") == GREETING else {}


# ------------------------------------------------------------------------------ the others


class _NobodyThereError(Exception):
    """No roll call is held at the address."""


def _attend(
    coordinator: str, me: Member, deadline: float, wait_seconds: float, *, patient: bool = True
) -> None:
    """Sends this process's number and settings to process 0, and waits for the answer.

    Raises:
      InputError: The answer is an error, or there is none within the time.
      _NobodyThereError: There is no answer, and `patient` is False.
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


def _ask(host_and_port: tuple[str, int], me: Member, deadline: float) -> dict[str, Any] | None:
    """Returns process 0's answer; {} from another program; None if the connection was closed."""
    message = {"greeting": GREETING, "number": me.number, "count": me.size, "fields": me.fields}
    with socket.create_connection(host_and_port, timeout=2) as connection:
        connection.sendall(json.dumps(message).encode() + b"\n")
        connection.settimeout(PAUSE)
        text = b""
        while time.monotonic() < deadline + LINGER_SECONDS:  # process 0 sends a late error then
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
