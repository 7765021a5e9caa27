"""A real S3 server on the loopback: OpenStack Swift with its S3 interface, one device, one replica.

    with Server(Path("/tmp/s3")) as server:     # a file system with extended attributes; about 4 seconds
        server.bucket("set")
        os.environ.update(server.environment)

Every port is a free one, so that several servers run beside each other. `install.sh` installs what is needed;
`python -m tests.s3.server FOLDER` runs one until it is interrupted and prints its environment.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

KINDS = ("object", "container", "account")
ACCESS, SECRET, REGION = "test:tester", "testing", "us-east-1"
_PROGRAMS = ("memcached", "swift-proxy-server", *(f"swift-{kind}-server" for kind in KINDS))
_PIPELINE = "catch_errors cache listing_formats bulk s3api tempauth slo proxy-server"
_PROXY = """
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
"""

_RINGS = """
import sys
from swift.common.ring import RingBuilder
for word in sys.argv[1:]:
    path, _, port = word.partition("=")
    address = {"ip": "127.0.0.1", "port": int(port), "replication_ip": "127.0.0.1", "replication_port": int(port)}
    builder = RingBuilder(4, 1, 0)
    builder.add_dev({"region": 1, "zone": 1, "device": "d1", "weight": 1, "meta": "", **address})
    builder.rebalance()
    builder.get_ring().save(path)
"""
"""What swift-ring-builder does, for all rings at once: its start is most of its time."""


def missing(folder: Path) -> str:
    """Why no server can run with its files in this folder; empty where it can."""
    programs = [name for name in _PROGRAMS if shutil.which(name) is None]
    if programs:
        return f"{', '.join(programs)} missing: run tests/s3/install.sh"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.setxattr(folder, "user.vqloom", b"1")
    except OSError as error:
        return f"{folder} takes no extended attributes ({error.strerror})"
    return ""


class Server:
    """A context manager; its processes end with it."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ports = dict(zip((*KINDS, "memcached", "proxy"), _free_ports(5), strict=True))
        self.address = f"127.0.0.1:{self._ports['proxy']}"
        self.url = f"http://{self.address}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client of the server sets."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
        }

    def bucket(self, name: str) -> str:
        """Make a bucket (Swift's own interface needs no signature); its URL."""
        login = {"X-Auth-User": ACCESS, "X-Auth-Key": SECRET}
        request = urllib.request.Request(f"{self.url}/auth/v1.0", headers=login)
        with urllib.request.urlopen(request, timeout=10) as answer:
            token, account = answer.headers["X-Auth-Token"], answer.headers["X-Storage-Url"]
        request = urllib.request.Request(f"{account}/{name}", method="PUT", headers={"X-Auth-Token": token})
        urllib.request.urlopen(request, timeout=10).close()
        return f"s3://{name}"

    def __enter__(self) -> Server:
        for name in ("etc", "srv/d1", "log"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        try:
            self._configure()
            self._start("memcached", "-u", getpass.getuser(), "-l", "127.0.0.1", "-p", str(self._ports["memcached"]))
            for kind in (*KINDS, "proxy"):
                self._start(f"swift-{kind}-server", str(self._folder / f"etc/{kind}-server.conf"))
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _configure(self) -> None:
        etc = self._folder / "etc"
        (etc / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_suffix = tests\n[storage-policy:0]\nname = only\ndefault = yes\n"
        )
        for kind in KINDS:
            own = f"[app:{kind}-server]\nuse = egg:swift#{kind}\n"
            (etc / f"{kind}-server.conf").write_text(self._defaults(kind, f"{kind}-server") + own)
        rings = [f"{etc / kind}.ring.gz={self._ports[kind]}" for kind in KINDS]
        subprocess.run(["/usr/bin/python3", "-c", _RINGS, *rings], check=True, capture_output=True)
        plain = [name for name in _PIPELINE.split() if f":{name}]" not in _PROXY]
        filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in plain)
        text = self._defaults("proxy", _PIPELINE) + _PROXY.format(**self._ports) + filters
        (etc / "proxy-server.conf").write_text(text)

    def _defaults(self, kind: str, pipeline: str) -> str:
        return f"""
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {self._ports[kind]}
swift_dir = {self._folder / "etc"}
devices = {self._folder / "srv"}
mount_check = false
disable_fallocate = true
workers = 0
user = {getpass.getuser()}
[pipeline:main]
pipeline = {pipeline}
"""

    def _start(self, *command: str) -> None:
        with (self._folder / f"log/{command[0]}").open("wb") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    def _wait(self, seconds: float = 60.0) -> None:
        """Until the server answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            dead = [process.args[0] for process in self._processes if process.poll() is not None]  # type: ignore[index]
            if dead:
                log = (self._folder / f"log/{dead[0]}").read_text(errors="replace")[-1000:]
                raise RuntimeError(f"{dead[0]} ended: {log}")
            with contextlib.suppress(OSError):
                self.bucket("ready")
                return
            time.sleep(0.2)
        raise RuntimeError(f"no answer from {self.url} in {seconds:g} s")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def main() -> None:
    with Server(Path(sys.argv[1])) as server:
        server.bucket("set")
        print("\n".join(f"export {name}={value}" for name, value in server.environment.items()), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    main()
