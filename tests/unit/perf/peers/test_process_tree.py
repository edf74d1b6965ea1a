"""Processor time and memory of a process with its children."""

from __future__ import annotations

import subprocess
import sys
import time

from perf.peers.process_tree import kill_survivors, process_tree, start_times, tree_cpu_seconds, tree_memory

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_tree_has_the_time_and_memory_of_the_children_and_can_be_killed() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        started = start_times(process_tree(parent.pid))
        try:
            assert set(started) == {parent.pid, child}
            before, deadline = tree_cpu_seconds(parent.pid), time.monotonic() + 60.0
            while tree_cpu_seconds(parent.pid) < before + 0.05:  # the parent waits, so this is the child's time
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert 2e6 < tree_memory(child) < tree_memory(parent.pid) < 1e9
            kill_survivors({child: "another start time"})
            assert child in process_tree(parent.pid)
        finally:
            kill_survivors(started)
        assert parent.wait(60.0) < 0
    assert process_tree(parent.pid) == []
