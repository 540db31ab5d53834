"""``sfmoe-dg doctor``: findings on servers, Slurm and optional packages."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from findings import levels

from sfmoe_dg.doctor import services
from sfmoe_dg.doctor.findings import Level, ok


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server that answers 404 to every request."""

    class NotFound(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), NotFound) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_the_hub(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (found,) = services.hub({"HF_ENDPOINT": server})
    assert (found.level, found.text) == (Level.OK, f"{server} answers: pretrained weights can be fetched")
    (found,) = services.hub({"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "0"})
    assert found.level is Level.WARNING
    assert "http://127.0.0.1:1 cannot be reached" in found.text
    assert levels(services.hub({"HF_ENDPOINT": "no address"})) == [Level.WARNING]
    (found,) = services.hub({"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "1"})
    assert (found.level, "because HF_HUB_OFFLINE is set" in found.text) == (Level.OK, True)


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(services, "_version", lambda package: "1.5")
    assert levels(services.slurm()) == [Level.OK]
    program(tmp_path, "sinfo", 'case "$1" in --version) echo slurm 24.05;; *) echo main;; esac')
    (found,) = services.slurm()
    assert (found.level, "sbatch is missing" in found.text) == (Level.WARNING, True)
    program(tmp_path, "sbatch", "exit 0")
    assert list(services.slurm()) == [ok("slurm", "slurm 24.05, partitions answer, submitit 1.5")]
    monkeypatch.setattr(services, "_version", lambda package: "")
    (found,) = services.slurm()
    assert (found.level, "pip install 'sfmoe-dg[slurm]'" in found.text) == (Level.WARNING, True)
    program(tmp_path, "sinfo", 'case "$1" in --version) echo slurm 24.05;; *) exit 1;; esac')
    (found,) = services.slurm()
    assert (found.level, "slurm 24.05 does not reach its controller" in found.text) == (Level.WARNING, True)


def test_a_program_that_hangs_is_given_up(tmp_path, monkeypatch):
    program(tmp_path, "sinfo", "exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(services, "SLURM_SECONDS", 0.2)
    assert services._first_line("sinfo") == ""
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["sinfo"], timeout=0.2)


def test_extras_that_are_missing_say_what_for(monkeypatch):
    monkeypatch.setattr(services, "_version", lambda package: "1.0" if package == "wandb" else "")
    found = {finding.text.split()[0]: finding for finding in services.extras()}
    assert {finding.level for finding in found.values()} == {Level.OK}
    assert found["wandb"].text == "wandb 1.0"
    assert found["msgpack"].text.endswith("needed only for sfmoe-dg convert-vmoe: pip install 'sfmoe-dg[vmoe]'")


def test_extras_are_those_of_the_package(request):
    project = (request.config.rootpath / "pyproject.toml").read_text()
    for package, (extra, _) in services.EXTRAS.items():
        assert f'{extra} = ["{package}>=' in project
