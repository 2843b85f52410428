import triton_python_backend_utils as pb_utils

from .helper import double


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("Y", double(request.inputs()[0].as_numpy()))])
            for request in requests
        ]
