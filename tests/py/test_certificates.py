# SPDX-License-Identifier: MIT
"""``security=Certificates(...)``: who is let in, and who is not."""

import contextlib
import datetime as dt
import ipaddress
import pickle
import socket
import ssl
import threading

import network_children as children
import pytest

import sidestep
from sidestep.connection import Certificates, Client, Listener
from sidestep.managers import SyncManager

_tls = pytest.importorskip("sidestep._tls", reason="built without OpenSSL")
x509 = pytest.importorskip("cryptography.x509")

from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

KEY = b"a key of thirty-two bytes at the least"
NOW = dt.datetime.now(dt.UTC)


class Authority:
    """Signs certificates, into files of a folder."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.subject, self.key.public_key(), ca=True)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self._pem(self.certificate))

    @staticmethod
    def _pem(certificate):
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _sign(self, subject, public, names=(), ca=False, days=1):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - dt.timedelta(days=2))
            .not_valid_after(NOW + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(names), critical=False
            )
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, name, *names, days=1, password=None, **options):
        """A Certificates for a new key, with this authority for the peer's too."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key.public_key(), names, days=days)
        files = [self.folder / f"{self.name}-{name}.{kind}" for kind in ("pem", "key")]
        files[0].write_bytes(self._pem(certificate))
        encryption = (
            serialization.BestAvailableEncryption(password)
            if password
            else serialization.NoEncryption()
        )
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                encryption,
            )
        )
        options.setdefault("authority", self.path)
        return Certificates(*files, **options)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("strangers"), "stranger")


LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


@pytest.fixture(scope="module")
def server(authority):
    return authority.issue("server", LOOPBACK, x509.DNSName("localhost"))


@pytest.fixture(scope="module")
def client(authority):
    return authority.issue("client", x509.DNSName("client.example"))


@contextlib.contextmanager
def echoing(security):
    with children.echoing(("127.0.0.1", 0), None, security=security) as address:
        yield address


def refused(address, security, match=None):
    with pytest.raises(sidestep.AuthenticationError, match=match):
        Client(address, security=security)


def test_who_has_a_certificate_is_let_in(server, client):
    with echoing(server) as address:
        for _ in range(3):
            with Client(address, security=client) as conn:
                conn.send(b"x" * 100_000)
                assert len(conn.recv()) == 100_000


def test_a_name(server, client):
    with children.echoing(("localhost", 0), None, security=server) as address:
        with Client(("localhost", address[1]), security=client) as conn:
            conn.send(1)
            assert conn.recv() == 1


def test_a_server_that_is_somebody_else(authority, client):
    """It has a certificate of the authority, for another host."""
    other = authority.issue("other", x509.DNSName("other.example"))
    with echoing(other) as address:
        refused(address, client, "IP address mismatch")
        files = client.certificate, client.key, client.authority
        refused(address, Certificates(*files, peer="third.example"), "ostname mismatch")
        with Client(address, security=Certificates(*files, peer="other.example")):
            pass


def test_certificates_of_another_authority(server, client, stranger):
    theirs = stranger.issue("client")
    with echoing(server) as address:
        refused(address, theirs, "certificate|issuer")
        lying = Certificates(theirs.certificate, theirs.key, client.authority)
        refused(address, lying, "unknown ca|certificate")
        with Client(address, security=client) as conn:
            conn.send("it goes on")
            assert conn.recv() == "it goes on"
    rogue = stranger.issue("rogue", LOOPBACK)
    with echoing(rogue) as address:
        refused(address, client, "certificate|issuer")


def test_both_sides_are_told(server, client, stranger):
    with Listener(("127.0.0.1", 0), security=server) as listener:
        theirs = stranger.issue("client")
        lying = Certificates(theirs.certificate, theirs.key, client.authority)
        refused(listener.address, lying)
        with pytest.raises(sidestep.AuthenticationError):
            listener.accept()


