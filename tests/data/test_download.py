"""The download, from local servers, and what is said where there is no way to data at all."""

import functools
import http.server
import importlib.util
import os
import re
import socket
import threading

import numpy as np
import pytest
from data_files import LOAD, pixels, python

from dynhp_jax.data import download
from dynhp_jax.data.catalogue import PUBLISHED, Unavailable

# The download.


@pytest.fixture
def serve(monkeypatch):
    """serve(handler) -> base address of a local HTTP server, stopped after the test."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(handler):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Portal(Quiet):
    """A captive portal: a page in place of every file."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Please sign in</html>")


class BreaksOff(Quiet):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(bytes(1000))


@pytest.fixture
def silent():
    """Base address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_download_from_the_mirror_that_answers(mnist, packed_files, serve, silent):
    live = serve(functools.partial(Quiet, directory=str(packed_files)))
    (x_train, y_train), (x_test, y_test) = download.fetch(
        PUBLISHED["mnist"], mirrors=["http://127.0.0.1:9/", silent, live]
    )
    np.testing.assert_array_equal(x_train, pixels(mnist.x_train))
    np.testing.assert_array_equal(y_train, mnist.y_train)
    np.testing.assert_array_equal(x_test, pixels(mnist.x_test))
    np.testing.assert_array_equal(y_test, mnist.y_test)


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (Portal, "train-images-idx3-ubyte.gz is damaged: Not a gzipped file"),
        (BreaksOff, "broke off"),
        (functools.partial(Quiet, directory=os.devnull), "HTTP Error 404"),
    ],
)
def test_downloads_that_cannot_be_used(handler, message, serve, monkeypatch):
    base = serve(handler)
    with pytest.raises(Unavailable, match=message):
        download.fetch(PUBLISHED["mnist"], mirrors=[base])


def test_a_silent_server_is_not_waited_for(silent, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(Unavailable, match=r"no answer within 2\.5 s"):
        download.fetch(PUBLISHED["mnist"], mirrors=[silent])


# No way at all.


@pytest.mark.parametrize("network", ["refused", "silent"])
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_without_data_and_network_one_line_names_three_ways(name, network, silent, tmp_path):
    """`timeout` of the process is the guard against the hang that must not be."""
    proxy = {"http_proxy": silent, "https_proxy": silent} if network == "silent" else {}
    run = python(LOAD, tmp_path, name, **proxy)
    assert run.returncode == 2 and run.stderr == ""
    (line,) = run.stdout.splitlines()
    for way in ("TFDS_DATA_DIR", "--config.data.dir", "original files", "configs/digits.py"):
        assert way in line
    assert PUBLISHED[name].version in line and "the download failed" in line


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("tensorflow_datasets", "is missing"),
        ("etils.epath", "cannot be imported whole"),
        ("array_record", "TFDS lacks a package .*No module named 'array_record'"),
        ("PIL", "TFDS lacks a package .*requires either OpenCV or PIL"),
    ],
)
def test_missing_packages_are_named(module, message, tfds_dir, tmp_path):
    if module == "PIL" and importlib.util.find_spec("cv2"):
        pytest.skip("OpenCV is installed and TFDS takes it before pillow")
    run = python(LOAD, tmp_path, "mnist", module, TFDS_DATA_DIR=str(tfds_dir))
    line = run.stdout.splitlines()[-1]  # TFDS prints a banner of its own when array_record lacks.
    assert run.returncode == 2
    assert re.search(message, line) and "Three ways out" in line
