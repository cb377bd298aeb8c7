"""A real SLURM cluster of two nodes on this machine: its own munge, controller and daemons, nothing outside one folder.

By hand, from the repository root and as root (Debian: slurm-wlm, munge):

    python tests/slurm/cluster.py FOLDER      # says which SLURM_CONF to export; Ctrl-C ends the cluster
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged")
CPUS = 4  # of each node, as SLURM believes; the machine may have fewer

CONFIGURATION = """\
ClusterName=mmtrain
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job starts when its old credential has expired: 5 seconds instead of 120
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=10
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,bf_interval=1
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cpus} State=UNKNOWN
PartitionName=test Nodes=node[1-2] Default=YES MaxTime=1:00:00 State=UP
"""


def missing() -> str | None:
    """Why no cluster can run here, None where one can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)} on this machine (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "slurmd wants root"


class Cluster:
    """node1 and node2 between `start` and `stop`; `environment` is what its commands and jobs need.

    Args:
        folder: Keeps keys, state and logs; its path has to be short enough for a socket (about 90 characters).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # what a surrounding job or cluster says of itself is not for this one
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        self.environment = clean | {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen] = []

    def start(self) -> None:
        """Starts everything and waits until both nodes take jobs.

        Raises:
            RuntimeError: with the last lines of the logs when they do not within a minute.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir(exist_ok=True)
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n", encoding="utf-8")
        controller, first, last = _free_ports()
        text = CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            folder=self.folder,
            controller=controller,
            first=first,
            last=last,
            cpus=CPUS,
        )
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        places = [
            f"--{name}={self.folder / file}"
            for name, file in (
                ("key-file", "munge.key"),
                ("socket", "munge.socket"),
                ("pid-file", "munged.pid"),
                ("log-file", "munged.log"),
                ("seed-file", "munged.seed"),
            )
        ]
        # --force: the folder's parents may be writable by others, as those of pytest's are
        self._run("munged", "--foreground", "--force", *places)
        self._wait(lambda: (self.folder / "munge.socket").exists())
        self._run("slurmctld", "-D", "-i")
        for node in ("node1", "node2"):
            self._run("slurmd", "-D", "-N", node)
        self._wait(lambda: self.command("sinfo", "-h", "-o", "%D %T").split() == ["2", "idle"])

    def stop(self) -> None:
        """Cancels every job and ends the daemons, the last started first."""
        self.command("scancel", "--state=RUNNING", check=False)
        self.command("scancel", "--state=PENDING", check=False)
        deadline = time.monotonic() + 20
        while self.command("squeue", "-h", check=False) and time.monotonic() < deadline:
            time.sleep(0.5)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def command(self, *arguments: str, check: bool = True) -> str:
        """What one of SLURM's commands prints, stripped."""
        done = subprocess.run(arguments, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """The fields of `scontrol show job`."""
        text = self.command("scontrol", "show", "job", "--oneliner", number)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def state(self, number: str) -> str:
        return self.job(number)["JobState"]

    def until(self, number: str, *states: str, seconds: float = 180) -> dict[str, str]:
        """The job's fields once it is in one of the states.

        Raises:
            RuntimeError: when it is not after so many seconds.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            fields = self.job(number)
            if fields["JobState"] in states:
                return fields
            time.sleep(0.3)
        raise RuntimeError(f"job {number} is {self.state(number)} after {seconds} s, expected {' or '.join(states)}")

    def _run(self, *command: str) -> None:
        with (self.folder / "daemons.log").open("a") as log:
            self._daemons.append(
                subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
            )

    def _wait(self, ready) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if ready():
                    return
            except RuntimeError:
                pass  # the controller does not answer yet
            time.sleep(0.2)
        logs = {path.name: path.read_text(errors="replace")[-1000:] for path in sorted(self.folder.glob("*.log"))}
        self.stop()
        raise RuntimeError(f"the cluster did not start: {logs}")


def _free_ports() -> tuple[int, int, int]:
    """One port for the controller and two neighbouring ones for the nodes, as SLURM's Port=[a-b] wants them."""
    for port in range(17000, 18000, 3):
        if not any(_taken(number) for number in range(port, port + 3)):
            return port, port + 1, port + 2
    raise RuntimeError("no three free ports between 17000 and 18000")


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    cluster = Cluster(Path(sys.argv[1]).resolve())
    cluster.start()
    print(f"export SLURM_CONF={cluster.folder}/slurm.conf", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        cluster.stop()
