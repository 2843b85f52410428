import numpy as np
import triton_python_backend_utils as pb_utils

HALF = np.array([0.5], np.float32)
TEXT = np.array([b"text"], np.object_)


class OwnError(Exception):
    pass


class TritonPythonModel:
    """Does what the input says."""

    def execute(self, requests):
        mode = requests[0].inputs()[0].as_numpy()[0].decode()
        return globals()[mode.split(":")[0]](*mode.split(":")[1:])


def both(y=HALF, z=TEXT):
    return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", y), pb_utils.Tensor("Z", z)])]


def raises(text):
    raise ValueError(text)


def raises_nothing():
    raise ValueError


def raises_own(text):
    raise OwnError(text)


def raises_lines():
    raise ValueError("first\nsecond")


def raises_chained():
    try:
        {}["key"]
    except KeyError as error:
        raise RuntimeError("while looking") from error


def raises_triton(text):
    raise pb_utils.TritonModelException(text)


def error(text):
    return [pb_utils.InferenceResponse(error=pb_utils.TritonError(text))]


def error_code(code, text):
    return [pb_utils.InferenceResponse(error=pb_utils.TritonError(text, getattr(pb_utils.TritonError, code)))]


def error_empty():
    return [pb_utils.InferenceResponse(error=pb_utils.TritonError(""))]


def error_with_outputs():
    return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", HALF)], error=pb_utils.TritonError("both"))]


def none():
    return None


def nothing():
    return []


def two():
    return both() + both()


def no_list():
    return both()[0]


def wrong_kind():
    return ["text"]


def only_y():
    return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", HALF)])]


def no_outputs():
    return [pb_utils.InferenceResponse([])]


def unknown_output():
    return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", HALF), pb_utils.Tensor("W", HALF)])]


def twice():
    return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", HALF), pb_utils.Tensor("Y", HALF + 1)])]


def reversed_order():
    return [pb_utils.InferenceResponse([pb_utils.Tensor("Z", TEXT), pb_utils.Tensor("Y", HALF)])]


def wrong_dtype():
    return both(np.array([1, 2], np.int64))


def wrong_shape():
    return both(z=np.array([b"a", b"b"], np.object_))


def scalar():
    return both(np.array(1.5, np.float32))


def empty():
    return both(np.zeros([0], np.float32))


def values(*texts):
    return both(np.array([float(text) for text in texts], np.float32))


def doubles(*texts):
    return both(np.array([float(text) for text in texts], np.float64))


def not_utf8():
    return both(z=np.array([b"\xff\xfe"], np.object_))


def control():
    return both(z=np.array([b'\x00\x1f"\\/\x7f\xc3\xa4'], np.object_))


def strings():
    return both(z=np.array(["plain"], np.object_))


def strided():
    return both(np.arange(6, dtype=np.float32)[::2])
