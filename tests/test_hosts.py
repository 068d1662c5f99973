"""A job on two hosts: network namespaces of this machine, ranks started over ssh as by any host file, and a folder that both share.

It needs root, and Debian's packages: apt-get install iproute2 openssh-server
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_python, without_times

from env.run.files import load_arrays, read_jsonl

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("ip") and SSHD), reason="no ip or sshd: apt-get install iproute2 openssh-server"),
    pytest.mark.skipif(os.getuid() != 0, reason="network namespaces want root"),
]

SERVER = """
Port 2222
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PermitRootLogin yes
UsePAM no
PidFile none
"""
LAUNCHER = """#!/bin/sh
exec ssh -q -p 2222 -i {folder}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "$@"
"""
WORDS = ("controller/train.py", "carracing", "--scale", "smoke", "--max-steps", "60", "--population", "4", "--episodes", "2")
EVOLVE = (*WORDS, "--eval-every", "3", "--eval-episodes", "2", "--generations", "12")


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)


class Hosts:
    """Two namespaces with a wire between them, and an ssh server in each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder, [f"wm{os.getpid()}h{i}" for i in (1, 2)]
        for name in ("key", "host"):
            assert run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name).returncode == 0
        (folder / "sshd.conf").write_text(SERVER.format(folder=folder))
        (folder / "launch").write_text(LAUNCHER.format(folder=folder))
        (folder / "launch").chmod(0o755)
        (folder / "hosts").write_text("10.77.0.1:1\n10.77.0.2:2\n")
        Path("/run/sshd").mkdir(exist_ok=True)
        for name in self.names:
            made = run("ip", "netns", "add", name)
            if made.returncode:
                pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
        assert (
            run(
                "ip", "link", "add", "wire", "netns", self.names[0], "type", "veth", "peer", "name", "wire", "netns", self.names[1]
            ).returncode
            == 0
        )
        self.servers = []
        for number, name in enumerate(self.names, start=1):
            run("ip", "-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "wire")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "link", "set", "wire", "up")
            self.servers.append(subprocess.Popen(["ip", "netns", "exec", name, SSHD, "-D", "-f", str(folder / "sshd.conf")]))
        until = time.monotonic() + 10
        while self.inside("10.77.0.2", "true").returncode and time.monotonic() < until:
            time.sleep(0.1)

    def inside(self, host: str, *words: str) -> subprocess.CompletedProcess[str]:
        return run("ip", "netns", "exec", self.names[0], self.folder / "launch", host, *words)

    def start(self, path: Path) -> subprocess.Popen:
        """The evolution on one rank here and two over there."""
        line = ["ip", "netns", "exec", self.names[0], str(Path(sys.executable).with_name("mpirun")), "-launcher", "ssh"]
        line += ["-launcher-exec", str(self.folder / "launch"), "-f", str(self.folder / "hosts"), "-np", "3", sys.executable]
        # No shared memory between the two, which are one machine after all.
        environment = os.environ | {"MPIR_CVAR_NOLOCAL": "1"}
        words = [str(ROOT / EVOLVE[0]), *EVOLVE[1:], "--run", str(path)]
        return subprocess.Popen([*line, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)

    def stop(self) -> None:
        for server in self.servers:
            server.send_signal(signal.SIGTERM)
            server.wait()
        for name in self.names:
            for pid in run("ip", "netns", "pids", name).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "del", name)


@pytest.fixture()
def hosts(tmp_path_factory) -> Iterator[Hosts]:
    made = Hosts(tmp_path_factory.mktemp("hosts"))
    yield made
    made.stop()


def test_two_hosts_come_to_the_history_of_one(hosts, tmp_path):
    path, alone = tmp_path / "run", tmp_path / "alone"
    child = hosts.start(path)
    said = child.communicate(timeout=300)[0]
    assert child.returncode == 0, said
    result = run_python(*EVOLVE, "--run", alone)
    assert result.returncode == 0, result.stderr
    ours, theirs = ([without_times(row) for row in read_jsonl(p / "controller" / "log.jsonl")] for p in (path, alone))
    assert ours == theirs and len(ours) == 12
    best, expected = (load_arrays(p / "controller" / "best.npz")[0]["params"] for p in (path, alone))
    np.testing.assert_array_equal(best, expected)
