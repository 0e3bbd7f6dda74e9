"""A download is whole and right, or not there."""

import gzip
import hashlib
import socket
import threading

import pytest
import requests

from cifar_fast.data import download as module
from cifar_fast.data.download import DownloadError, download
from servers import serving

BODY = bytes(range(256)) * 9000
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"


@pytest.mark.parametrize("checksum", [MD5, f"sha256:{hashlib.sha256(BODY).hexdigest()[:8]}", ""])
def test_the_right_file_arrives_and_nothing_else(tmp_path, checksum):
    with serving({"a.bin": BODY}) as url:
        assert download(f"{url}/a.bin", tmp_path / "sub" / "a.bin", checksum).read_bytes() == BODY
    assert [o.name for o in (tmp_path / "sub").iterdir()] == ["a.bin"]


def test_an_archive_that_a_server_calls_encoded_arrives_as_it_is(tmp_path):
    packed = gzip.compress(BODY)
    with serving({"a.gz": packed}, headers={"Content-Encoding": "x-gzip"}) as url:
        assert download(f"{url}/a.gz", tmp_path / "a.gz").read_bytes() == packed


def test_a_wrong_checksum_leaves_nothing(tmp_path):
    with serving({"a.bin": BODY[:-1]}) as url, pytest.raises(DownloadError, match="checksum"):
        download(f"{url}/a.bin", tmp_path / "a.bin", MD5)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_names_the_status(tmp_path):
    with serving({}) as url, pytest.raises(DownloadError, match="404"):
        download(f"{url}/a.bin", tmp_path / "a.bin")
    assert not list(tmp_path.iterdir())


def test_nobody_listening_is_no_connection(tmp_path):
    with serving({}) as url:
        pass
    with pytest.raises(DownloadError, match="no connection"):
        download(f"{url}/a.bin", tmp_path / "a.bin")


def test_a_body_that_stops_early_leaves_the_old_file(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")
    with serving({"a.bin": BODY}, cut=1000) as url, pytest.raises(DownloadError):
        download(f"{url}/a.bin", tmp_path / "a.bin")
    assert [(o.name, o.read_bytes()) for o in tmp_path.iterdir()] == [("a.bin", b"old")]


def test_a_server_that_falls_silent_halfway_is_said_to_be_late(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send_half():
            client = server.accept()[0]
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            client.recv(10_000)  # the request
            client.recv(1)  # until it has hung up

        threading.Thread(target=send_half, daemon=True).start()
        with pytest.raises(DownloadError, match="no answer in time"):
            download(f"http://127.0.0.1:{server.getsockname()[1]}/a.bin", tmp_path / "a.bin")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "progress", interrupted)
    with serving({"a.bin": BODY}) as url, pytest.raises(KeyboardInterrupt):
        download(f"{url}/a.bin", tmp_path / "a.bin")
    assert not list(tmp_path.iterdir())


def test_a_server_has_ten_seconds_to_answer(tmp_path, monkeypatch):
    asked = {}

    def get(url, **kwargs):
        asked.update(kwargs)
        raise requests.ConnectTimeout

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(DownloadError, match="no answer in time"):
        download("http://127.0.0.1/a.bin", tmp_path / "a.bin")
    assert asked["timeout"][0] == 10
