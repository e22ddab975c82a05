# SPDX-License-Identifier: MIT
"""Client and server in two network namespaces, and what somebody between them sees.

Needs the administrator, and ip of iproute2: two namespaces and a cable are made.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import namespace_peer
import pytest

pytest.importorskip("sidestep._tls", reason="built without OpenSSL")

PEER = Path(__file__).with_name("namespace_peer.py")
#: The two ends of the cable.
HOSTS = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Cable:
    """Two namespaces, a pair of interfaces between them, and programs in either."""

    def __init__(self, stack):
        self._stack = stack
        mark = f"{os.getpid():x}"
        self.names = [f"sst-{mark}-{side}" for side in "ab"]
        self.interfaces = [f"sst{mark}{side}" for side in "ab"]
        for name in self.names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
        one, other = self.interfaces
        ip("link", "add", one, "netns", self.names[0], "type", "veth", "peer", "name",
           other, "netns", self.names[1])  # fmt: skip
        for side in range(2):
            inside = ["-n", self.names[side]]
            ip(*inside, "addr", "add", f"{HOSTS[4][side]}/24", "dev",
               self.interfaces[side])  # fmt: skip
            with contextlib.suppress(subprocess.CalledProcessError):  # no IPv6 here
                ip(*inside, "addr", "add", f"{HOSTS[6][side]}/64", "dev",
                   self.interfaces[side], "nodad")  # fmt: skip
            for link in (self.interfaces[side], "lo"):
                ip(*inside, "link", "set", link, "up")

    def run(self, side, *words):
        process = self._stack.enter_context(
            subprocess.Popen(
                ["ip", "netns", "exec", self.names[side], sys.executable, str(PEER)]
                + [str(word) for word in words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        self._stack.callback(process.kill)
        return process


@pytest.fixture
def cable():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs the administrator, and iproute2")
    with contextlib.ExitStack() as stack:
        try:
            made = Cable(stack)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr!r}")
        yield made


def talk(cable, version, security):
    server_host, client_host = HOSTS[version]
    server = cable.run(0, "serve", server_host, security)
    ports = server.stdout.readline().split()
    if len(ports) != 2:
        pytest.skip(f"no IPv{version} in namespaces here")
    client = cable.run(1, "use", server_host, *ports, security)
    assert client.stdout.readline() == "done\n"
    assert server.stdout.readline() == f"from {client_host}\n"
    server.stdin.close()
    assert server.wait(20) == 0


@pytest.mark.slow
@pytest.mark.parametrize("version", [4, 6])
def test_two_machines(cable, version):
    talk(cable, version, "tls")


@pytest.mark.slow
@pytest.mark.parametrize("security", ["tls", "stdlib"])
def test_what_somebody_in_between_sees(cable, security, tmp_path, eventually):
    """Of what is encrypted nothing; the other way is there to see that it would show."""
    path = tmp_path / "captured"
    listener = cable.run(1, "capture", cable.interfaces[1], path)
    assert listener.stdout.readline() == "listening\n"
    talk(cable, 4, security)
    # The last frames may be on their way to the file.
    eventually(lambda: path.stat().st_size > 400_000)
    listener.kill()
    listener.wait()
    seen = path.read_bytes()
    assert namespace_peer.KEY not in seen
    assert (namespace_peer.SECRET in seen) == (security == "stdlib")
    assert (b"#CHALLENGE#" in seen) == (security == "stdlib")
    assert (b"__getitem__" in seen) == (security == "stdlib")
