"""tritonclient's asyncio client over gRPC."""

import asyncio

import numpy as np
import tritonclient.grpc.aio as client
from running import run
from tritonclient.utils import InferenceServerException

A, B = np.array([[1, 2]], np.int32), np.array([[10, 20]], np.int32)


def inputs(a=A):
    made = [client.InferInput("A", A.shape, "INT32"), client.InferInput("B", B.shape, "INT32")]
    made[0].set_data_from_numpy(a)
    made[1].set_data_from_numpy(B)
    return made


async def check_calls(place):
    async with client.InferenceServerClient(place.grpc) as triton:
        assert await triton.is_server_live()
        assert await triton.is_server_ready()
        assert await triton.is_model_ready("sum")
        assert (await triton.get_model_metadata("sum")).platform == "python"
        assert (await triton.get_model_config("sum")).config.max_batch_size == 4
        assert (await triton.get_model_repository_index()).models
        assert (await triton.get_inference_statistics("sum")).model_stats[0].name == "sum"
        assert (await triton.infer("sum", inputs(), request_id="7")).as_numpy("SUM").tolist() == [[11, 22]]


async def check_many_at_once(place):
    async with client.InferenceServerClient(place.grpc) as triton:
        results = await asyncio.gather(*(triton.infer("sum", inputs(A + number)) for number in range(64)))
        assert [result.as_numpy("SUM")[0, 0] for result in results] == [11 + number for number in range(64)]


async def check_a_stream(place):
    async def requests():
        for number in range(8):
            yield {"model_name": "sum", "inputs": inputs(A + number), "request_id": str(number)}
        yield {"model_name": "missing", "inputs": inputs(), "request_id": "bad"}

    async with client.InferenceServerClient(place.grpc) as triton:
        heard = [answer async for answer in triton.stream_infer(requests())]
        assert [result.get_response().id for result, error in heard if error is None] == [
            str(number) for number in range(8)
        ]
        assert "unknown model" in heard[-1][1].message()


async def check_a_cancelled_call(place):
    async with client.InferenceServerClient(place.grpc) as triton:
        task = asyncio.create_task(triton.infer("sum", inputs()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert (await triton.infer("sum", inputs())).as_numpy("SUM").tolist() == [[11, 22]]


async def check_errors(place):
    async with client.InferenceServerClient(place.grpc) as triton:
        try:
            await triton.infer("missing", inputs())
        except InferenceServerException as error:
            assert error.status() == "StatusCode.NOT_FOUND"
            assert "unknown model: 'missing'" in error.message()
            return
    raise AssertionError("it was not refused")


if __name__ == "__main__":
    run(globals())
