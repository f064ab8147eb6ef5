"""The training script on two hosts: network namespaces of this machine, joined by a cable."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from compactrec.benchmarks.result import PLAN_NAME
from compactrec.benchmarks.train import train
from tests.benchmarks.folder import write_folder
from tests.benchmarks.test_train_sharded import TOML, assert_same_run, config_of

HOSTS = {"crA": "10.213.7.1", "crB": "10.213.7.2"}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    """Names with addresses; skips where namespaces may not be made."""
    if shutil.which("ip") is None:
        pytest.skip("no command `ip`")
    made = []
    try:
        for name in HOSTS:
            ip("netns", "add", name)
            made.append(name)
        first, second = HOSTS
        ip("link", "add", f"{first}0", "netns", first, "type", "veth",
           "peer", "name", f"{second}0", "netns", second)  # fmt: skip
        for name, address in HOSTS.items():
            ip("-n", name, "address", "add", f"{address}/24", "dev", f"{name}0")
            for device in ("lo", f"{name}0"):
                ip("-n", name, "link", "set", device, "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces: {error.stderr.strip()}")
    else:
        yield HOSTS
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=False)


@pytest.mark.slow
@pytest.mark.dist
def test_two_hosts_train_what_one_process_does(hosts: dict[str, str], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data")
    train(config_of(folder, tmp_path / "one"))
    config = tmp_path / "run.toml"
    config.write_text(TOML)
    launch = ["-W", "ignore", "-m", "torch.distributed.run", "--nnodes", "2"]
    words = [
        "--nproc-per-node", "1",
        "--master-addr", next(iter(hosts.values())), "--master-port", "29400",
        "-m", "compactrec", "train", "--data", str(folder), "--out", str(tmp_path / "two"),
        "--config", str(config), "--engine", "sharded", "--threads", "1",
        "--plan", str(tmp_path / "one" / PLAN_NAME),
    ]  # fmt: skip
    running = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, *launch, "--node-rank", str(n), *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": "src", "GLOO_SOCKET_IFNAME": f"{name}0"},
        )
        for n, name in enumerate(hosts)
    ]  # fmt: skip
    try:
        ended = [process.communicate(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, ended, strict=True):
        assert process.returncode == 0, errors
    assert_same_run(tmp_path / "one", tmp_path / "two")