def test_a_certificate_that_is_over(server, authority):
    with echoing(server) as address:
        refused(address, authority.issue("old", days=-1), "expired|certificate")


def test_only_one_client(authority, server, client):
    files = server.certificate, server.key, server.authority
    with echoing(Certificates(*files, peer="client.example")) as address:
        with Client(address, security=client) as conn:
            conn.send(1)
            assert conn.recv() == 1
        refused(address, authority.issue("another"))


def test_a_key_gets_nobody_in(server, client):
    with echoing(server) as address:
        with pytest.raises(sidestep.AuthenticationError):
            Client(address, authkey=KEY)
    with children.echoing(("127.0.0.1", 0), KEY) as address:
        refused(address, client)


def test_no_certificate_gets_nobody_in(server):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with echoing(server) as address:
        with socket.create_connection(address) as sock:
            sock.settimeout(20)
            with pytest.raises((ssl.SSLError, OSError)):
                with context.wrap_socket(sock) as wrapped:
                    assert wrapped.recv(1) != b"", "the end without an alert"
                    pytest.fail("it was welcome")


def test_older_versions_are_refused(server, client):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(client.authority)
    context.load_cert_chain(client.certificate, client.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with echoing(server) as address:
        with socket.create_connection(address) as sock:
            with pytest.raises((ssl.SSLError, OSError)):
                context.wrap_socket(sock, server_hostname="localhost")


def test_a_client_by_pythons_ssl(server, client):
    """What goes over the wire is nothing but TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(client.authority)
    context.load_cert_chain(client.certificate, client.key)
    with echoing(server) as address:
        with socket.create_connection(address) as sock:
            sock.settimeout(20)
            with context.wrap_socket(sock, server_hostname="localhost") as wrapped:
                assert wrapped.recv(1) == b"+"
                data = pickle.dumps([1, 2])
                wrapped.sendall(len(data).to_bytes(4, "big") + data)
                size = int.from_bytes(wrapped.recv(4), "big")
                assert pickle.loads(wrapped.recv(size)) == [1, 2]


def test_files_that_are_of_no_use(server, client, authority, tmp_path):
    good = server.certificate, server.key, server.authority
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nothing of use")
    for place, word in enumerate(("certificate", "key", "authority")):
        for wrong, why in ((tmp_path / "none", "No such file"), (nonsense, ".")):
            files = [*good]
            files[place] = wrong
            with pytest.raises(ValueError, match=f"use the {word} in .*{why}"):
                Listener(("127.0.0.1", 0), security=Certificates(*files))
    with pytest.raises(ValueError, match="key values mismatch"):
        Listener(
            ("127.0.0.1", 0),
            security=Certificates(server.certificate, client.key, server.authority),
        )
    locked = authority.issue("locked", LOOPBACK, password=b"secret")
    with pytest.raises(ValueError, match="use the key"):
        Listener(("127.0.0.1", 0), security=locked)


def test_where_they_are_not_for(server):
    with pytest.raises(ValueError, match="Unix socket needs none"):
        Listener(security=server)
    with pytest.raises(ValueError, match="take the place of authkey"):
        Listener(("127.0.0.1", 0), authkey=KEY, security=server)


def test_managers(server, client):
    with SyncManager(("127.0.0.1", 0), security=server) as manager:
        # It is its own client, too, and the server's certificate will do for that.
        table = manager.dict(a=1)
        other = SyncManager(manager.address, security=client)
        other.connect()
        theirs = other.dict(table)
        assert theirs["a"] == 1
        threads = [threading.Thread(target=theirs.update, args=({n: n},)) for n in "bc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(theirs.keys()) == ["a", "b", "c"]
        with pytest.raises(sidestep.AuthenticationError):
            SyncManager(manager.address, KEY).connect()


def test_they_can_be_sent_and_compared(server):
    again = pickle.loads(pickle.dumps(server))
    assert again == server
    assert hash(again) == hash(server)
    assert server.key in repr(server)
