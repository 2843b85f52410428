"""perf_analyzer: what it asks a server for, step by step, and the program itself, which old wheels of tritonclient carry."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http
from running import run

PROGRAM = Path(sys.prefix) / "perf_analyzer"
WINDOW_S = 0.5


def inputs(client):
    made = [client.InferInput(name, [1, 2], "INT32") for name in "AB"]
    for entry in made:
        entry.set_data_from_numpy(np.ones([1, 2], np.int32))
    return made


def document(answer):
    return (
        answer
        if isinstance(answer, dict)
        else __import__("google.protobuf.json_format", fromlist=["x"]).MessageToDict(
            answer, preserving_proto_field_name=True
        )
    )


def sequence(client, triton):
    """Metadata, configuration, windows between two statistics, settings: as perf_analyzer asks for them."""
    assert document(triton.get_server_metadata())["name"]
    assert triton.is_model_ready("sum")
    metadata = document(triton.get_model_metadata("sum"))
    assert [entry["name"] for entry in metadata["inputs"]] == ["A", "B"]
    config = document(triton.get_model_config("sum"))
    config = config.get("config", config)
    assert config["max_batch_size"] == 4
    assert "dynamic_batching" in config
    assert not config.get("model_transaction_policy", {}).get("decoupled", False)
    for _ in range(3):
        before, sent, end = counts(triton), 0, time.monotonic() + WINDOW_S
        while time.monotonic() < end:
            assert triton.infer("sum", inputs(client), request_id=str(sent)).as_numpy("SUM").tolist() == [[2, 2]]
            sent += 1
        after = counts(triton)
        assert {key: after[key] - before[key] for key in ("inferences", "success")} == {
            "inferences": sent,
            "success": sent,
        }
        assert 0 < after["executions"] - before["executions"] <= sent
        assert all(after[key] > before[key] for key in ("queue", "compute_infer"))
    triton.get_trace_settings()
    triton.get_system_shared_memory_status()


def counts(triton):
    (found,) = document(triton.get_inference_statistics("sum"))["model_stats"]
    times = found["inference_stats"]
    return {
        "inferences": int(found["inference_count"]), "executions": int(found["execution_count"]),
        "success": int(times["success"]["count"]), "queue": int(times["queue"]["ns"]),
        "compute_infer": int(times["compute_infer"]["ns"]),
    }  # fmt: skip


def check_the_sequence_over_http(place):
    with tritonclient.http.InferenceServerClient(place.http) as triton:
        sequence(tritonclient.http, triton)


def check_the_sequence_over_grpc(place):
    with tritonclient.grpc.InferenceServerClient(place.grpc) as triton:
        sequence(tritonclient.grpc, triton)


def check_the_program_over_http(place):
    analyze("-i", "http", "-u", place.http)


def check_the_program_over_http_as_json(place):
    analyze("-i", "http", "-u", place.http, "--input-tensor-format", "json", "--output-tensor-format", "json")


def check_the_program_over_grpc(place):
    analyze("-i", "grpc", "-u", place.grpc)


def check_the_program_over_grpc_streams(place):
    analyze("-i", "grpc", "-u", place.grpc, "--streaming", "--async")


def check_the_program_with_shared_memory(place):
    analyze("-i", "grpc", "-u", place.grpc, "--shared-memory", "system")


def analyze(*arguments):
    """Run it for a moment: what it counts at the server must be what it sent."""
    libraries = [str(path) for path in Path(sys.prefix).glob("lib/python*/site-packages/nvidia/cuda_runtime/lib")]
    done = subprocess.run(
        [PROGRAM, "-m", "sum", "--measurement-mode", "count_windows", "--measurement-request-count", "20", "-s", "90",
         "-p", "500", "--concurrency-range", "2", *arguments],
        capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"LD_LIBRARY_PATH": ":".join(libraries)},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    client = re.search(r"Client:\s+Request count: (\d+)", said)
    server = re.search(
        r"Server:\s+Inference count: (\d+)\s+Execution count: (\d+)\s+Successful request count: (\d+)", said
    )
    assert client is not None, said
    assert server is not None, said
    print("perf_analyzer", *arguments, f"client {client[1]}, server {server[1]}, {server[2]} executions")
    assert int(client[1]) > 0
    assert abs(int(client[1]) - int(server[3])) <= 8, said  # requests under way when a window ends


if __name__ == "__main__":
    run(globals())
