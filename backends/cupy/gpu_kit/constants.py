"""Constants of the device that the cost model in ``plan.py`` asks for, each measured alone.

A line of JSON each, as it ends: the grid's barrier, 16-byte loads from the L2 cache of what all
blocks read, from memory and from shared memory, what a launch and a matrix product cost the host.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import cupy
import numpy as np
from gru_xp_cupy.sources import OPTIONS, source

from gru_xp.bench import clocks

THREADS = 256
ROUNDS = 400
SAMPLES = 7

KERNELS = """
using gru_xp::arrive;
using gru_xp::wait;

extern "C" __global__ void __launch_bounds__(256, 1) barriers(unsigned* arrived, int rounds) {
    for (int round = 0; round < rounds; ++round) {
        arrive(arrived);
        wait(arrived, gridDim.x, round + 1);
    }
}

// Every block reads all of `data`, 16 bytes a load and eight loads at a time.
extern "C" __global__ void __launch_bounds__(256, 1) reads(const uint4* data, int count,
                                                           int rounds, unsigned* sink) {
    unsigned sum = 0;
    for (int round = 0; round < rounds; ++round)
        for (int at = threadIdx.x; at < count; at += 8 * 256) {
            uint4 x[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i] = __ldcg(data + at + i * 256);
#pragma unroll
            for (int i = 0; i < 8; ++i) sum += x[i].x ^ x[i].y ^ x[i].z ^ x[i].w;
        }
    if (sum == 12345u) *sink = sum;
}

// The same of rows that have `row` times 16 bytes: a warp loads 64 bytes of each of 8 rows.
extern "C" __global__ void __launch_bounds__(256, 1)
    reads_of_rows(const uint4* data, int rows, int row, int rounds, unsigned* sink) {
    const int lane = threadIdx.x % 32;
    unsigned sum = 0;
    for (int round = 0; round < rounds; ++round)
        for (int first = threadIdx.x / 32 * 8; first < rows; first += 64) {
            const uint4* from = data + (first + lane / 4) * row + lane % 4;
            for (int at = 0; at < row; at += 8 * 4) {
                uint4 x[8];
#pragma unroll
                for (int i = 0; i < 8; ++i) x[i] = __ldcg(from + at + i * 4);
#pragma unroll
                for (int i = 0; i < 8; ++i) sum += x[i].x ^ x[i].y ^ x[i].z ^ x[i].w;
            }
        }
    if (sum == 12345u) *sink = sum;
}

// One thread follows addresses: the time of a load that waits for the one before it.
extern "C" __global__ void chain(const unsigned* next, int rounds, unsigned* sink) {
    unsigned at = 0;
    for (int round = 0; round < rounds; ++round) at = __ldcg(next + at);
    *sink = at;
}

extern "C" __global__ void __launch_bounds__(256, 1) shared_reads(int rounds, unsigned* sink) {
    uint4* memory = gru_xp::shared_memory();
    for (int i = threadIdx.x; i < 2048; i += 256) memory[i] = {1u, 2u, 3u, 4u};
    __syncthreads();
    unsigned sum = 0;
    for (int round = 0; round < rounds; ++round)
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            // Sixteen bytes of a lane after those of the one before it: no bank has two to serve.
            const uint4 x = memory[(i * 256 + threadIdx.x + round) % 2048];
            sum += x.x ^ x.y ^ x.z ^ x.w;
        }
    if (sum == 12345u) *sink = sum;
}

