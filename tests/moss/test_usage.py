"""Usage counts what processes really used."""

import subprocess
import sys
import time

from moss import metrics as names
from moss.usage import Usage, measure_own_usage, measure_usage, usage_metrics

MIB = 1024**2


def test_work_and_memory_are_counted() -> None:
    before = measure_own_usage()
    began = time.process_time()
    block = bytearray(before.peak_bytes + 64 * MIB)
    while time.process_time() - began < 0.2:
        block[0] ^= 1
    after = measure_own_usage()
    assert after.cpu_s - before.cpu_s >= 0.2
    assert after.peak_bytes - before.peak_bytes >= 63 * MIB
    del block
    assert measure_own_usage().peak_bytes >= after.peak_bytes


def test_a_living_child_is_counted_with_its_peak() -> None:
    hold = "b = bytearray(200 * 2**20); b = None; print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        used, own = measure_usage(), measure_own_usage()
        assert used.peak_bytes - own.peak_bytes >= 200 * MIB
        child.communicate("\n", timeout=30)


def test_the_cost_of_a_run_is_the_sum_over_its_processes() -> None:
    assert usage_metrics([Usage(1.5, 100, 7), Usage(2.0, 50, 0)], gpu_s=9.0) == {
        names.COST_CPU: 3.5,
        names.COST_GPU: 9.0,
        names.MEMORY_PEAK: 150.0,
        names.MEMORY_GPU_PEAK: 7.0,
    }
