"""tritonclient over TLS, both protocols, with a certificate of our own authority."""

import gevent.ssl
import numpy as np
import tritonclient.grpc
import tritonclient.http
from running import run

X = np.array([1, 2], np.float32)


def inputs(client):
    made = client.InferInput("X", [2], "FP32")
    made.set_data_from_numpy(X)
    return [made]


def check_http(place):
    context = lambda: gevent.ssl.create_default_context(cafile=place.root)  # noqa: E731
    with tritonclient.http.InferenceServerClient(place.http, ssl=True, ssl_context_factory=context) as triton:
        assert triton.is_server_live()
        assert triton.infer("versions", inputs(tritonclient.http)).as_numpy("Y").shape == (2,)


def check_grpc(place):
    with tritonclient.grpc.InferenceServerClient(place.grpc, ssl=True, root_certificates=place.root) as triton:
        assert triton.is_server_live()
        assert triton.infer("versions", inputs(tritonclient.grpc)).as_numpy("Y").shape == (2,)


if __name__ == "__main__":
    run(globals())