extern "C" __global__ void nothing(const float* a, const float* b, float* c, int n) {}
"""


def tell(name: str, value: float, unit: str, **more: Any) -> None:
    """Print one result."""
    told = {"what": "constant", "name": name, "value": round(value, 3), "unit": unit, **more}
    print(json.dumps(told), flush=True)


def seconds(run: Callable[[], Any], /) -> float:
    """Return the median seconds between events around a call, after one to warm up."""
    run()
    return median(clocks.cupy(run, 1) for _ in range(SAMPLES))


def host_seconds(run: Callable[[], Any], count: int = 500, /) -> float:
    """Return the seconds that a call which only queues work takes the host."""
    run()
    cupy.cuda.Device().synchronize()
    start = time.perf_counter()
    for _ in range(count):
        run()
    spent = time.perf_counter() - start
    cupy.cuda.Device().synchronize()
    return spent / count


def main() -> None:
    """Measure all."""
    device = cupy.cuda.Device()
    properties = cupy.cuda.runtime.getDeviceProperties(device.id)
    attributes = {key: int(value) for key, value in device.attributes.items()}
    told = {
        "what": "device",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "name": properties["name"].decode(),
        "compute_capability": device.compute_capability,
        "driver_cuda": cupy.cuda.runtime.driverGetVersion(),
        "cuda_runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
        "multiprocessors": attributes["MultiProcessorCount"],
        "shared_bytes": attributes["MaxSharedMemoryPerBlockOptin"],
        "l2_bytes": attributes["L2CacheSize"],
    }
    print(json.dumps(told), flush=True)
    count = attributes["MultiProcessorCount"]
    module = cupy.RawModule(
        code=source("grid.cuh") + KERNELS, options=OPTIONS, enable_cooperative_groups=True
    )

    kernel = module.get_function("barriers")
    for blocks in (1, count // 4, count // 2, count):

        def barriers(rounds: int, blocks: int = blocks) -> None:
            arrived = cupy.zeros(1, np.uint32)
            kernel((blocks,), (THREADS,), (arrived, np.int32(rounds)))

        few, many = (seconds(lambda n=n: barriers(n)) for n in (ROUNDS // 4, ROUNDS))
        tell("barrier", 1e6 * (many - few) / (ROUNDS - ROUNDS // 4), "us", blocks=blocks)

    plain = cupy.RawModule(code=source("grid.cuh") + KERNELS, options=OPTIONS)
    reads, sink = plain.get_function("reads"), cupy.zeros(1, np.uint32)
    for kib in (32, 128, 256, 1024, 4096):
        data = cupy.zeros((kib << 10) // 16 * 4, np.uint32)
        rounds = max(2, 8192 // kib)

        def read(data: Any = data, kib: int = kib, rounds: int = rounds) -> None:
            arguments = (data, np.int32((kib << 10) // 16), np.int32(rounds), sink)
            reads((count,), (THREADS,), arguments)

        tell("l2", count * (kib << 10) * rounds / seconds(read) / 1e12, "TB/s", kib=kib)

    reads_of_rows, rows = plain.get_function("reads_of_rows"), 64
    for kib in (256, 1024):
        data = cupy.zeros((kib << 10) // 16 * 4, np.uint32)
        rounds = 8192 // kib

        def read_rows(data: Any = data, kib: int = kib, rounds: int = rounds) -> None:
            numbers = (np.int32(each) for each in (rows, (kib << 10) // 16 // rows, rounds))
            reads_of_rows((count,), (THREADS,), (data, *numbers, sink))

        spent = seconds(read_rows)
        tell("l2 of rows", count * (kib << 10) * rounds / spent / 1e12, "TB/s", kib=kib)

    big = cupy.zeros(1 << 26, np.uint32)
    spent = seconds(big.copy)
    tell("memory", 2 * big.nbytes / spent / 1e12, "TB/s")
    del big

    length = 1 << 16
    order = np.random.default_rng(0).permutation(length).astype(np.uint32)
    follow = np.empty(length, np.uint32)
    follow[order] = np.roll(order, -1)
    chained, chain = cupy.asarray(follow), plain.get_function("chain")
    spent = seconds(lambda: chain((1,), (1,), (chained, np.int32(20000), sink)))
    tell("l2 latency", 1e9 * spent / 20000, "ns")

    shared = plain.get_function("shared_reads")
    spent = seconds(lambda: shared((count,), (THREADS,), (np.int32(1000), sink), shared_mem=32768))
    tell("shared memory", 1000 * 8 * THREADS * 16 / spent / 1e9, "GB/s a multiprocessor")

    nothing = plain.get_function("nothing")
    arguments = (sink, sink, sink, np.int32(1))
    tell("launch", 1e6 * host_seconds(lambda: nothing((1,), (THREADS,), arguments)), "us host")
    for dtype in (np.float16, np.float32):
        a, b, c = (
            cupy.zeros((16, 64), dtype),
            cupy.zeros((64, 192), dtype),
            cupy.empty((16, 192), dtype),
        )
        spent = host_seconds(lambda a=a, b=b, c=c: cupy.matmul(a, b, out=c))
        tell("matmul", 1e6 * spent, "us host", dtype=np.dtype(dtype).name)


if __name__ == "__main__":
    main()
