from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from workers.repository.model_files import ModelFile
from workers.repository.scan import scan_file, scan_repositories
from workers.repository.version import ModelFolder

DIGITS = Path(__file__).parents[2] / "examples/digits/models/digits/1/model.onnx"
UNREADABLE = Path("/proc/self/mem")


def make(folder: Path, config: str | bytes | None = None, **versions: str) -> Path:
    """A model's folder with a config.pbtxt and, by version, the name of a file (`v1="model.onnx"`)."""
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.pbtxt").write_bytes(config if isinstance(config, bytes) else config.encode())
    for version, name in versions.items():
        (folder / version[1:]).mkdir()
        if name:
            (folder / version[1:] / name).write_text(f"the bytes of {name}")
    return folder


def only(repository: Path) -> ModelFolder:
    (model,) = scan_repositories([repository])
    return model


class TestLayout:
    def test_a_model_needs_no_configuration(self, tmp_path: Path) -> None:
        make(tmp_path / "digits", v1="model.onnx")

        (version,) = only(tmp_path).versions

        assert (version.model, version.version) == ("digits", 1)
        assert version.path == tmp_path / "digits" / "1" / "model.onnx"
        assert version.folder == tmp_path / "digits"
        assert (version.config.name, version.config.backend) == ("digits", "onnxruntime")
        assert not version.config.batch_size_stated

    def test_the_configuration_is_read(self, tmp_path: Path) -> None:
        make(tmp_path / "m", 'backend: "python" max_batch_size: 8 default_model_filename: "main.py"', v1="main.py")

        (version,) = only(tmp_path).versions

        assert (version.config.max_batch_size, version.path.name) == (8, "main.py")

    def test_models_of_all_repositories_are_listed_by_name(self, tmp_path: Path) -> None:
        for repository, name in (("a", "zebra"), ("b", "ant")):
            make(tmp_path / repository / name, v1="model.onnx")

        assert [model.name for model in scan_repositories([tmp_path / "a", tmp_path / "b"])] == ["ant", "zebra"]

    def test_files_and_hidden_folders_are_no_models(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text("")
        (tmp_path / ".git").mkdir()

        assert scan_repositories([tmp_path]) == ()

    def test_links_are_followed(self, tmp_path: Path) -> None:
        target = make(tmp_path / "elsewhere" / "v7", v1="model.onnx")
        (tmp_path / "repository").mkdir()
        (tmp_path / "repository" / "digits").symlink_to(target)

        assert only(tmp_path / "repository").versions[0].model == "digits"

    def test_versions_may_have_different_files(self, tmp_path: Path) -> None:
        make(tmp_path / "m", "version_policy { all { } }", v1="model.pt", v2="model.pt2")

        assert [version.path.name for version in only(tmp_path).versions] == ["model.pt", "model.pt2"]


class TestVersions:
    @pytest.mark.parametrize(
        ("policy", "served"),
        [
            ("", [12]),
            ("version_policy { latest { num_versions: 2 } }", [3, 12]),
            ("version_policy { all { } }", [1, 3, 12]),
            ("version_policy { specific { versions: [ 3, 1 ] } }", [1, 3]),
        ],
    )
    def test_the_policy_chooses(self, tmp_path: Path, policy: str, served: list[int]) -> None:
        make(tmp_path / "m", policy, v1="model.onnx", v3="model.onnx", v12="model.onnx")

        assert [version.version for version in only(tmp_path).versions] == served

    def test_a_specific_version_that_is_missing_is_a_warning(self, tmp_path: Path) -> None:
        make(tmp_path / "m", "version_policy { specific { versions: [ 1, 2 ] } }", v1="model.onnx")

        model = only(tmp_path)

        assert [version.version for version in model.versions] == [1]
        assert model.warnings == ("version 2 is specified, but the version directory is not present",)

    def test_folders_that_are_no_versions_are_passed_over(self, tmp_path: Path) -> None:
        folder = make(tmp_path / "m", v1="model.onnx", v007="model.onnx", vbeta="model.onnx")
        for name in ("warmup", "configs", "initial_state", ".ipynb_checkpoints", "1" * 30, "٣"):
            (folder / name).mkdir()

        model = only(tmp_path)

        assert [version.version for version in model.versions] == [1]
        assert model.warnings == (
            "ignore version directory '007' which contains leading zeros in its directory name",
            f"ignore version directory '{'1' * 30}' which fails to convert to integral number",
            "ignore version directory 'beta' which fails to convert to integral number",
            "ignore version directory '٣' which fails to convert to integral number",
        )

    @pytest.mark.parametrize("versions", [{}, {"v1": "model.onnx"}])
    def test_none_left_is_tritons_error(self, tmp_path: Path, versions: dict[str, str]) -> None:
        make(tmp_path / "m", "version_policy { specific { versions: [ 9 ] } }", **versions)

        model = only(tmp_path)

        assert model.reason == "at least one version must be available under the version policy of model 'm'"
        assert model.versions == ()


class TestReasons:
    def test_a_bad_model_does_not_keep_others_from_being_served(self, tmp_path: Path) -> None:
        make(tmp_path / "bad", "max_batch_size: -1", v1="model.onnx")
        make(tmp_path / "good", v1="model.onnx")

        bad, good = scan_repositories([tmp_path])

        assert bad.reason == "config.pbtxt: 'max_batch_size' must be non-negative value for bad"
        assert len(good.versions) == 1

    def test_a_name_must_be_the_folders(self, tmp_path: Path) -> None:
        make(tmp_path / "digits", 'name: "letters"', v1="model.onnx")

        assert "unexpected directory name 'digits' for model 'letters'" in only(tmp_path).reason

    def test_a_model_in_two_repositories_is_served_from_neither(self, tmp_path: Path) -> None:
        for repository in ("a", "b"):
            make(tmp_path / repository / "m", v1="model.onnx")

        (model,) = scan_repositories([tmp_path / "a", tmp_path / "b"])

        assert model.reason.startswith("model appears in two or more repositories: ")
        assert str(tmp_path / "b" / "m") in model.reason
        assert model.versions == ()

    def test_no_backend(self, tmp_path: Path) -> None:
        make(tmp_path / "m", v1="weights.bin")

        assert only(tmp_path).reason.startswith("Could not determine backend for model 'm'")

    def test_a_configuration_over_the_limit_is_not_read_whole(self, tmp_path: Path) -> None:
        make(tmp_path / "m", b"#" * (2 << 20), v1="model.onnx")

        assert "config.pbtxt has 1048577 bytes; a model configuration has at most 1048576" in only(tmp_path).reason

    @pytest.mark.skipif(not UNREADABLE.exists(), reason="needs a file that even root cannot read from its start")
    @pytest.mark.parametrize("name", ["config.pbtxt", "1/weights"])
    def test_a_file_that_cannot_be_read(self, tmp_path: Path, name: str) -> None:
        folder = make(tmp_path / "m", v1="model.onnx")
        (folder / name).symlink_to(UNREADABLE)

        assert only(tmp_path).reason == f"'{folder}' cannot be read: Input/output error"

    def test_a_version_that_is_a_loop_of_links(self, tmp_path: Path) -> None:
        folder = make(tmp_path / "m", v1="model.onnx")
        (folder / "2").symlink_to(folder / "2")

        assert [version.version for version in only(tmp_path).versions] == [1]

    def test_a_name_that_is_not_utf8(self, tmp_path: Path) -> None:
        try:
            os.makedirs(os.fsencode(tmp_path) + b"/m\xff/1")  # noqa: PTH103 - pathlib takes no bytes
        except OSError:
            pytest.skip("this file system takes only UTF-8 names")

        model = only(tmp_path)

        assert (model.name, model.reason) == ("m\\xff", "the folder's name is not UTF-8; rename it")

    @pytest.mark.parametrize("place", ["missing", "file"])
    def test_a_repository_must_be_a_folder(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "file").write_text("")

        with pytest.raises(ConfigError, match=f"model repository '.*{place}' is not a folder"):
            scan_repositories([tmp_path / place])

    def test_a_models_folder_is_not_a_repository(self, tmp_path: Path) -> None:
        folder = make(tmp_path / "m", "", v1="model.onnx")

        with pytest.raises(ConfigError, match="is a model's folder; give the folder above it"):
            scan_repositories([folder])


class TestDigest:
    def test_is_the_same_for_the_same_files(self, tmp_path: Path) -> None:
        for repository in ("a", "b"):
            make(tmp_path / repository / "m", "max_batch_size: 4", v1="model.onnx")

        digests = {only(tmp_path / repository).versions[0].digest for repository in ("a", "b")}

        assert len(digests) == 1
        assert len(digests.pop()) == 64

    def test_tells_versions_configurations_names_and_contents_apart(self, tmp_path: Path) -> None:
        make(tmp_path / "a" / "m", v1="model.onnx")
        make(tmp_path / "b" / "m", "max_batch_size: 4", v1="model.onnx")
        (make(tmp_path / "c" / "m", v1="model.onnx") / "1" / "weights").write_text("")
        (make(tmp_path / "d" / "m", v1="model.onnx") / "1" / "model.onnx").write_text("others")
        sub = make(tmp_path / "e" / "m", v1="model.onnx") / "1" / "sub"
        sub.mkdir()
        (sub / "weights").write_text("")

        assert len({only(tmp_path / repository).versions[0].digest for repository in "abcde"}) == 5

    def test_ends_in_spite_of_links_in_circles_and_pipes(self, tmp_path: Path) -> None:
        folder = make(tmp_path / "m", v1="model.onnx")
        (folder / "1" / "back").symlink_to(folder / "1")
        os.mkfifo(folder / "1" / "pipe")

        assert len(only(tmp_path).versions[0].digest) == 64

    def test_compiled_python_does_not_change_it(self, tmp_path: Path) -> None:
        """Importing model.py must not make it another version."""
        folder = make(tmp_path / "m", v1="model.py")
        before = only(tmp_path).versions[0].digest
        (folder / "1" / "__pycache__").mkdir()
        (folder / "1" / "__pycache__" / "model.pyc").write_text("")

        assert only(tmp_path).versions[0].digest == before

    def test_has_the_files_beside_the_versions_that_a_load_reads(self, tmp_path: Path) -> None:
        folder = make(
            tmp_path / "m",
            """
            output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" } ]
            model_warmup [ { name: "w" batch_size: 1
              inputs { key: "X" value { data_type: TYPE_FP32 dims: [ 2 ] input_data_file: "x" } } } ]
            """,
            v1="model.onnx",
        )

        def digest() -> str:
            return only(tmp_path).versions[0].digest

        digests = [digest()]
        (folder / "labels.txt").write_text("cat")
        digests.append(digest())
        (folder / "labels.txt").write_text("dog")
        digests.append(digest())
        (folder / "warmup").mkdir()
        (folder / "warmup" / "x").write_bytes(bytes(8))
        digests.append(digest())
        (folder / "another").write_text("nobody reads it")

        assert len(set(digests)) == 4
        assert digest() == digests[-1]

    def test_need_not_be_made(self, tmp_path: Path) -> None:
        make(tmp_path / "m", v1="model.onnx")

        assert scan_repositories([tmp_path], digests=False)[0].versions[0].digest == ""


class TestSingleFile:
    @pytest.mark.parametrize(
        ("name", "model", "backend"),
        [
            ("digits.onnx", "digits", "onnxruntime"),
            ("net.pt", "net", "pytorch"),
            ("net.pt2", "net", "pytorch"),
            ("sentiment.py", "sentiment", "python"),
            ("NET.ONNX", "NET", "onnxruntime"),
        ],
    )
    def test_is_a_model_of_its_own(self, tmp_path: Path, name: str, model: str, backend: str) -> None:
        (tmp_path / name).write_text("x")
        (tmp_path / "other.onnx").write_text("not a part of it")

        version = scan_file(ModelFile(tmp_path / name))

        assert (version.model, version.version, version.config.backend) == (model, 1, backend)
        assert version.path == tmp_path / name
        assert not version.config.batch_size_stated

    def test_the_digest_is_of_that_file_alone(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_text("x")
        before = scan_file(ModelFile(tmp_path / "a.onnx")).digest
        (tmp_path / "b.onnx").write_text("y")

        assert scan_file(ModelFile(tmp_path / "a.onnx")).digest == before

    @pytest.mark.skipif(not UNREADABLE.exists(), reason="needs a file that even root cannot read from its start")
    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").symlink_to(UNREADABLE)

        with pytest.raises(ConfigError, match=r"m.onnx' cannot be read: Input/output error"):
            scan_file(ModelFile(tmp_path / "m.onnx"))

    @pytest.mark.timeout(10)
    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        for name in ("model", "model.onnx"):
            os.mkfifo(tmp_path / name)
            with pytest.raises(ConfigError, match=r"is not a model file|is not a file, but a pipe"):
                scan_file(ModelFile(tmp_path / name))

    @pytest.mark.parametrize(
        ("name", "renamed"),
        [
            ("net", "net.onnx"),
            ("net.pb", "net.onnx"),
            ("net.onnx.bak", "net.onnx"),
            (".onnx", "model.onnx"),
            ("v1.2", "v1.2.onnx"),
        ],
    )
    def test_a_model_with_another_suffix_gets_the_command_that_renames_it(
        self, tmp_path: Path, name: str, renamed: str
    ) -> None:
        (tmp_path / name).write_bytes(DIGITS.read_bytes())

        with pytest.raises(ConfigError, match=r"is an ONNX model, and a file's suffix says how to load it") as raised:
            scan_file(ModelFile(tmp_path / name))
        assert shlex.split(raised.value.message.rpartition(": ")[2]) == [
            "mv",
            "-n",
            str(tmp_path / name),
            str(tmp_path / renamed),
        ]

    def test_a_configuration_names_its_repository(self, tmp_path: Path) -> None:
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "config.pbtxt").write_text("max_batch_size: 4")

        with pytest.raises(ConfigError, match=f"a model's configuration; .* --model-repository {tmp_path}$"):
            scan_file(ModelFile(tmp_path / "m" / "config.pbtxt"))

    @pytest.mark.parametrize(
        ("name", "message"),
        [("model.h5", "is not a model file; known suffixes are: .onnx, .ort"), ("none.onnx", "there is no file")],
    )
    def test_refuses(self, tmp_path: Path, name: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            scan_file(ModelFile(tmp_path / name))


class TestFilesOfOtherNames:
    def test_onnx_with_external_data_may_lie_in_a_folder_of_the_files_name(self, tmp_path: Path) -> None:
        """Triton's layout for files above 2 GB."""
        folder = make(tmp_path / "m", v1="") / "1" / "model.onnx"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(DIGITS.read_bytes())
        (folder / "weights").write_text("x")

        (version,) = only(tmp_path).versions

        assert version.path == folder / "model.onnx"
        assert version.config.default_model_filename == "model.onnx"
        (folder / "weights").write_text("others")
        assert only(tmp_path).versions[0].digest != version.digest

    @pytest.mark.parametrize(
        ("name", "advice"),
        [
            (
                "digits.onnx",
                "rename 'digits.onnx' to 'model.onnx', or state default_model_filename: 'digits.onnx'; else set",
            ),
            ("MODEL.ONNX", "rename 'MODEL.ONNX' to 'model.onnx'"),
            ("model.graphdef", "'model.graphdef' is TensorFlow's: export the model to ONNX with tf2onnx"),
            ("helper.py", "model.py; set 'backend' in config.pbtxt"),
        ],
    )
    def test_a_file_that_is_called_otherwise_is_named(self, tmp_path: Path, name: str, advice: str) -> None:
        make(tmp_path / "m", v1=name)

        assert advice in only(tmp_path).reason
