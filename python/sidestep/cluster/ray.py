# SPDX-License-Identifier: MIT
"""The back end for Ray: a Ray that runs already, or one of our own on this machine.

Ray runs a task again whose worker died, three times by default; here once. Its arrays
are read-only views of its object store, ours are copied where a task gets them. What is
large goes into the object store once.

A Ray that we start listens on all interfaces, as every Ray does, but lets nobody in who
lacks the certificate that is made for it alone, and Ray's token; and it is encrypted,
which Ray's own default is not.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import socket
import sys
from pathlib import Path

from sidestep import _core, util

from . import far
from .backends import CountedBackend, cannot_cancel, missing, route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .far import Batch, Reply

__all__ = ["RayBackend"]


class RayBackend(CountedBackend):
    """Ray: ``"ray"`` is one that runs, or else one of our own on this machine.

    ``"ray:auto"`` is one that runs on this machine, ``"ray://host:10001"`` one that is
    reached as a client of Ray. Workers are CPUs as Ray counts them.
    """

    name = "Ray"

    def __init__(
        self,
        cluster: str = "ray",
        workers: int | None = None,
        *,
        allow_insecure: bool = False,
        **options: Any,
    ) -> None:
        self.allow_insecure = allow_insecure
        self._is_ours = False
        if not _is_initialized():
            self._is_ours = cluster == "ray"
            self._connect(cluster, workers, options)
        import ray

        self._ray = ray
        self._limit = workers
        # One CPU each, as the pool counts them, and never run twice.
        task = ray.remote(num_cpus=1, max_retries=0)
        calls: tuple[Any, ...] = far.run, far.run_message
        self._calls = {call: task(call) for call in calls}

    def _connect(
        self, cluster: str, workers: int | None, options: dict[str, Any]
    ) -> None:
        if self._is_ours:
            _set_credentials()
        try:
            import ray
        except ImportError as error:
            raise missing("ray", error) from error
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._is_ours:
            from sidestep import cpu_count

            settings |= {
                "address": "local",
                "num_cpus": workers or cpu_count(),
                "include_dashboard": False,
                "runtime_env": {"env_vars": {"PYTHONPATH": ":".join(_paths())}},
            }
        elif cluster.startswith("ray://"):
            settings["address"] = cluster
        else:
            settings["address"] = cluster.partition(":")[2] or "auto"
        ray.init(**(settings | options))

    def submit(self, run: Callable[[Batch], Reply], batch: Batch) -> Any:
        """Have a worker call ``run(batch)``; the batch is in the object store."""
        del run
        call, sent = far.message(batch)
        ref = self._calls[call].remote(sent)
        future = ref.future()
        future.sidestep_ref = ref
        # It would leave the task to run; kill() ends it, whether it has begun or not.
        future.cancel = cannot_cancel
        return future

    def count(self) -> int:
        """Return the number of CPUs that Ray has."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def kill(self, running: Iterable[Any]) -> bool:
        """End the workers that run these."""
        for future in running:
            with contextlib.suppress(ValueError, TypeError):
                self._ray.cancel(future.sidestep_ref, force=True, recursive=False)
        return True

    def close(self, *, wait: bool) -> None:
        """Shut Ray down if it was started for the pool."""
        del wait
        if self._is_ours:
            self._ray.shutdown()

    def is_private(self) -> bool:
        """Tell whether Ray is encrypted, or on this machine alone."""
        return os.environ.get("RAY_USE_TLS") == "1" or len(self._ray.nodes()) == 1

    def address(self) -> str:
        """Return the address by which Ray knows this machine."""
        host: str = self._ray.util.get_node_ip_address()
        return host


_folder: str | None = None


def _set_credentials() -> None:
    """Have a Ray that this process starts be encrypted, with keys of its own.

    Ray reads these settings when it is imported, and again in each of its processes.
    """
    global _folder  # noqa: PLW0603
    if _folder is not None or os.environ.get("RAY_USE_TLS") == "1":
        return
    if "ray" in sys.modules:
        raise RuntimeError(
            "ray was imported before sidestep could have it use encryption, and a Ray "
            "of its own would be open to the network: import it after the pool or the "
            "context was made, or call ray.init() yourself"
        )
    folder = _make_folder()
    _make_certificate(Path(folder))
    certificate, key = f"{folder}/cert.pem", f"{folder}/key.pem"
    os.environ.update(
        RAY_USE_TLS="1",
        RAY_TLS_SERVER_CERT=certificate,
        RAY_TLS_SERVER_KEY=key,
        RAY_TLS_CA_CERT=certificate,
        RAY_AUTH_MODE="token",
    )
    _folder = folder


def _make_folder() -> str:
    """Make a folder for the keys, which goes with this program, also if it is killed."""
    folder = util.make_private_dir("sidestep-ray-")
    util.Finalize(None, _core.folder_remove, args=(folder,), exitpriority=-100)
    return folder


def _own_address() -> str:
    """Return the address by which Ray will know this machine."""
    try:
        return route("8.8.8.8")  # as Ray itself finds it
    except OSError:
        return "127.0.0.1"


def _make_certificate(folder: Path) -> None:
    """Write a certificate that vouches for itself, and its key; in a private folder."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise missing("ray", error) from error
    key = ec.generate_private_key(ec.SECP256R1())
    attribute = x509.NameAttribute(x509.NameOID.COMMON_NAME, "sidestep")
    name = x509.Name([attribute])
    now = dt.datetime.now(dt.UTC)
    addresses = {"127.0.0.1", "::1", _own_address()}
    names: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address(address)) for address in sorted(addresses)
    ]
    names += [x509.DNSName("localhost"), x509.DNSName(socket.gethostname())]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    kind, clear = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, kind, clear))


def _is_initialized() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _paths() -> list[str]:
    return [path for path in sys.path if path]
