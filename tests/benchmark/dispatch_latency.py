"""How long one image waits for a device that is free, over real gRPC on loopback, with simulated engines.

Run: TURBOFLEET_BIN_DIR=build/dev/bin TURBOFLEET_STUB_DIR=build/dev/python dispatch_latency.py
"""

import pathlib
import random
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
from cluster import Cluster, image_service_pb2  # noqa: E402

IMAGE_MS = 5.0
WORKERS = 2
CALLS = 1_000
GAP_CALLS = 40


def call(cluster):
    """The milliseconds of one call beyond those of the device, and those in the coordinator's queue."""
    request = image_service_pb2.GenerateImagesRequest(prompts=["x"], count=1,
                                                      format=image_service_pb2.IMAGE_FORMAT_RAW)
    begin = time.perf_counter()
    image = [event.image for event in cluster.images().GenerateImages(request, timeout=60)][-1]
    return (time.perf_counter() - begin) * 1e3 - IMAGE_MS, image.times.queue.ToNanoseconds() / 1e6


def report(name, samples):
    for column, what in enumerate(["beyond the device", "in the queue"]):
        ordered = sorted(sample[column] for sample in samples)
        print(f"{name:34} {what:18} p50 {ordered[len(ordered) // 2]:7.2f} ms  "
              f"p99 {ordered[int(len(ordered) * 0.99)]:7.2f} ms  of {len(ordered)}", flush=True)


def main():
    pause = threading.Event()
    with Cluster(workers=WORKERS, worker_arguments=["--simulated", f"image_time={IMAGE_MS}ms"]) as cluster:
        for _ in range(50):
            call(cluster)
        report("idle cluster", [call(cluster) for _ in range(CALLS)])
        samples = []
        for _ in range(GAP_CALLS):
            pause.wait(random.uniform(1.1, 1.6))
            samples.append(call(cluster))
        report("after 1.1-1.6 s of silence", samples)


if __name__ == "__main__":
    main()
