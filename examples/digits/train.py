"""Train the demo's model: a small CNN on scikit-learn's bundled handwritten digits, written as ONNX.

    pip install torch onnx scikit-learn && python examples/digits/train.py

Every fifth digit is held back and written to `held_back.npz`; the demo classifies those. Deterministic for one torch version.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import nn

HERE = Path(__file__).parent
EPOCHS = 60


class DigitsNet(nn.Module):
    """8x8 grey images, 0..1, to ten logits: two convolutions, two dense layers, 13,706 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.dense1 = nn.Linear(128, 64)
        self.dense2 = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool2d(torch.relu(self.conv1(image)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.dense2(torch.relu(self.dense1(x.flatten(1))))


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(images scaled to 0..1 as float32 [N,1,8,8], labels [N], mask of the held-back ones)."""
    data = load_digits()
    images = (data.images / 16.0).astype(np.float32)[:, None]
    return images, data.target.astype(np.int64), np.arange(len(images)) % 5 == 0


def train(images: np.ndarray, labels: np.ndarray) -> DigitsNet:
    """The fitted network; shifts by one pixel make up for the small training set."""
    torch.manual_seed(7)
    net = DigitsNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, EPOCHS * (len(images) // 64 + 1))
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(64):
            dx, dy = torch.randint(-1, 2, (2,)).tolist()
            loss = nn.functional.cross_entropy(
                net(torch.roll(x[rows], (dx, dy), (2, 3))), y[rows], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def to_onnx(net: DigitsNet) -> onnx.ModelProto:
    """The network as an ONNX graph with `image` in, `probabilities` and `digit` out, any number of rows."""
    weights = [numpy_helper.from_array(value.numpy(), name) for name, value in net.state_dict().items()]
    nodes = []

    def node(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    x = "image"
    for name in ("conv1", "conv2"):
        x = node("Conv", [x, f"{name}.weight", f"{name}.bias"], name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        x = node("Relu", [x], f"{name}.relu")
        x = node("MaxPool", [x], f"{name}.pool", kernel_shape=[2, 2], strides=[2, 2])
    x = node("Flatten", [x], "flat")
    x = node("Gemm", [x, "dense1.weight", "dense1.bias"], "dense1", transB=1)
    x = node("Relu", [x], "dense1.relu")
    x = node("Gemm", [x, "dense2.weight", "dense2.bias"], "logits", transB=1)
    node("Softmax", [x], "probabilities", axis=1)
    node("ArgMax", [x], "digit", axis=1, keepdims=1)
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
            helper.make_tensor_value_info("digit", TensorProto.INT64, ["batch", 1]),
        ],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="penstock"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    images, labels, held_back = digits()
    net = train(images[~held_back], labels[~held_back])
    with torch.no_grad():
        right = (net(torch.from_numpy(images[held_back])).argmax(1).numpy() == labels[held_back]).mean()
    path = HERE / "models" / "digits" / "1" / "model.onnx"
    path.write_bytes(to_onnx(net).SerializeToString())
    pixels = np.rint(images[held_back] * 16).astype(np.uint8)
    np.savez_compressed(HERE / "held_back.npz", pixels=pixels, labels=labels[held_back].astype(np.uint8))
    print(f"accuracy on {held_back.sum()} held-back digits: {right:.2%}; {path.stat().st_size} bytes of ONNX")


if __name__ == "__main__":
    main()
