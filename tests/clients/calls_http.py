"""tritonclient over HTTP, as its users call it."""

import json

import ml_dtypes
import numpy as np
import tritonclient.http as client
from running import run
from tritonclient.utils import InferenceServerException

A, B = np.array([[1, 2]], np.int32), np.array([[10, 20]], np.int32)


def connect(place, **options):
    return client.InferenceServerClient(place.http, **options)


def inputs(binary=True, a=A, b=B):
    made = [client.InferInput("A", a.shape, "INT32"), client.InferInput("B", b.shape, "INT32")]
    made[0].set_data_from_numpy(a, binary_data=binary)
    made[1].set_data_from_numpy(b, binary_data=binary)
    return made


def one(name, values, datatype, binary=True):
    made = client.InferInput(name, values.shape, datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return [made]


def refused(status, text, call, *arguments, **more):
    try:
        call(*arguments, **more)
    except InferenceServerException as error:
        assert error.status() == status, (error.status(), error.message())
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
        assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
        assert [entry["name"] for entry in triton.get_model_metadata("sum")["inputs"]] == ["A", "B"]
        assert triton.get_model_config("sum")["max_batch_size"] == 4
        assert "sum" in [entry["name"] for entry in triton.get_model_repository_index()]


def check_infer_in_all_forms(place):
    with connect(place) as triton:
        for into in (True, False):
            for out in (True, False):
                wanted = [
                    client.InferRequestedOutput("SUM", binary_data=out),
                    client.InferRequestedOutput("DIFF", binary_data=not out),
                ]
                result = triton.infer("sum", inputs(into), outputs=wanted, request_id="7", model_version="1")
                assert result.as_numpy("SUM").tolist() == [[11, 22]]
                assert result.as_numpy("DIFF").tolist() == [[-9, -18]]
                assert result.get_response()["id"] == "7"
            assert triton.infer("sum", inputs(into)).as_numpy("SUM").tolist() == [[11, 22]]


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
            if datatype != "FP16":
                got = triton.infer("types", one(datatype, array, datatype, binary=False)).as_numpy(f"OUT_{datatype}")
                assert got.tolist() == array.tolist()


def check_bfloat16(place):
    with connect(place) as triton:
        got = triton.infer("types", one("BF16", np.array([0.5, -2.0, 1.0], ml_dtypes.bfloat16), "BF16"))
        assert np.asarray(got.as_numpy("OUT_BF16"), np.float32).tolist() == [0.5, -2.0, 1.0]


def check_text(place):
    texts = np.array(["one", "zwölf", "", "日本"], np.object_)
    with connect(place) as triton:
        for binary in (True, False):
            got = triton.infer("text", one("T", texts, "BYTES", binary)).as_numpy("T_OUT")
            assert [item.decode() if isinstance(item, bytes) else item for item in got] == texts.tolist()


def check_many_at_once(place):
    with connect(place, concurrency=8) as triton:
        calls = [triton.async_infer("sum", inputs(a=A + number)) for number in range(64)]
        for number, call in enumerate(calls):
            assert call.get_result().as_numpy("SUM").tolist() == [[11 + number, 22 + number]]


def check_compression(place):
    with connect(place) as triton:
        large = one("X", np.arange(5000, dtype=np.float32), "FP32")
        for algorithm in ("gzip", "deflate"):
            result = triton.infer(
                "versions", large, request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
            )
            assert result.as_numpy("Y").shape == (5000,)


def check_classification(place):
    with connect(place) as triton:
        result = triton.infer("sum", inputs(), outputs=[client.InferRequestedOutput("SUM", class_count=2)])
        got = [item.decode() if isinstance(item, bytes) else item for item in result.as_numpy("SUM").reshape(-1)]
        assert [entry.split(":")[1] for entry in got] == ["1", "0"]
        assert float(got[0].split(":")[0]) == 22


def check_parameters_priority_and_sequences(place):
    with connect(place) as triton:
        triton.infer("sum", inputs(), parameters={"mine": 1, "text": "t", "flag": True})
        triton.infer("sum", inputs(), sequence_id=5, sequence_start=True, sequence_end=True)
        triton.infer("priority", one("X", np.array([[1, 2]], np.float32), "FP32"), priority=2, timeout=8_000_000)


def check_errors(place):
    with connect(place) as triton:
        refused("404", "Request for unknown model: 'missing' is not found", triton.infer, "missing", inputs())
        refused("404", "version 9 is not found", triton.infer, "sum", inputs(), model_version="9")
        refused("400", "expected 2 inputs but got 1", triton.infer, "sum", inputs()[:1])
        refused(
            "400",
            "data-type is 'FP32'",
            triton.infer,
            "sum",
            [*one("A", np.zeros([1, 2], np.float32), "FP32"), inputs()[1]],
        )
        refused(
            "400",
            "unexpected inference output 'W'",
            triton.infer,
            "sum",
            inputs(),
            outputs=[client.InferRequestedOutput("W")],
        )
        refused(
            "400", "batch-size must be <= 4", triton.infer, "sum", inputs(a=np.tile(A, (5, 1)), b=np.tile(B, (5, 1)))
        )
        refused(
            "500", "said so", triton.infer, "behaves", one("MODE", np.array(["error:said so"], np.object_), "BYTES")
        )
        refused("400", "requested model 'missing' is not available", triton.get_inference_statistics, "missing")


def check_statistics(place):
    with connect(place) as triton:

        def counts():
            (found,) = triton.get_inference_statistics("plain", "1")["model_stats"]
            return found["inference_count"], found["execution_count"], found["inference_stats"]["success"]["count"]

        before = counts()
        for _ in range(5):
            triton.infer("plain", one("X", np.zeros([2, 3], np.float32), "FP32"))
        assert [after - first for first, after in zip(before, counts(), strict=True)] == [5, 5, 5]
        assert len(triton.get_inference_statistics()["model_stats"]) > 5


def check_trace_and_log_settings(place):
    with connect(place) as triton:
        assert triton.get_trace_settings()["trace_level"] == ["OFF"]
        assert triton.update_trace_settings("sum", {"trace_rate": "500"})["trace_rate"] == "500"
        assert triton.update_trace_settings("sum", {"trace_rate": None})["trace_rate"] == "1000"
        assert triton.get_log_settings()["log_info"] is True
        assert triton.update_log_settings({"log_verbose_level": 1})["log_verbose_level"] == 1
        assert triton.update_log_settings({"log_verbose_level": 0})["log_verbose_level"] == 0


def check_shared_memory(place):
    import tritonclient.utils.shared_memory as shared

    key = f"/clients_{place.http.rpartition(':')[2]}"
    region = shared.create_shared_memory_region("both", key, 32)
    try:
        shared.set_shared_memory_region(region, [A, B])
        with connect(place) as triton:
            triton.register_system_shared_memory("both", key, 32)
            assert [entry["name"] for entry in triton.get_system_shared_memory_status()] == ["both"]
            given = [client.InferInput("A", A.shape, "INT32"), client.InferInput("B", B.shape, "INT32")]
            given[0].set_shared_memory("both", 8)
            given[1].set_shared_memory("both", 8, 8)
            wanted = client.InferRequestedOutput("SUM")
            wanted.set_shared_memory("both", 8, 16)
            result = triton.infer("sum", given, outputs=[wanted])
            assert result.get_output("SUM")["shape"] == [1, 2]
            assert shared.get_contents_as_numpy(region, np.int32, [1, 2], 16).tolist() == [[11, 22]]
            triton.unregister_system_shared_memory("both")
            assert triton.get_system_shared_memory_status() == []
            triton.unregister_cuda_shared_memory()
    finally:
        shared.destroy_shared_memory_region(region)


def check_loading(place):
    config = {
        "backend": "python", "max_batch_size": 2, "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [2]}],
        "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [2]}],
    }  # fmt: skip
    x = one("X", np.array([[1, 2]], np.float32), "FP32")
    with connect(place) as triton:
        triton.load_model("loadable")
        assert triton.is_model_ready("loadable")
        triton.load_model("loadable", config=json.dumps(config))
        assert triton.get_model_config("loadable")["max_batch_size"] == 2
        assert triton.infer("loadable", x).as_numpy("Y").tolist() == [[1, 2]]
        triton.unload_model("loadable")
        wait_until(lambda: not triton.is_model_ready("loadable"))
        wait_until(lambda: state_of(triton, "loadable") != "UNLOADING")
        assert state_of(triton, "loadable") in ("UNAVAILABLE", None)
        triton.load_model("loadable")
        assert triton.infer("loadable", x).as_numpy("Y").tolist() == [[1, 2]]
        refused("500", "failed to load 'missing'", triton.load_model, "missing")


def state_of(triton, model):
    (found,) = [entry.get("state") for entry in triton.get_model_repository_index() if entry["name"] == model]
    return found


def check_loading_files(place):
    code = (
        b"import triton_python_backend_utils as u\n"
        b"class TritonPythonModel:\n"
        b"    def execute(self, requests):\n"
        b"        return [u.InferenceResponse([u.Tensor('Y', r.inputs()[0].as_numpy() * 3)]) for r in requests]\n"
    )
    config = {
        "backend": "python", "max_batch_size": 2, "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [2]}],
        "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [2]}],
    }  # fmt: skip
    with connect(place) as triton:
        triton.load_model("loadable", config=json.dumps(config), files={"file:1/model.py": code})
        got = triton.infer("loadable", one("X", np.array([[1, 2]], np.float32), "FP32")).as_numpy("Y")
        assert got.tolist() == [[3, 6]]
        triton.load_model("loadable")


def wait_until(check, within=20.0):
    import time

    end = time.monotonic() + within
    while not check():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


if __name__ == "__main__":
    run(globals())
