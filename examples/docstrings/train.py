"""Train the example's model: sentence vectors by latent semantic analysis, as one ONNX graph from text to vector.

    pip install scikit-learn skl2onnx && python examples/docstrings/train.py

Words are weighted by TF-IDF and projected onto the strongest directions of the data set that `collect.py` gathers, so that texts on
the same subject have nearby vectors of length 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from collect import paragraphs
from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

HERE = Path(__file__).parent
WORDS, SIZE = 3000, 48


def main() -> None:
    texts = [paragraph.text for paragraph in paragraphs()]
    # Case is kept: ONNX' lower-casing needs a locale that small containers do not have.
    words = TfidfVectorizer(max_features=WORDS, lowercase=False, token_pattern=r"[a-zA-Z]{2,}", stop_words="english")
    pipeline = make_pipeline(words, TruncatedSVD(SIZE, random_state=0), Normalizer())
    vectors = pipeline.fit_transform(texts)
    model = to_onnx(pipeline, initial_types=[("text", StringTensorType([None, 1]))], target_opset=17)
    model.graph.output[0].name = "vector"
    model.graph.node[-1].output[0] = "vector"
    path = HERE / "models" / "docstrings" / "1" / "model.onnx"
    path.write_bytes(model.SerializeToString())
    explained = pipeline[1].explained_variance_ratio_.sum()
    print(f"{len(texts):,} paragraphs, {np.shape(vectors)[1]} numbers each, {explained:.0%} of the variance; {path}")


if __name__ == "__main__":
    main()
