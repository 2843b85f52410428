"""KServe's client, over REST and gRPC."""

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from running import run

A, B = np.array([[1, 2]], np.int32), np.array([[10, 20]], np.int32)


def request(binary):
    inputs = [InferInput("A", [1, 2], "INT32"), InferInput("B", [1, 2], "INT32")]
    inputs[0].set_data_from_numpy(A, binary_data=binary)
    inputs[1].set_data_from_numpy(B, binary_data=binary)
    return InferRequest(model_name="sum", infer_inputs=inputs, request_id="7")


async def check_rest(place):
    base = f"http://{place.http}"
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(base)
        assert await client.is_server_ready(base)
        assert await client.is_model_ready(base, "sum")
        for binary in (False, True):
            answer = await client.infer(base, request(binary), model_name="sum")
            assert answer.id == "7"
            assert answer.outputs[0].name == "SUM"
            assert answer.outputs[0].as_numpy().tolist() == [[11, 22]]


async def check_rest_errors(place):
    import httpx

    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        try:
            await client.infer(f"http://{place.http}", request(binary=False), model_name="missing")
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 404
            return
    raise AssertionError("it was not refused")


async def check_grpc(place):
    async with InferenceGRPCClient(place.grpc) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("sum")
        answer = await client.infer(request(binary=True))
        assert answer.id == "7"
        assert answer.outputs[0].as_numpy().tolist() == [[11, 22]]
        plain = request(binary=False)
        assert (await client.infer(plain)).outputs[0].as_numpy().tolist() == [[11, 22]]


async def check_grpc_errors(place):
    import grpc

    made = request(binary=True)
    made.model_name = "missing"
    async with InferenceGRPCClient(place.grpc) as client:
        try:
            await client.infer(made)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND
            return
    raise AssertionError("it was not refused")


if __name__ == "__main__":
    run(globals())
