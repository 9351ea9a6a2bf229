"""A real Apache Kafka broker for tests: one node, KRaft, its own folder and ports, to be killed and started again.

Its jars come by Maven (deploy/kafka/pom.xml) into deploy/kafka/target, once. It ends with the process that started it,
however that ends, because the kernel is told to see to it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from uuid import uuid4

KAFKA = Path(__file__).resolve().parent.parent / "deploy" / "kafka"
JARS = KAFKA / "target" / "dependency"
JAVA = ("java", "-Xmx384m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
START_LIMIT_S = 60.0

PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=300
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=1000
"""

QUIET = """
status = error
appender.file.type = File
appender.file.name = file
appender.file.fileName = {log}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
"""


def fetch_jars() -> None:
    """Bring the jars by Maven, unless they are there. Of several test runs at once one does it."""
    (KAFKA / "target").mkdir(exist_ok=True)
    with (KAFKA / "target" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = KAFKA / "target" / "complete"
        wanted = (KAFKA / "pom.xml").read_text()
        if complete.exists() and complete.read_text() == wanted:
            return
        shutil.rmtree(JARS, ignore_errors=True)
        subprocess.run(
            ["mvn", "-q", "-B", "-f", str(KAFKA / "pom.xml"), "dependency:copy-dependencies", "-DincludeScope=runtime"],
            check=True,
            timeout=600,
        )
        complete.write_text(wanted)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Broker:
    """One broker on `bootstrap`; `folder` keeps its data over a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self._controller = free_ports(2)
        self.advertised = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """What clients are given."""
        return self.advertised

    def advertise(self, address: str) -> None:
        """Let clients be sent to `address` (a proxy) from the next start on."""
        self.advertised = address

    def start(self) -> None:
        """Start (the first time format its folder) and return when it takes connections."""
        fetch_jars()
        properties = self.folder / "server.properties"
        properties.write_text(
            PROPERTIES.format(
                port=self.port, controller=self._controller, advertised=self.advertised, data=self.folder / "data"
            )
        )
        logging = self.folder / "log4j2.properties"
        logging.write_text(QUIET.format(log=self.folder / "broker.log"))
        java = [*JAVA, f"-Dlog4j2.configurationFile={logging}", "-cp", f"{JARS}/*"]
        if not (self.folder / "data").exists():
            cluster = uuid4().hex[:22]
            format_ = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
            subprocess.run(format_, check=True, capture_output=True, timeout=START_LIMIT_S)
        output = (self.folder / "output.log").open("ab")
        with output:
            self._process = subprocess.Popen(
                [*java, "kafka.Kafka", str(properties)],
                stdout=output,
                stderr=output,
                preexec_fn=_end_with_parent,
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = monotonic() + START_LIMIT_S
        while True:
            assert self._process is not None and self._process.poll() is None, self._says()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert monotonic() < deadline, f"the broker does not listen: {self._says()}"
                sleep(0.05)

    def _says(self) -> str:
        return (self.folder / "output.log").read_text(errors="replace")[-2000:]

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop in an orderly way; kill it should it not."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop its clock: it answers nothing and keeps its connections."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None


@contextmanager
def broker() -> Iterator[Broker]:
    """A running broker in a folder of its own, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="threadline-kafka-"))
    made = Broker(folder)
    try:
        made.start()
        yield made
    finally:
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)
