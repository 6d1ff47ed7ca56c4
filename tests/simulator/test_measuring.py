"""CPU time, kernel counters, limits of the host, and the running counts."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mqttprov_simulator.cpu import CpuMeter, cpu_seconds
from mqttprov_simulator.host import allow_connections, tcp_counters
from mqttprov_simulator.tally import Tally


def test_cpu_seconds_of_this_process_are_those_of_the_clock() -> None:
    """Nanoseconds of all threads, as the process sees them itself."""
    before = time.process_time()
    measured = cpu_seconds(os.getpid())
    assert before <= measured <= time.process_time()


def test_cpu_meter_counts_another_process_and_keeps_its_last_reading() -> None:
    """A broker that was killed does not take its figures with it."""
    command = [sys.executable, "-c", "sum(range(10**6)); print(1, flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        meter = CpuMeter({"child": child.pid})
        child.stdout.readline()
        used = meter.read()["child"]
        assert used > 0
        child.stdin.close()
        child.wait()
    assert meter.read() == {"child": used}
    with pytest.raises(ProcessLookupError, match="does not run"):
        meter.restart()


def test_tcp_counters_are_read_by_name(tmp_path: Path) -> None:
    """The kernel's table has a line of names and a line of values for each protocol."""
    table = tmp_path / "netstat"
    table.write_text("IpExt: ListenDrops\nIpExt: 9\nTcpExt: A ListenOverflows TCPTimeouts\nTcpExt: 1 2 3\n")
    assert tcp_counters(table) == {"ListenOverflows": 2, "TCPTimeouts": 3}
    assert tcp_counters(tmp_path / "absent") == {}


def test_more_connections_than_the_host_allows_are_refused_with_advice() -> None:
    """No mystery errors in the middle of a run."""
    # In a process of its own: a hard limit, once lowered, stays.
    script = (
        "import resource; from mqttprov_simulator.host import HostLimitError, allow_connections\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "try: allow_connections(1000)\n"
        "except HostLimitError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert "ulimit -Hn" in done.stdout


def test_the_soft_limit_is_raised_as_far_as_needed() -> None:
    """A usual limit of 1,024 must not stop a demo with 1,000 gateways."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        allow_connections(100)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (164, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _tally(gateways: int) -> Tally:
    return Tally(gateways, 10.0, CpuMeter({"swarm": os.getpid()}))


def test_progress_shows_the_rate_and_the_latencies_of_the_last_seconds_only() -> None:
    """What was slow at the beginning is not shown for ever."""
    tally = _tally(10)
    tally.register(0.0, 0.5, 1.0)  # planned, started, now
    early = tally.progress(0.0, 1.0)
    assert early.registrations_per_s == pytest.approx(1.0)
    assert early.p50_ms == pytest.approx(1_000, rel=0.01)
    tally.progress(0.0, 9.5)
    for _ in range(4):
        tally.register(10.0, 10.0, 10.001)
    late = tally.progress(0.0, 10.5)
    assert late.registrations_per_s == pytest.approx(4.0)
    assert late.p99_ms == pytest.approx(1, rel=0.01)
    assert (late.registered, late.offered_per_s) == (5, 10.0)


def test_latency_counts_from_the_plan_and_service_time_from_the_start() -> None:
    """Coordinated omission: what waited for its start has waited."""
    tally = _tally(2)
    tally.register(1.0, 3.0, 3.5)
    assert tally.latency.max_ms == 2_500
    assert tally.service.max_ms == 500


def test_registrations_that_did_not_happen_count_with_the_timeout() -> None:
    """An error never makes the latencies look better."""
    tally = _tally(2)
    tally.register(0.0, 0.0, 0.001)
    tally.finish(unregistered=1, timeout_s=9.0)
    assert tally.latency.max_ms == 9_000
    assert tally.cpu_s["swarm"] > 0
