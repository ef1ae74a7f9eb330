"""Cards by the names that torch and people give them."""

from __future__ import annotations

import pytest

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.hardware import GPUS, Gpu, find_gpu, parse_machine


@pytest.mark.parametrize(
    ("torch_name", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe-80GB"),
        ("NVIDIA H100 NVL", "H100-NVL-94GB"),
        ("NVIDIA H200", "H200-141GB"),
        ("NVIDIA H200 NVL", "H200-NVL-141GB"),
        ("NVIDIA B200", "B200-180GB"),
        ("NVIDIA L4", "L4-24GB"),
        ("NVIDIA L40S", "L40S-48GB"),
        ("NVIDIA A10", "A10-24GB"),
        ("NVIDIA A10G", "A10G-24GB"),
        ("NVIDIA RTX A6000", "A6000-48GB"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-Ada-48GB"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000-96GB"),
        ("NVIDIA GeForce RTX 3090", "RTX-3090-24GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090-24GB"),
        ("NVIDIA GeForce RTX 5090", "RTX-5090-32GB"),
        ("Tesla T4", "T4-16GB"),
        ("Tesla V100-SXM2-32GB", "V100-32GB"),
    ],
)
def test_the_names_that_torch_gives(torch_name: str, expected: str) -> None:
    found = find_gpu(torch_name)
    assert found is not None
    assert found.name == expected


@pytest.mark.parametrize("name", ["RTX4090", "4090", "rtx 4090", "RTX-4090", "RTX-4090-24GB"])
def test_the_names_that_people_give(name: str) -> None:
    found = find_gpu(name)
    assert found is not None
    assert found.name == "RTX-4090-24GB"


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_every_card_is_found_by_its_own_name_and_holds_less_than_its_box_says(gpu: Gpu) -> None:
    found = find_gpu(gpu.name)
    assert found is gpu
    gigabytes = int(gpu.name.rpartition("-")[2].removesuffix("GB"))
    assert 0.89 * gigabytes < gpu.memory < gigabytes
    assert gpu.bf16_tflops > 50


@pytest.mark.parametrize(
    "name",
    [
        "A100",  # 40 or 80 GB
        "H100-40GB",  # there is none
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",  # a seventh of its speed, or three
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA A1000",
        "cpu",
        "",
    ],
)
def test_other_cards_are_not_taken_for_these(name: str) -> None:
    assert find_gpu(name) is None


def test_a_machine_is_a_count_and_a_card() -> None:
    count, gpu = parse_machine("8xA100-80GB")
    assert (count, gpu.name, gpu.bf16_tflops) == (8, "A100-80GB", 312)
    assert parse_machine(" 2 x NVIDIA H200 ")[1].name == "H200-141GB"
    assert parse_machine("L4")[0] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8xA100-90GB", 'did you mean "A100-80GB"'),
        ("8xa100", 'no card "a100", did you mean "A100-'),
        ("0xT4", "expected a number of GPUs and a card"),
        ("", "expected a number of GPUs and a card"),
        ("4xTPU", 'no card "TPU"'),
    ],
)
def test_what_is_no_machine_is_refused_with_what_is_known(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        parse_machine(text)
    assert "H200-141GB" in error.value.hint
