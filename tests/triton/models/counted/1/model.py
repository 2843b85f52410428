import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Returns its input; a first value of -1 raises, and -2 is an error."""

    def execute(self, requests):
        return [answer(pb_utils.get_input_tensor_by_name(request, "X").as_numpy()) for request in requests]


def answer(x):
    if x[0, 0] == -1:
        raise ValueError("it is -1")
    if x[0, 0] == -2:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError("it is -2"))
    return pb_utils.InferenceResponse([pb_utils.Tensor("Y", x)])
