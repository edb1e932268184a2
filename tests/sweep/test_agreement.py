"""What processes were told is compared field by field, and the roll call that gathers it."""

import contextlib
import functools
import socket
import threading
import time

import pytest
from absl import flags
from absl.testing import flagsaver

from ppp_jax.cli import flags as experiment_flags
from ppp_jax.cli import rendezvous, runtime
from ppp_jax.engine import devices, interrupts
from ppp_jax.errors import InputError
from ppp_jax.experiments import ablation
from ppp_jax.sweep import agreement


@pytest.fixture
def defined():
    """The flags of a main."""
    define = functools.partial(experiment_flags.define, ablation.DEFAULTS, workdir="runs/ablation")
    with experiment_flags.bound(define):
        yield flags.FLAGS


def test_every_flag_of_a_main_is_compared_but_those_of_one_process(defined):
    """Whatever is defined, so that a new flag is compared too."""
    overlooked = set()
    with flagsaver.flagsaver():
        defined(["main"])
        before = runtime.shared_settings()
        for name in sorted(defined):
            if defined.find_module_defining_flag(name).startswith("absl."):
                continue
            defined[name].value = "changed"
            found = agreement.disagreement([before, runtime.shared_settings()])
            if found is None or (found.field, found.values[1]) != (name, "changed"):
                overlooked.add(name)
            defined[name].value = defined[name].default
        assert {"learning_rates", "seeds", "dry_run", "workdir", "rotations"} <= before.keys()
    assert overlooked == {"coordinator", "process_id", "wait_seconds", "compilation_cache"}


def test_a_difference_names_the_field_and_both_values():
    told = [{"a": 1, "b": 2}, {"a": 1, "b": 2}, {"a": 1, "b": 3}]
    assert agreement.disagreement(told[:2]) is None
    assert agreement.disagreement(told) == ("b", (2, 3), (0, 2))
    with pytest.raises(InputError, match=r"^b=2: in process 0, but 3 in process 2; start the same"):
        agreement.check(told)


def test_a_field_that_only_one_knows_is_a_difference():
    assert agreement.disagreement([{}, {"new": 1}]) == ("new", ("nothing", 1), (0, 1))
    assert agreement.disagreement([{"old": 1}, {}]) == ("old", (1, "nothing"), (0, 1))


def test_another_main_is_said_before_the_flags_that_come_with_it(defined, monkeypatch):
    with flagsaver.flagsaver():
        defined(["main"])
        one = runtime.shared_settings()
        monkeypatch.setattr(runtime, "_main_name", lambda: "another")
        defined["seeds"].value = (5,)
        found = agreement.disagreement([one, runtime.shared_settings()])
    assert (found.field, found.values[1]) == ("main", "another")


def test_processes_have_equally_many_devices():
    devices.check_equal_device_counts([2, 2, 2])
    with pytest.raises(
        InputError, match="process 0 has 2 devices, but process 2 has 1; give all processes"
    ):
        devices.check_equal_device_counts([2, 2, 1])


def test_long_values_are_shown_where_they_differ():
    one = ",".join(map(str, range(3000)))
    with pytest.raises(InputError) as caught:
        agreement.check([{"seeds": one}, {"seeds": one.replace(",1500,", ",77777,")}])
    assert "1500" in str(caught.value)
    assert "77777" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("longest", "patience"), [(0.0, 10.0), (5.0, 20.0), (3600.0, 70.0)])
def test_a_process_that_is_to_stop_waits_as_long_as_work_takes_but_not_for_ever(
    longest, patience, monkeypatch
):
    monkeypatch.setattr(interrupts._Waits, "longest", longest)
    assert interrupts._patience() == patience


# --------------------------------------------------------------------------- the roll call


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def called(members, *, wait_seconds=20.0, port=None, meanwhile=lambda _: None):
    """Holds a roll call in threads; returns what each member was refused with, or None."""
    port, answers = port or free_port(), [None] * len(members)

    def attend(place):
        try:
            rendezvous.roll_call(f"localhost:{port}", members[place], wait_seconds=wait_seconds)
        except InputError as error:
            answers[place] = str(error)

    threads = [threading.Thread(target=attend, args=(i,)) for i in range(len(members))]
    threads[0].start()
    meanwhile(port)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def member(number, count=2, **fields):
    return rendezvous.Member(number, count, fields)


def test_processes_that_were_told_the_same_go_on():
    assert called([member(i, 3, epochs=1) for i in range(3)]) == [None] * 3


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([member(0, a=1), member(1, a=2)], "a=1: in process 0, but 2 in process 1"),
        ([member(0, 3), member(1, 2)], "num_processes=3: in process 0, but 2 in process 1"),
        ([member(0, 3), member(1, 3), member(1, 3)], "process_id=1: is given to two processes"),
        ([member(0, 3), member(0, 3)], "process_id=0: is given to two processes"),
    ],
)
def test_all_are_refused_in_the_same_words(members, text):
    answers = called(members)
    assert len(set(answers)) == 1
    assert answers[0].startswith(text)


def test_who_is_missing_is_said():
    answers = called([member(0, 3), member(1, 3)], wait_seconds=1.0)
    assert len(set(answers)) == 1
    assert "process 0 of 3 has waited in vain for process 2" in answers[0]
    (answer,) = called([member(1)], wait_seconds=0.5)
    assert "in vain for process 0 (Connection refused)" in answer


STRANGERS = [
    b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00\xff" * 5000, b"{}\n", b"[" * 100_000 + b"\n",
    b'{"greeting": "ppp_jax roll call"}\n', b'{"greeting": "ppp_jax roll call", "number"',
    b'{"greeting": "ppp_jax roll call", "number": true, "count": 2, "fields": {}}\n',
    b'{"greeting": "ppp_jax roll call", "number": -1, "count": 2, "fields": {}}\n',
    b'{"greeting": "ppp_jax roll call", "number": 10000000000000000, "count": 2, "fields": {}}\n',
]  # fmt: skip


def connected(port):
    """Returns a connection to whoever begins to listen."""
    for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("localhost", port), timeout=2)
        time.sleep(0.05)
    raise AssertionError("nobody listens")


def test_strangers_at_the_port_are_ignored():
    kept = []

    def knock(port):
        for text in STRANGERS:
            kept.append(connected(port))
            with contextlib.suppress(OSError):  # dismissed already, which is what is wanted
                kept[-1].sendall(text)

    try:
        assert called([member(0), member(1)], meanwhile=knock) == [None, None]
    finally:
        for connection in kept:
            connection.close()
    assert len(kept) == len(STRANGERS)


def test_a_port_in_use_is_one_line():
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        (answer,) = called([member(0)], port=port)
    assert answer.startswith(f"coordinator=localhost:{port}: process 0 cannot listen there (")
    assert "in use" in answer


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_this_machines_is_one_line(host):
    with pytest.raises(InputError, match="process 0 cannot listen there") as caught:
        rendezvous.roll_call(f"{host}:23999", member(0), wait_seconds=1)
    assert caught.value.field == "coordinator"


@pytest.mark.parametrize(
    "text",
    ["", "nocolon", ":1", "h:", "h:0", "h:65536", "h:x", "h:1:2", "::1:5", "h:٣", "a b:1", "h:1\n"],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InputError, match="must be host:port"):
        rendezvous.address(text)


def test_addresses():
    assert rendezvous.address("localhost:1") == ("localhost", 1)
    assert rendezvous.address("[fe80::1]:65535") == ("fe80::1", 65535)
