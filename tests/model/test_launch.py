"""Which devices are chosen, and how torchrun is called."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from alpaca_cli.core.errors import UsageError
from alpaca_cli.model.launch import (
    Devices,
    Meeting,
    check_batch,
    choose_gpus,
    own_address,
    torchrun,
    visible,
    wants_cpu,
)


def test_gpus() -> None:
    assert choose_gpus("auto", 0) == Devices([], 1)
    assert choose_gpus("auto", 2) == Devices([0, 1], 2)
    assert choose_gpus(0, 2) == Devices([], 1)
    assert choose_gpus(1, 2) == Devices([0], 1)
    assert choose_gpus("2", 4) == Devices([0, 1], 2)
    assert choose_gpus("1,3", 4) == Devices([1, 3], 2)
    assert choose_gpus("cpu", 4) == Devices([], 1)
    assert choose_gpus("cpu:3", 4) == Devices([], 3)
    for wanted, available, said in (
        (2, 0, "this machine has no CUDA GPU"),
        ("1,4", 4, "4, numbered from 0"),
        ("many", 4, "expected a count"),
        ("1,1", 4, "expected a count"),
        ("cpu:0", 4, "expected a count"),
        ("cpu:x", 4, "expected a count"),
        ("gpu:2", 4, "expected a count"),
    ):
        with pytest.raises(UsageError, match=said):
            choose_gpus(wanted, available)


def test_the_cpu_by_choice() -> None:
    yes: list[str | int] = [0, "0", "cpu", "cpu:2"]
    no: list[str | int] = ["auto", 1, "0,1"]
    assert [wants_cpu(each) for each in yes + no] == [True] * len(yes) + [False] * len(no)


def test_a_batch_that_does_not_split() -> None:
    check_batch(128, 8)
    with pytest.raises(UsageError, match="128 does not split over 3") as caught:
        check_batch(128, 3)
    assert caught.value.hint == "use 126 or 129"


def test_gpus_are_chosen_among_those_that_we_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5a,6")
    assert visible([0, 1]) == "4,GPU-5a"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible([1, 3]) == "1,3"
    assert visible([]) == ""


def test_torchrun_s_command() -> None:
    alone = torchrun(2, None, "localhost", ["train", "--run", "x"])
    assert alone[:4] == [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    assert alone[alone.index("--nproc-per-node") + 1] == "2"
    # What follows `--` is ours; torchrun has options whose beginnings are the same.
    assert alone[alone.index("--") :] == ["--", "alpaca_cli", "train", "--run", "x"]
    several = torchrun(8, Meeting(2, "a:1", "id"), None, [])
    assert "--standalone" not in several
    assert "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint a:1 --rdzv-id id" in " ".join(several)


def test_the_address_that_others_reach_us_by() -> None:
    assert own_address("127.0.0.1:29500") == "127.0.0.1"
    # The host of the meeting itself: by the name that the others use for it.
    assert own_address("localhost:29500") == "localhost"
    for wrong in ("127.0.0.1", "127.0.0.1:", ":29500", "host:name"):
        with pytest.raises(UsageError, match="expected HOST:PORT"):
            own_address(wrong)
    with pytest.raises(UsageError, match=r"train\.rendezvous: no-such-host\.invalid:1"):
        own_address("no-such-host.invalid:1")


@pytest.mark.skipif(not Path("/proc/net/route").exists(), reason="only Linux says it there")
def test_an_address_on_the_way_to_another_machine() -> None:
    if len(Path("/proc/net/route").read_text().splitlines()) < 2:
        pytest.skip("this machine has no way to any other")
    # An address that documentation may use (RFC 5737): nobody's, and nothing is sent to it.
    own = own_address("192.0.2.1:29500")
    assert own != "192.0.2.1"
    with socket.socket() as probe:
        probe.bind((own, 0))  # it is one of ours
