"""A job under a real Slurm, of two nodes on this machine: stopped in time, a node lost, requeued, the same history.

It needs root and Debian's packages: apt-get install slurm-wlm munge
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_python, without_times

from env.run.files import load_arrays, read_jsonl

SLURM = shutil.which("slurmctld") and shutil.which("munged")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SLURM, reason="no Slurm: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.getuid() != 0, reason="Slurm's daemons want root"),
    pytest.mark.skipif(not (ROOT / ".venv" / "bin" / "python").exists(), reason="the job starts .venv/bin/python: bash run.sh setup"),
]

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdTimeout=10
ReturnToService=2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_1} CPUs=4 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_2} CPUs=4 RealMemory=4000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
WORDS = ("carracing", "--scale", "smoke", "--max-steps", "60", "--vae-source", "shipped", "--rnn-source", "shipped")
EVOLVE = ("--population", "4", "--episodes", "2", "--eval-every", "3", "--eval-episodes", "2", "--generations", "24")


class Cluster:
    """Slurm's daemons, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o755)
        for name in ("state", "spool-n1", "spool-n2"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        port, port_1, port_2 = free_ports(3)
        host = socket.gethostname().split(".")[0]
        config = folder / "slurm.conf"
        config.write_text(CONFIG.format(host=host, folder=folder, port=port, port_1=port_1, port_2=port_2))
        self.environment = os.environ | {"SLURM_CONF": str(config)}
        munge = [f"--{name}={folder}/munge.{end}" for name, end in (("socket", "socket"), ("key-file", "key"), ("seed-file", "seed"))]
        self.run("munged", "--force", *munge, f"--log-file={folder}/munge.log", f"--pid-file={folder}/munge.pid")
        self.run("slurmctld", "-f", config)
        self.start_nodes()

    def start_nodes(self) -> None:
        for node in ("n1", "n2"):
            self.run("slurmd", "-f", self.folder / "slurm.conf", "-N", node)

    def run(self, *words: object) -> str:
        answer = subprocess.run([*map(str, words)], capture_output=True, text=True, env=self.environment, cwd=ROOT, check=False)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    def pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text())

    def lose(self, node: str, run: Path) -> None:
        """A node's daemon, and all that it started, die at once."""
        steps = subprocess.run(["pgrep", "-f", f"slurmstepd.*{node}|slurmstepd: "], capture_output=True, text=True, check=False).stdout
        os.kill(self.pid(f"slurmd-{node}"), signal.SIGKILL)
        for pid in map(int, steps.split()):
            if node in (Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()).decode(errors="replace"):
                os.kill(pid, signal.SIGKILL)
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                about = (folder / "environ").read_bytes().split(b"\0")
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"SLURMD_NODENAME={node}".encode() in about and str(run).encode() in words:
                os.kill(int(folder.name), signal.SIGKILL)

    def stop(self) -> None:
        for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "munge"):
            try:
                os.kill(self.pid(name), signal.SIGTERM)
            except (OSError, ValueError):
                pass


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture()
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    made = Cluster(Path(tmp_path_factory.mktemp("slurm", numbered=True)))
    yield made
    subprocess.run(["scancel", "--user=root"], env=made.environment, check=False)
    time.sleep(2)
    made.stop()


def until(done, seconds: float, said, what: str = "") -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"{what} {said()}"
        time.sleep(0.2)


def test_a_job_goes_on_after_a_signal_and_a_lost_node(cluster, tmp_path):
    """Its time is up in the first start, in the second its second node dies; the third ends it, with the history of one process."""
    run, alone, log = tmp_path / "run", tmp_path / "alone", tmp_path / "job.log"
    settings = [word if not word.startswith("--") else f"--controller-{word[2:]}" for word in EVOLVE]
    words = ["--ntasks=4", "--ntasks-per-node=2", "--nodes=1-2", "--spread-job", f"--output={log}", ROOT / "controller/tools/job.sbatch"]
    job = cluster.run("sbatch", "--parsable", *words, *WORDS, "--run", run, *settings)
    rows = lambda: read_jsonl(run / "controller" / "log.jsonl") if (run / "controller" / "log.jsonl").exists() else []  # noqa: E731
    said = lambda: log.read_text() if log.exists() else ""  # noqa: E731

    until(lambda: len(rows()) >= 3, 900, said, "the job does not get on:")
    cluster.run("scancel", "--signal=USR1", "--batch", job)
    until(lambda: "ended with exit code 75 (start number 1)" in said(), 20, said)
    stopped = len(rows())
    assert 3 <= stopped < 24

    until(lambda: len(rows()) >= stopped + 2, 900, said, "it was not started again:")
    assert cluster.run("squeue", "-h", "-j", job, "-o", "%N") == "n[1-2]"
    cluster.lose("n2", run)
    until(lambda: "start number 2" in said() or "NODE FAILURE" in said() or "NODE_FAIL" in said(), 120, said)
    cluster.run("slurmd", "-f", cluster.folder / "slurm.conf", "-N", "n2")
    until(lambda: "finished: see" in said(), 900, said)

    pipeline = ("controller/pipeline.py", *WORDS, "--run", alone, *settings, "--ranks", "1", "--no-estimate")
    result = run_python(*pipeline)
    assert result.returncode == 0, result.stderr
    ours, theirs = ([without_times(row) for row in read_jsonl(path / "controller" / "log.jsonl")] for path in (run, alone))
    assert ours == theirs and len(ours) == 24
    best, expected = (load_arrays(path / "controller" / "best.npz")[0]["params"] for path in (run, alone))
    np.testing.assert_array_equal(best, expected)
