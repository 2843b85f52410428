"""tritonclient over gRPC, as its users call it."""

import json
import queue

import ml_dtypes
import numpy as np
import tritonclient.grpc as client
from calls_http import wait_until
from running import run
from tritonclient.utils import InferenceServerException

A, B = np.array([[1, 2]], np.int32), np.array([[10, 20]], np.int32)


def connect(place, **options):
    return client.InferenceServerClient(place.grpc, **options)


def inputs(a=A, b=B):
    made = [client.InferInput("A", a.shape, "INT32"), client.InferInput("B", b.shape, "INT32")]
    made[0].set_data_from_numpy(a)
    made[1].set_data_from_numpy(b)
    return made


def one(name, values, datatype):
    made = client.InferInput(name, values.shape, datatype)
    made.set_data_from_numpy(values)
    return [made]


def mode(text):
    return one("MODE", np.array([text], np.object_), "BYTES")


def refused(status, text, call, *arguments, **more):
    try:
        call(*arguments, **more)
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{status}", (error.status(), error.message())
        assert text in error.message(), error.message()
        return
    raise AssertionError("it was not refused")


def check_health_and_metadata(place):
    with connect(place) as triton:
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.is_model_ready("sum")
        assert triton.is_model_ready("versions", "3")
        assert not triton.is_model_ready("missing")
        assert "binary_tensor_data" in triton.get_server_metadata().extensions
        assert [entry.name for entry in triton.get_model_metadata("sum").inputs] == ["A", "B"]
        assert triton.get_model_metadata("sum", as_json=True)["inputs"][0]["shape"] == ["-1", "2"]
        assert triton.get_model_config("sum").config.max_batch_size == 4
        assert "sum" in [entry.name for entry in triton.get_model_repository_index().models]


def check_infer(place):
    with connect(place) as triton:
        result = triton.infer("sum", inputs(), request_id="7", model_version="1")
        assert result.as_numpy("SUM").tolist() == [[11, 22]]
        assert result.get_response().id == "7"
        only = triton.infer("sum", inputs(), outputs=[client.InferRequestedOutput("DIFF")])
        assert only.as_numpy("DIFF").tolist() == [[-9, -18]]
        assert only.as_numpy("SUM") is None


def check_every_datatype(place):
    values = {
        "BOOL": np.array([True, False]), "UINT8": np.array([0, 255], np.uint8),
        "UINT16": np.array([1, 65535], np.uint16),
        "UINT32": np.array([1, 2**32 - 1], np.uint32),
        "UINT64": np.array([1, 2**64 - 1], np.uint64),
        "INT8": np.array([-128, 1], np.int8),
        "INT16": np.array([-32768, 1], np.int16),
        "INT32": np.array([-(2**31), 1], np.int32), "INT64": np.array([-(2**63), 1], np.int64),
        "FP16": np.array([0.5, -2], np.float16),
        "FP32": np.array([0.5, -2], np.float32), "FP64": np.array([0.1, -2]),
    }  # fmt: skip
    with connect(place) as triton:
        for datatype, array in values.items():
            got = triton.infer("types", one(datatype, array, datatype)).as_numpy(f"OUT_{datatype}")
            assert got.dtype == array.dtype
            assert got.tolist() == array.tolist()
        got = triton.infer("types", one("BF16", np.array([0.5, -2.0], ml_dtypes.bfloat16), "BF16")).as_numpy("OUT_BF16")
        assert np.asarray(got, np.float32).tolist() == [0.5, -2.0]
        texts = np.array(["one", "zwölf", ""], np.object_)
        got = triton.infer("text", one("T", texts, "BYTES")).as_numpy("T_OUT")
        assert [item.decode() for item in got] == texts.tolist()


def check_async_infer(place):
    answers = queue.Queue()
    with connect(place) as triton:
        for number in range(64):
            triton.async_infer(
                "sum", inputs(A + number), lambda result, error: answers.put((result, error)), request_id=str(number)
            )
        for _ in range(64):
            result, error = answers.get(timeout=20)
            assert error is None, error
            number = int(result.get_response().id)
            assert result.as_numpy("SUM").tolist() == [[11 + number, 22 + number]]


def check_a_stream(place):
    answers = queue.Queue()
    with connect(place) as triton:
        triton.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(16):
            triton.async_stream_infer(
                "sum", inputs(A + number), request_id=str(number), enable_empty_final_response=True
            )
        for number in range(16):
            result, error = answers.get(timeout=20)
            assert error is None, error
            response = result.get_response()
            assert response.id == str(number)
            assert response.parameters["triton_final_response"].bool_param
            assert result.as_numpy("SUM").tolist() == [[11 + number, 22 + number]]
        triton.async_stream_infer("missing", inputs(), request_id="bad")
        result, error = answers.get(timeout=20)
        assert result is None
        assert "Request for unknown model: 'missing' is not found" in error.message()
        triton.async_stream_infer("sum", inputs(), request_id="good")
        result, error = answers.get(timeout=20)
        assert error is None, error
        assert result.get_response().id == "good"
        triton.stop_stream()


def check_a_stream_that_ends_with_an_error(place):
    answers = queue.Queue()
    with connect(place) as triton:
        triton.start_stream(lambda result, error: answers.put((result, error)), headers={"triton_grpc_error": "true"})
        triton.async_stream_infer("missing", inputs(), request_id="bad")
        _, error = answers.get(timeout=20)
        assert "unknown model" in error.message()
        triton.stop_stream()


def check_compression(place):
    with connect(place) as triton:
        for algorithm in ("gzip", "deflate"):
            result = triton.infer(
                "versions", one("X", np.arange(5000, dtype=np.float32), "FP32"), compression_algorithm=algorithm
            )
            assert result.as_numpy("Y").shape == (5000,)


def check_classification(place):
    with connect(place) as triton:
        result = triton.infer("sum", inputs(), outputs=[client.InferRequestedOutput("SUM", class_count=2)])
        got = [item.decode() for item in result.as_numpy("SUM").reshape(-1)]
        assert [entry.split(":")[1] for entry in got] == ["1", "0"]


def check_parameters_priority_and_sequences(place):
    with connect(place) as triton:
        triton.infer("sum", inputs(), parameters={"mine": 1, "text": "t", "flag": True})
        triton.infer("sum", inputs(), sequence_id=5, sequence_start=True, sequence_end=True)
        triton.infer("priority", one("X", np.array([[1, 2]], np.float32), "FP32"), priority=2, timeout=8_000_000)


def check_errors(place):
    with connect(place) as triton:
        refused("NOT_FOUND", "Request for unknown model: 'missing' is not found", triton.infer, "missing", inputs())
        refused("NOT_FOUND", "version 9 is not found", triton.infer, "sum", inputs(), model_version="9")
        refused("INVALID_ARGUMENT", "expected 2 inputs but got 1", triton.infer, "sum", inputs()[:1])
        refused(
            "INVALID_ARGUMENT",
            "unexpected inference output 'W'",
            triton.infer,
            "sum",
            inputs(),
            outputs=[client.InferRequestedOutput("W")],
        )
        refused("INTERNAL", "said so", triton.infer, "behaves", mode("error:said so"))
        refused("UNAVAILABLE", "said so", triton.infer, "behaves", mode("error_code:UNAVAILABLE:said so"))
        refused("NOT_FOUND", "missing", triton.get_model_metadata, "missing")
        refused(
            "INVALID_ARGUMENT", "requested model 'missing' is not available", triton.get_inference_statistics, "missing"
        )


def check_timeouts(place):
    with connect(place) as triton:
        refused("DEADLINE_EXCEEDED", "", triton.infer, "sum", inputs(), client_timeout=1e-5)
        assert triton.infer("sum", inputs(), client_timeout=20).as_numpy("SUM").tolist() == [[11, 22]]


def check_statistics(place):
    with connect(place) as triton:

        def counts():
            (found,) = triton.get_inference_statistics("noinputs", "1").model_stats
            return found.inference_count, found.execution_count, found.inference_stats.success.count

        before = counts()
        for _ in range(5):
            triton.infer("noinputs", [])
        assert [after - first for first, after in zip(before, counts(), strict=True)] == [5, 5, 5]


def check_trace_and_log_settings(place):
    with connect(place) as triton:
        assert list(triton.get_trace_settings().settings["trace_level"].value) == ["OFF"]
        changed = triton.update_trace_settings("sum", {"trace_rate": "500"})
        assert list(changed.settings["trace_rate"].value) == ["500"]
        cleared = triton.update_trace_settings("sum", {"trace_rate": None})
        assert list(cleared.settings["trace_rate"].value) == ["1000"]
        assert triton.get_log_settings().settings["log_info"].bool_param
        assert triton.update_log_settings({"log_verbose_level": 1}).settings["log_verbose_level"].uint32_param == 1
        triton.update_log_settings({"log_verbose_level": 0})


def check_shared_memory(place):
    import tritonclient.utils.shared_memory as shared

    key = f"/clients_{place.grpc.rpartition(':')[2]}"
    region = shared.create_shared_memory_region("rpc", key, 32)
    try:
        shared.set_shared_memory_region(region, [A, B])
        with connect(place) as triton:
            triton.register_system_shared_memory("rpc", key, 32)
            assert list(triton.get_system_shared_memory_status().regions) == ["rpc"]
            given = [client.InferInput("A", A.shape, "INT32"), client.InferInput("B", B.shape, "INT32")]
            given[0].set_shared_memory("rpc", 8)
            given[1].set_shared_memory("rpc", 8, 8)
            wanted = client.InferRequestedOutput("SUM")
            wanted.set_shared_memory("rpc", 8, 16)
            triton.infer("sum", given, outputs=[wanted])
            assert shared.get_contents_as_numpy(region, np.int32, [1, 2], 16).tolist() == [[11, 22]]
            triton.unregister_system_shared_memory("rpc")
            assert not triton.get_system_shared_memory_status().regions
    finally:
        shared.destroy_shared_memory_region(region)


def check_loading(place):
    config = {
        "backend": "python", "max_batch_size": 2, "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [2]}],
        "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [2]}],
    }  # fmt: skip
    x = one("X", np.array([[1, 2]], np.float32), "FP32")
    with connect(place) as triton:
        triton.load_model("loadable", config=json.dumps(config))
        assert triton.get_model_config("loadable").config.max_batch_size == 2
        assert triton.infer("loadable", x).as_numpy("Y").tolist() == [[1, 2]]
        triton.unload_model("loadable")
        wait_until(lambda: not triton.is_model_ready("loadable"))
        triton.load_model("loadable")
        assert triton.infer("loadable", x).as_numpy("Y").tolist() == [[1, 2]]


if __name__ == "__main__":
    run(globals())
